"""The model inside what a runner puts around it."""

from mmengine.model import is_model_wrapper
from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """A model without DDP or another wrapper of MMEngine around it."""
    return model.module if is_model_wrapper(model) else model
