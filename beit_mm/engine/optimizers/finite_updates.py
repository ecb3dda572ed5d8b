"""Updates and checkpoints that are finite: what skips an update on the device, and what tells of it later."""

import math
from collections.abc import Iterator

import torch
from mmengine.logging import MMLogger
from torch import nn, Tensor
from torch.nn.modules.batchnorm import _NormBase

SKIPPED = 'train/skipped'  # of a step: 1 if its update was skipped, else 0
TOTAL = 'train/skipped_updates'  # so far, as it is logged
MAX_SKIPPED = 3  # in a row


class NotFinite(ValueError):
    """A run or a checkpoint has infinite or NaN values; says where."""


class RunningStatistics:
    """Buffers of a model's batch norms, as they were after its last update that was not skipped.

    The forward pass changes them before anything is known of the gradients.

    Args:
        model: its buffers must be those before the first step.
    """

    def __init__(self, model: nn.Module):
        norms = [module for module in model.modules() if isinstance(module, _NormBase)]
        self._pairs: list[tuple[Tensor, Tensor]] = [
            (buffer, buffer.detach().clone()) for norm in norms for buffer in norm.buffers(recurse=False)
        ]

    def settle(self, skip: Tensor) -> None:
        """Put them back where `skip`, a tensor of one element on the device, is not 0; else keep what they are now."""
        for buffer, kept in self._pairs:
            buffer.copy_(torch.where(skip.bool(), kept, buffer))
            kept.copy_(buffer)


class SkippedUpdates:
    """Counts skipped updates from the scalars of steps past.

    Args:
        most: so many in a row are an error.
        total: skipped so far.
    """

    def __init__(self, most: int, total: int = 0):
        self.most = most
        self.total = total
        self.in_row = 0
        self._not_finite: dict[str, None] = {}  # of the steps of the update that is being accumulated

    def judge(self, iteration: int, scalars: dict[str, float]) -> None:
        """Take in one step.

        Args:
            iteration: counted from 1.
            scalars: losses, gradient norm and SKIPPED, the last only of a step that completes an update.

        Raises:
            NotFinite: If too many in a row were skipped; gives the iteration and what was not finite.
        """
        self._not_finite.update(
            {key.rpartition('/')[2]: None for key, value in scalars.items() if not math.isfinite(value)}
        )
        if SKIPPED not in scalars:
            return
        names, self._not_finite = list(self._not_finite), {}
        self.in_row = self.in_row + 1 if scalars[SKIPPED] else 0
        if not self.in_row:
            return
        self.total += 1
        told = f'{" and ".join(names)} not finite at iteration {iteration}'
        if self.in_row >= self.most:
            raise NotFinite(f'{self.in_row} updates in a row were skipped, the last for {told}')
        MMLogger.get_current_instance().warning(f'update skipped: {told}')


def names_of_constants(model: nn.Module) -> frozenset[str]:
    """Names of a model's buffers but batch norm's; they may hold infinities on purpose, as a causal mask does."""
    return frozenset(
        f'{prefix}.{name}' if prefix else name
        for prefix, module in model.named_modules()
        if not isinstance(module, _NormBase)
        for name, _ in module.named_buffers(recurse=False)
    )


def check_finite(checkpoint: dict, constants: frozenset[str] = frozenset()) -> None:
    """Whether weights, averaged weights and optimiser state of a checkpoint are finite.

    Args:
        checkpoint: as MMEngine's Runner writes it.
        constants: names that may be infinite but not NaN.

    Raises:
        NotFinite: If one is not; names the first.
    """
    for part in ('state_dict', 'ema_state_dict', 'optimizer'):
        for name, value in _tensors(checkpoint.get(part), ''):
            if not value.is_floating_point() or value.sum().isfinite():  # a sixth of the time, but it may overflow
                continue
            is_constant = name.removeprefix('module.') in constants
            if value.isnan().any() or not is_constant and value.isinf().any():
                raise NotFinite(f'{part}.{name} is not finite')


def _tensors(value: object, name: str) -> Iterator[tuple[str, Tensor]]:
    """All tensors of a tree of dicts and lists, with their dotted names."""
    if isinstance(value, Tensor):
        yield name, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, item in items:
        yield from _tensors(item, f'{name}.{key}' if name else str(key))
