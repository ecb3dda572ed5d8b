"""Scalars that wait on the device until they are logged: MMEngine fetches every one of them at every step."""
import math
from typing import List, Optional, Tuple

import torch
from mmengine.hooks import LoggerHook, RuntimeInfoHook
from torch import Tensor

from ..registry import HOOKS


class PendingScalars:
    """Scalars of steps past, some of them tensors on a device, that one transfer fetches."""

    def __init__(self):
        self._pending: List[Tuple[str, object]] = []

    def add(self, key: str, value: object) -> None:
        """Keep a number or a tensor of one element, without waiting for it."""
        self._pending.append((key, value.detach() if isinstance(value, Tensor) else value))

    def fetch(self) -> List[Tuple[str, float]]:
        """All scalars in their order, as numbers; then there are none."""
        tensors = [value.float().reshape(()) for _, value in self._pending if isinstance(value, Tensor)]
        numbers = iter(torch.stack(tensors).tolist() if tensors else [])
        fetched = [(key, next(numbers) if isinstance(value, Tensor) else value) for key, value in self._pending]
        self._pending.clear()
        return fetched


@HOOKS.register_module()
class DeferredRuntimeInfoHook(RuntimeInfoHook):
    """MMEngine's RuntimeInfoHook that fetches losses and gradient norms only when they are logged or saved.

    Stands as `default_hooks.runtime_info`. Histories are the same as MMEngine's, in the same order.

    Args:
        interval: steps between two transfers; by default those between two logs.
    """

    def __init__(self, interval: Optional[int] = None):
        super().__init__()
        self.interval = interval
        self.scalars = PendingScalars()

    def before_train(self, runner) -> None:
        super().before_train(runner)
        if self.interval is None:
            self.interval = math.gcd(*(hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook))) or 1
        if hasattr(runner.optim_wrapper, 'scalars'):
            runner.optim_wrapper.scalars = self.scalars

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        for key, value in (outputs or {}).items():
            self.scalars.add(f'train/{key}', value)
        if (self.every_n_inner_iters(batch_idx, self.interval) or runner.iter + 1 == runner.max_iters
                or self.end_of_epoch(runner.train_dataloader, batch_idx)):
            self._flush(runner)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        self._flush(runner)
        if 'message_hub' in checkpoint:  # taken before this hook is called
            checkpoint['message_hub'] = runner.message_hub.state_dict()

    def _flush(self, runner) -> None:
        for key, value in self.scalars.fetch():
            runner.message_hub.update_scalar(key, value)
