"""One optimiser wrapper for every device: bfloat16 where the hardware has it, float32 elsewhere."""
from contextlib import contextmanager
from typing import Optional

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from ..registry import OPTIM_WRAPPERS
from .deferred_logging import PendingScalars


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """OptimWrapper under autocast, without a gradient scaler: bfloat16 has float32's range.

    MMEngine's AmpOptimWrapper needs a GPU and scales gradients for bfloat16 too.

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
        self.scalars: Optional[PendingScalars] = None  # a DeferredRuntimeInfoHook sets and fetches them

    def _clip_grad(self) -> None:
        """OptimWrapper's, but the gradient norm waits on the device if something will fetch it."""
        if self.scalars is None:
            return super()._clip_grad()
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group['params']
                      if parameter.grad is not None]
        norm = self.clip_func(parameters, **self.clip_grad_kwargs) if parameters else None
        if norm is not None:
            self.scalars.add(f'train/{self.grad_name}', norm)

    @contextmanager
    def optim_context(self, model: nn.Module):
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
