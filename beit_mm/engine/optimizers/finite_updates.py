"""Updates and checkpoints without infinite or NaN values, found without waiting for the device."""

import math
from collections.abc import Collection, Iterator

import torch
from mmengine.logging import MessageHub, MMLogger
from torch import nn, Tensor

from beit_mm.errors import UserError

SKIPPED = 'train/skipped'  # 1 if the update of a step was skipped, else 0
TOTAL_SKIPPED = 'train/skipped_updates'
MAX_SKIPPED = 3


class NotFinite(UserError):
    """A run or a checkpoint has infinite or NaN values; the message says where."""


class DeferredScalars:
    """Losses and gradient norms of past steps, which stay on their device until one transfer fetches all of them.

    Args:
        max_skipped: that many skipped updates in a row are an error.
    """

    def __init__(self, max_skipped: int = MAX_SKIPPED):
        self.max_skipped = max_skipped
        self._current: dict[str, float | Tensor] = {}
        self._steps: list[tuple[int, dict[str, float | Tensor]]] = []
        self._skipped_in_row = 0
        self._not_finite: list[str] = []  # names, since the last update

    def add(self, name: str, value: float | Tensor) -> None:
        """Keep a number, or a tensor of one element, of the current step."""
        self._current[name] = value.detach().float().reshape(()) if isinstance(value, Tensor) else value

    def end_step(self, iteration: int) -> None:
        """Close the current step; iterations count from 1."""
        self._steps.append((iteration, self._current))
        self._current = {}

    def __len__(self) -> int:
        """Number of steps that wait."""
        return len(self._steps)

    def flush(self, message_hub: MessageHub) -> None:
        """Move all closed steps into the histories of MMEngine, and count skipped updates there.

        Raises:
            NotFinite: If too many updates in a row were skipped; names the iteration and what was not finite.
        """
        steps, self._steps = self._steps, []
        tensors = [value for _, scalars in steps for value in scalars.values() if isinstance(value, Tensor)]
        numbers = iter(torch.stack([value.to(tensors[0].device) for value in tensors]).tolist() if tensors else ())
        for iteration, scalars in steps:
            scalars = {name: next(numbers) if isinstance(value, Tensor) else value for name, value in scalars.items()}
            skipped = scalars.pop(SKIPPED, None)
            self._not_finite += [name.rpartition('/')[2] for name, value in scalars.items() if not math.isfinite(value)]
            if skipped is not None:  # this step completes an update
                history = message_hub.log_scalars.get(TOTAL_SKIPPED)
                scalars[TOTAL_SKIPPED] = int(skipped) + (history.current() if history else 0)
                self._judge(iteration, bool(skipped))
            for name, value in scalars.items():
                message_hub.update_scalar(name, value)

    def _judge(self, iteration: int, skipped: bool) -> None:
        names, self._not_finite = dict.fromkeys(self._not_finite), []
        self._skipped_in_row = self._skipped_in_row + 1 if skipped else 0
        if not skipped:
            return
        reason = f'{" and ".join(names)} not finite at iteration {iteration}'
        if self._skipped_in_row >= self.max_skipped:
            raise NotFinite(f'{self._skipped_in_row} updates in a row were skipped, the last for {reason}')
        MMLogger.get_current_instance().warning(f'update skipped: {reason}')


class RunningStatistics:
    """Running statistics of the norms of a model as they were after its last update that was not skipped.

    The forward pass changes them before the gradients are known.

    Args:
        model: before its first step.
    """

    def __init__(self, model: nn.Module):
        norms = filter(_has_running_statistics, model.modules())
        self._pairs = [(buffer, buffer.detach().clone()) for norm in norms for buffer in norm.buffers(recurse=False)]

    def restore_if_skipped(self, skip: Tensor) -> None:
        """Put them back where `skip`, a tensor of one element on the device, is not 0; else keep the new ones."""
        for buffer, kept in self._pairs:
            buffer.copy_(torch.where(skip.bool(), kept, buffer))
            kept.copy_(buffer)


def _has_running_statistics(module: nn.Module) -> bool:
    return getattr(module, 'track_running_stats', False)


def names_of_constants(model: nn.Module) -> set[str]:
    """Names of all buffers except running statistics; they may be infinite on purpose, as a causal mask is."""
    owners = dict(model.named_modules(remove_duplicate=False))
    names = (name for name, _ in model.named_buffers(remove_duplicate=False))
    return {name for name in names if not _has_running_statistics(owners[name.rpartition('.')[0]])}


def check_finite(checkpoint: dict, constants: Collection[str] = ()) -> None:
    """Check that weights, averaged weights and optimizer state of a checkpoint are finite.

    Args:
        checkpoint: as MMEngine's Runner writes it.
        constants: names of tensors that may be infinite, but not NaN.

    Raises:
        NotFinite: If a tensor is not finite; names the first.
    """
    for part in ('state_dict', 'ema_state_dict', 'optimizer'):
        for name, value in _walk_tensors(checkpoint.get(part), ''):
            # The sum takes a sixth of the time of the exact test below, but it may overflow.
            if not value.is_floating_point() or value.sum().isfinite():
                continue
            may_be_infinite = name[1:].removeprefix('module.') in constants
            if value.isnan().any() or (value.isinf().any() and not may_be_infinite):
                raise NotFinite(f'{part}{name} is not finite')


def _walk_tensors(value: object, name: str) -> Iterator[tuple[str, Tensor]]:
    """Names such as '.a.0' and tensors of a tree of dicts and lists."""
    if isinstance(value, Tensor):
        yield name, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, item in items:
        yield from _walk_tensors(item, f'{name}.{key}')
