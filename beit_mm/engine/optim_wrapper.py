"""One optimiser wrapper for every device: bfloat16 where the hardware has it, float32 elsewhere."""
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from ..registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """OptimWrapper under autocast, without a gradient scaler: bfloat16 has float32's range.

    MMEngine's AmpOptimWrapper needs a GPU and scales gradients for bfloat16 too.

    Args:
        dtype: 'auto': bfloat16 on a GPU that computes in it, float32 elsewhere; or 'bfloat16' or 'float32'.
        **kwargs: of OptimWrapper.

    Raises:
        ValueError: If dtype is none of these.
    """

    def __init__(self, dtype: str = 'auto', **kwargs):
        super().__init__(**kwargs)
        if dtype not in ('auto', 'bfloat16', 'float32'):
            raise ValueError(f"dtype must be 'auto', 'bfloat16' or 'float32', got {dtype!r}")
        self.dtype = dtype

    @contextmanager
    def optim_context(self, model: nn.Module):
        device = next(model.parameters()).device.type
        enabled = self.dtype == 'bfloat16'
        if self.dtype == 'auto':
            enabled = device == 'cuda' and torch.cuda.is_bf16_supported(including_emulation=False)
        with super().optim_context(model), torch.autocast(device, torch.bfloat16, enabled=enabled):
            yield
