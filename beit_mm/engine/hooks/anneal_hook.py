"""Annealing of an attribute of the model, such as the tokenizer's temperature."""

import math

from mmengine.hooks import Hook

from beit_mm.errors import UserError
from beit_mm.models.inspection import unwrap
from beit_mm.registry import HOOKS


@HOOKS.register_module()
class AnnealHook(Hook):
    """Moves a number of the model from start to end along half a cosine, and logs it under its name.

    The value depends on the iteration alone, so a resumed run continues where it was.

    Args:
        attribute: name of the attribute.
        start, end: its first and last value.
        num_iters: iterations until it reaches the end, where it stays; at least 1.

    Raises:
        UserError: If num_iters is below 1, or, before the first step, if the model has no such attribute.
    """

    def __init__(self, attribute: str, start: float, end: float, num_iters: int):
        if num_iters < 1:
            raise UserError(f'AnnealHook.num_iters must be at least 1, got {num_iters}')
        self.attribute, self.start, self.end, self.num_iters = attribute, start, end, num_iters

    def before_train(self, runner) -> None:
        model = unwrap(runner.model)
        if not hasattr(model, self.attribute):
            name = type(model).__name__
            raise UserError(
                f'AnnealHook.attribute must name an attribute of the model, {name} has no {self.attribute!r}'
            )

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        progress = min(runner.iter / self.num_iters, 1.0)
        value = self.end + (self.start - self.end) * (1 + math.cos(math.pi * progress)) / 2
        setattr(unwrap(runner.model), self.attribute, value)
        runner.message_hub.update_scalar(f'train/{self.attribute}', value)
