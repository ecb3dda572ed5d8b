"""Scalars that wait on the device until they are logged: MMEngine fetches every one of them at every step."""

import math
from collections import defaultdict
from pathlib import Path

import torch
from mmengine.hooks import LoggerHook, RuntimeInfoHook
from torch import Tensor

from beit_mm.checkpoint.files import read_pointer
from beit_mm.engine.optimizers.finite_updates import MAX_SKIPPED, NotFinite, SKIPPED, SkippedUpdates, TOTAL
from beit_mm.registry import HOOKS

STEP = 'step'  # its number, after its scalars


class PendingScalars:
    """Scalars of steps past, some of them tensors on a device, that one transfer fetches."""

    def __init__(self):
        self._pending: list[tuple[str, object]] = []

    def add(self, key: str, value: object) -> None:
        """Keep a number or a tensor of one element, without waiting for it."""
        self._pending.append((key, value.detach() if isinstance(value, Tensor) else value))

    def fetch(self) -> list[tuple[str, float]]:
        """All scalars in their order, as numbers; then there are none."""
        waiting = defaultdict(list)
        for _, value in self._pending:
            if isinstance(value, Tensor):
                waiting[value.device].append(value.float().reshape(()))
        numbers = {device: iter(torch.stack(values).tolist()) for device, values in waiting.items()}
        fetched = [
            (key, next(numbers[value.device]) if isinstance(value, Tensor) else value) for key, value in self._pending
        ]
        self._pending.clear()
        return fetched


@HOOKS.register_module()
class DeferredRuntimeInfoHook(RuntimeInfoHook):
    """MMEngine's RuntimeInfoHook that fetches losses and gradient norms only when they are logged or saved.

    Stands as `default_hooks.runtime_info`. Histories are MMEngine's, in the same order, and `skipped_updates`,
    how many updates an AutocastOptimWrapper has skipped.

    Args:
        interval: steps between two transfers; by default those between two logs.
        max_skipped: so many skipped updates in a row end the run, at the next transfer.
    """

    def __init__(self, interval: int | None = None, max_skipped: int = MAX_SKIPPED):
        super().__init__()
        self.interval = interval
        self.max_skipped = max_skipped
        self.scalars = PendingScalars()
        self.skipped = SkippedUpdates(max_skipped)

    def before_train(self, runner) -> None:
        super().before_train(runner)
        if self.interval is None:
            self.interval = math.gcd(*(hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook))) or 1
        if hasattr(runner.optim_wrapper, 'scalars'):
            runner.optim_wrapper.scalars = self.scalars
        if TOTAL in runner.message_hub.log_scalars:  # of a run that is resumed
            self.skipped.total = int(runner.message_hub.get_scalar(TOTAL).current())

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        for key, value in (outputs or {}).items():
            self.scalars.add(f'train/{key}', value)
        self.scalars.add(STEP, runner.iter + 1)
        if (
            self.every_n_inner_iters(batch_idx, self.interval)
            or runner.iter + 1 == runner.max_iters
            or self.end_of_epoch(runner.train_dataloader, batch_idx)
        ):
            self._flush(runner)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        self._flush(runner)
        if 'message_hub' in checkpoint:  # taken before this hook is called
            checkpoint['message_hub'] = runner.message_hub.state_dict()

    def _flush(self, runner) -> None:
        """Raises NotFinite if too many updates in a row were skipped."""
        scalars: dict[str, float] = {}
        for key, value in self.scalars.fetch():
            if key != STEP:
                scalars[key] = value
                continue
            self._judge(runner, value, scalars)
            if SKIPPED in scalars:
                scalars[TOTAL] = self.skipped.total
                del scalars[SKIPPED]
            for name, number in scalars.items():
                runner.message_hub.update_scalar(name, number)
            scalars = {}

    def _judge(self, runner, iteration: int, scalars: dict[str, float]) -> None:
        try:
            self.skipped.judge(iteration, scalars)
        except NotFinite as error:
            raise NotFinite(
                f'{error}; the last good checkpoint is {read_pointer(Path(runner.work_dir)) or "none"}'
            ) from None
