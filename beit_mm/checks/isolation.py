"""A trial that leaves no trace: no output, no changed random states, no global instances of MMEngine."""

import logging
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
import torch
from mmengine.registry import DefaultScope
from mmengine.utils import ManagerMixin
from torch.overrides import TorchFunctionMode


@contextmanager
def isolated(scope: str) -> Iterator[None]:
    """No output, and afterwards the random states and MMEngine's global instances of before."""
    managers = {manager: dict(manager._instance_dict) for manager in _subclasses(ManagerMixin)}
    states = random.getstate(), np.random.get_state()
    disabled, has_gradients = logging.root.manager.disable, torch.is_grad_enabled()
    logging.disable(logging.CRITICAL)
    try:
        with (
            torch.random.fork_rng(devices=[]),
            warnings.catch_warnings(),
            redirect_stdout(StringIO()),
            DefaultScope.overwrite_default_scope(scope),
            torch.set_grad_enabled(True),
        ):
            warnings.simplefilter('ignore')
            torch.manual_seed(0)
            yield
    finally:
        logging.disable(disabled)
        torch.set_grad_enabled(has_gradients)
        random.setstate(states[0])
        np.random.set_state(states[1])
        for manager in _subclasses(ManagerMixin):
            manager._instance_dict.clear()
            manager._instance_dict.update(managers.get(manager, {}))


def _subclasses(cls: Any) -> Iterator[Any]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


class NoRandomWeights(TorchFunctionMode):
    """Fills new weights with a constant: drawing them would take most of the time of a small step."""

    def __torch_function__(self, function, types, arguments=(), options=None):
        if getattr(function, '__name__', '') in ('uniform_', 'normal_', 'trunc_normal_') and arguments:
            return arguments[0].detach().fill_(0.01)
        return function(*arguments, **(options or {}))
