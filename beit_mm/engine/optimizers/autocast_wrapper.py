"""One optimizer wrapper for every device: bfloat16 where the hardware has it, and no update that is not finite."""

import math
from contextlib import contextmanager

import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.optim import OptimWrapper
from torch import nn, Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from torch.optim import Adam, AdamW

from beit_mm.errors import UserError
from beit_mm.registry import OPTIM_WRAPPERS

LOG_INTERVAL = 10  # updates
MAX_SKIPPED = 3
SKIPPED = 'train/skipped'  # 1 if the update of a step was skipped, else 0
TOTAL_SKIPPED = 'train/skipped_updates'


class NotFinite(UserError):
    """A run or a checkpoint has infinite or NaN values; the message says where."""


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """OptimWrapper under autocast, without a gradient scaler, which skips updates that are not finite.

    bfloat16 has the range of float32, so gradients need no scaling. An update whose loss or gradient norm, after the
    reduction over processes, is infinite or NaN changes neither weights nor optimizer state nor running statistics of
    norms. With fused Adam and AdamW nothing waits for the device; other optimizers wait for the norm at every update.

    The gradient norm and the number of skipped updates are logged, and three skipped updates in a row are an error: at
    the interval of a DeferredRuntimeInfoHook, or every ten updates without one.

    Args:
        dtype: 'auto' (bfloat16 on a device that computes in it, float32 elsewhere), 'bfloat16' or 'float32'.
        **kwargs: arguments of OptimWrapper.

    Raises:
        UserError: If dtype is none of these.
        NotFinite: In a step, if three updates in a row were skipped.
    """

    def __init__(self, dtype: str = 'auto', **kwargs):
        super().__init__(**kwargs)
        if dtype not in ('auto', 'bfloat16', 'float32'):
            raise UserError(f"dtype must be 'auto', 'bfloat16' or 'float32', got {dtype!r}")
        self.dtype = dtype
        self.scalars = DeferredScalars()
        self.flushes_scalars = True  # a DeferredRuntimeInfoHook sets False and flushes them itself
        # Running statistics of norms, which the forward pass changes, and a copy of each after the last update.
        self._statistics: list[tuple[Tensor, Tensor]] | None = None
        # Fused SGD takes `found_inf` too, but does not initialize its momentum if its first step is skipped.
        self._skips_on_device = isinstance(self.optimizer, (Adam, AdamW)) and self.optimizer.defaults.get('fused')

    def backward(self, loss: Tensor, **kwargs) -> None:
        """As OptimWrapper's, but a loss that is not finite makes the gradients of all processes not finite."""
        super().backward(loss, gradient=loss.detach() * 0 + 1, **kwargs)

    def step(self, **kwargs) -> None:
        """Clip the gradients, then update unless their norm before that is infinite or NaN."""
        parameters = [p for group in self.optimizer.param_groups for p in group['params'] if p.grad is not None]
        if self.clip_grad_kwargs and self.grad_name == 'grad_norm':
            norm = self.clip_func(parameters, **self.clip_grad_kwargs)
        else:
            norm = get_total_norm([parameter.grad for parameter in parameters])
            if self.clip_grad_kwargs:
                self.clip_func(parameters, **self.clip_grad_kwargs)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        skip = norm.isfinite().logical_not().float()
        self.scalars.add('train/grad_norm', norm)
        self.scalars.add(SKIPPED, skip)
        for statistic, kept in self._statistics or ():
            kept.copy_(torch.where(skip.bool(), kept, statistic))
            statistic.copy_(kept)
        if self._skips_on_device:
            self.optimizer.found_inf = skip
        if self._skips_on_device or not skip:
            self.optimizer.step(**kwargs)
        if self.flushes_scalars:
            self.scalars.end_step(self.inner_count)
            if len(self.scalars.steps) >= LOG_INTERVAL:
                self.scalars.flush(self.message_hub)

    @contextmanager
    def optim_context(self, model: nn.Module):
        if self._statistics is None:
            norms = [module for module in model.modules() if getattr(module, 'track_running_stats', False)]
            buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
            self._statistics = [(buffer, buffer.detach().clone()) for buffer in buffers]
        device = next(model.parameters()).device.type
        enabled = self.dtype == 'bfloat16' or (self.dtype == 'auto' and computes_in_bfloat16(device))
        with super().optim_context(model), torch.autocast(device, torch.bfloat16, enabled=enabled):
            yield


def computes_in_bfloat16(device: str) -> bool:
    """Whether a device type, 'cuda' or 'cpu', has bfloat16 arithmetic in hardware."""
    if device == 'cuda':
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # These tests are private in torch; a version without them counts as no.
    tests = [getattr(torch.cpu, name, None) for name in ('_is_avx512_bf16_supported', '_is_amx_tile_supported')]
    return device == 'cpu' and any(test() for test in tests if test)


class DeferredScalars:
    """Losses and gradient norms of past steps, which stay on their device until one transfer fetches all of them.

    Args:
        max_skipped: that many skipped updates in a row are an error.
    """

    def __init__(self, max_skipped: int = MAX_SKIPPED):
        self.max_skipped = max_skipped
        self.steps: list[tuple[int, dict[str, float | Tensor]]] = []
        self._current: dict[str, float | Tensor] = {}
        self._skipped_in_row = 0
        self._not_finite: list[str] = []  # names, since the last update

    def add(self, name: str, value: float | Tensor) -> None:
        """Keep a number, or a tensor of one element, of the current step."""
        self._current[name] = value.detach().float().reshape(()) if isinstance(value, Tensor) else value

    def end_step(self, iteration: int) -> None:
        """Close the current step; iterations count from 1."""
        self.steps.append((iteration, self._current))
        self._current = {}

    def flush(self, message_hub: MessageHub) -> None:
        """Move all closed steps into the histories of MMEngine, and count skipped updates there.

        Raises:
            NotFinite: If too many updates in a row were skipped; names the iteration and what was not finite.
        """
        steps, self.steps = self.steps, []
        tensors = [value for _, scalars in steps for value in scalars.values() if isinstance(value, Tensor)]
        numbers = iter(torch.stack([value.to(tensors[0].device) for value in tensors]).tolist() if tensors else ())
        for iteration, scalars in steps:
            scalars = {name: next(numbers) if isinstance(value, Tensor) else value for name, value in scalars.items()}
            skipped = scalars.pop(SKIPPED, None)
            self._not_finite += [name.rpartition('/')[2] for name, value in scalars.items() if not math.isfinite(value)]
            if skipped is not None:  # this step completes an update
                history = message_hub.log_scalars.get(TOTAL_SKIPPED)
                scalars[TOTAL_SKIPPED] = int(skipped) + (history.current() if history else 0)
                reason = f'{" and ".join(dict.fromkeys(self._not_finite))} not finite at iteration {iteration}'
                self._not_finite = []
                self._skipped_in_row = self._skipped_in_row + 1 if skipped else 0
                if self._skipped_in_row >= self.max_skipped:
                    raise NotFinite(f'{self._skipped_in_row} updates in a row were skipped, the last for {reason}')
                if skipped:
                    MMLogger.get_current_instance().warning(f'update skipped: {reason}')
            for name, value in scalars.items():
                message_hub.update_scalar(name, value)
