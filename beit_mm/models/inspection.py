"""Using a model during training and leaving everything as it was."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from mmengine.model import is_model_wrapper
from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """A model without the wrappers around it, such as DDP, DataParallel and torch.compile."""
    inner = model.module if is_model_wrapper(model) else model._modules.get('_orig_mod')
    return model if inner is None else unwrap(cast(nn.Module, inner))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, then the earlier mode of every module."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def keeping_random_states() -> Iterator[None]:
    """Put the random states of Python, NumPy and torch back afterwards. Starting a data loader alone draws a number."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
