"""One optimiser wrapper for every device: bfloat16 where the hardware has it, float32 elsewhere."""

import math
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from torch import nn, Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from beit_mm.engine.hooks.runtime_info_hook import PendingScalars
from beit_mm.registry import OPTIM_WRAPPERS

from .finite_updates import MAX_SKIPPED, RunningStatistics, SKIPPED, SkippedUpdates


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """OptimWrapper under autocast, without a gradient scaler, which skips updates that are not finite.

    bfloat16 has float32's range: MMEngine's AmpOptimWrapper needs a GPU and scales gradients for it too. An update
    whose loss or gradient norm, after the reduction over processes, is infinite or NaN changes neither weights nor
    optimiser state nor batch norm's statistics. With fused Adam and AdamW the device decides; any other optimiser waits
    for the norm at every update. A DeferredRuntimeInfoHook counts what was skipped; without one every update waits for
    its norm, and the third skipped in a row is an error.

    Args:
        dtype: 'auto': bfloat16 on a device that computes in it, float32 elsewhere; or 'bfloat16' or 'float32'.
        **kwargs: of OptimWrapper.

    Raises:
        ValueError: If dtype is none of these.
    """

    def __init__(self, dtype: str = 'auto', **kwargs):
        super().__init__(**kwargs)
        if dtype not in ('auto', 'bfloat16', 'float32'):
            raise ValueError(f"dtype must be 'auto', 'bfloat16' or 'float32', got {dtype!r}")
        self.dtype = dtype
        self.scalars: PendingScalars | None = None  # a DeferredRuntimeInfoHook sets and fetches them
        self._skipped = SkippedUpdates(MAX_SKIPPED)  # where no such hook counts
        self._statistics: RunningStatistics | None = None
        # As torch's own GradScaler tells them. Fused SGD takes the same, but its momentum is not initialised if its
        # first step is skipped.
        self._skips_on_device = isinstance(self.optimizer, torch.optim.Adam) and getattr(
            self.optimizer, '_step_supports_amp_scaling', False
        )

    def backward(self, loss: Tensor, **kwargs) -> None:
        """OptimWrapper's, but a loss that is not finite gives gradients that are not, in all processes."""
        super().backward(loss, gradient=loss.detach() * 0 + 1, **kwargs)

    def step(self, **kwargs) -> None:
        """Clip, then update unless the gradient norm is infinite or NaN; nothing waits for the device."""
        norm = self._clip_grad()
        skip = norm.isfinite().logical_not().float()
        if self.scalars is None:
            value = float(norm)
            self.message_hub.update_scalar('train/grad_norm', value)
            self._skipped.judge(self._inner_count, {'train/grad_norm': value, SKIPPED: not math.isfinite(value)})
        else:
            self.scalars.add('train/grad_norm', norm)
            self.scalars.add(SKIPPED, skip)
        if self._statistics is not None:
            self._statistics.settle(skip)
        if self._skips_on_device:
            self.optimizer.found_inf = skip
            self.optimizer.step(**kwargs)
        elif not skip:
            self.optimizer.step(**kwargs)

    def _clip_grad(self) -> Tensor:
        """Clip if the config asks for it; the norm of the gradients before, a tensor of one element."""
        parameters = [
            parameter
            for group in self.optimizer.param_groups
            for parameter in group['params']
            if parameter.grad is not None
        ]
        if self.clip_grad_kwargs and self.grad_name == 'grad_norm':
            norm = self.clip_func(parameters, **self.clip_grad_kwargs)
        else:
            norm = get_total_norm([parameter.grad for parameter in parameters])
            if self.clip_grad_kwargs:
                self.clip_func(parameters, **self.clip_grad_kwargs)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    @contextmanager
    def optim_context(self, model: nn.Module):
        if self._statistics is None:
            self._statistics = RunningStatistics(model)
        device = next(model.parameters()).device.type
        enabled = self.dtype == 'bfloat16' or self.dtype == 'auto' and computes_in_bfloat16(device)
        with super().optim_context(model), torch.autocast(device, torch.bfloat16, enabled=enabled):
            yield


def computes_in_bfloat16(device: str) -> bool:
    """Whether a device type, 'cuda' or 'cpu', has bfloat16 arithmetic of its own, not an emulation."""
    if device == 'cuda':
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Private in torch, so a version without them counts as no.
    tests = [getattr(torch.cpu, name, None) for name in ('_is_avx512_bf16_supported', '_is_amx_tile_supported')]
    return device == 'cpu' and any(test() for test in tests if test)
