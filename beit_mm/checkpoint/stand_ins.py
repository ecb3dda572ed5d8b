"""What a pickle may name, and the inert objects that then stand in its place.

The real classes of MMEngine and NumPy would call what a file plants in their states or take its bytes for pointers;
stand-ins take those states, and ``settle`` replaces them by what was built.
"""

import argparse
import re

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler


class Dtype:
    """Stands for a NumPy dtype of numbers or strings."""

    def __init__(self, text, *_):
        if not re.fullmatch(r'[biufcSU][1-9]\d{0,5}', text):  # no objects, no records, no size 0, which crashes NumPy
            raise ValueError(f'NumPy arrays must hold numbers or strings, got type {text!r}')
        self.numpy = np.dtype(text)

    def __setstate__(self, state):
        self.numpy = self.numpy.newbyteorder(state[1])  # the rest of the state (fields, flags) is not honoured

    def build(self, shape, data, order='C'):
        if not isinstance(data, bytes):  # NumPy would take None for memory of any size
            raise ValueError(f'NumPy arrays must be written as bytes, got a {type(data).__name__}')
        return np.ndarray(shape, self.numpy, data, order=order).copy(order='K')  # too few bytes raise


class Array:
    """Stands for a NumPy array; `real` is the array once its state came."""

    def __setstate__(self, state):
        _, shape, dtype, is_fortran, data = state
        self.real = dtype.build(shape, data, 'F' if is_fortran else 'C')


class _History:
    def __setstate__(self, state):
        logs, counts = state['_log_history'].real, state['_count_history'].real
        self.real = HistoryBuffer(logs, counts, int(state['max_length']))  # its methods are not taken from the file


class Module:
    """Stands for a pickled module; `state` is its `__dict__`."""

    def __setstate__(self, state):
        self.state = state


# The two halves of OpenAI's tokenizer, each pickled as a whole; `prefix` is where it stands in ours.
HALVES = Encoder, Decoder = tuple(type('Half', (Module,), {'prefix': prefix}) for prefix in ('encoder.', 'decoder.'))
_OneCycle = type('_OneCycle', (), {})
_FUNCTIONS = {  # that honest states carry: a buffer's statistics (_History drops them), a schedule's curve (arithmetic)
    _History: (HistoryBuffer, 'min', 'max', 'current', 'mean'),
    _OneCycle: (OneCycleParamScheduler, '_annealing_cos', '_annealing_linear')}  # yapf: disable


def _getattr(owner, name):
    real, *names = _FUNCTIONS.get(owner, (None,)) if isinstance(owner, type) else (None,)
    if name not in names:
        raise ValueError(f'a pickle may take no attribute of a {type(owner).__name__}')
    return getattr(real, name)


ARRAYS = {  # what NumPy writes, under the names of its versions 1 and 2
    'numpy.dtype': Dtype, 'numpy.ndarray': Array,
    **dict.fromkeys(('numpy.core.multiarray._reconstruct', 'numpy._core.multiarray._reconstruct'), lambda *_: Array()),
    **dict.fromkeys(('numpy.core.multiarray.scalar', 'numpy._core.multiarray.scalar'),
                    lambda dtype, data: dtype.build((), data)[()]),
}  # yapf: disable
ALLOWED = {
    **ARRAYS,
    'builtins.getattr': _getattr, 'builtins.bytes': lambda: b'',  # how protocol 2 writes an empty array
    'argparse.Namespace': argparse.Namespace,  # the arguments in BEiT's, MAE's and timm's checkpoints
    'mmengine.config.config.ConfigDict': dict,  # in a data set's metainfo
    'mmengine.logging.history_buffer.HistoryBuffer': _History,
    'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler': _OneCycle,
    'dall_e.encoder.Encoder': Encoder, 'dall_e.decoder.Decoder': Decoder,
    **dict.fromkeys(('dall_e.encoder.EncoderBlock', 'dall_e.decoder.DecoderBlock', 'dall_e.utils.Conv2d',
                     'torch.nn.modules.container.Sequential', 'torch.nn.modules.activation.ReLU',
                     'torch.nn.modules.linear.Identity', 'torch.nn.modules.pooling.MaxPool2d',
                     'torch.nn.modules.upsampling.Upsample'), Module),
}  # yapf: disable


def settle(value, settled=None):
    """Put real objects in the place of stand-ins, inside dicts, lists and tuples.

    Args:
        value: what was unpickled; dicts and lists are changed in place.
        settled: results by the id of what they replace, filled on the way; None to start.

    Returns:
        The value without stand-ins.

    Raises:
        ValueError: If a whole module is among the values.
    """
    settled = {} if settled is None else settled
    if id(value) in settled:
        return settled[id(value)]
    settled[id(value)] = value
    if isinstance(value, (dict, list)):  # in place; any attribute but a state dict's _metadata could hide a method
        for name in set(getattr(value, '__dict__', ())) - {'_metadata'}:
            del value.__dict__[name]
        for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
            value[key] = settle(item, settled)
    elif type(value) is tuple:
        settled[id(value)] = tuple(settle(item, settled) for item in value)
    elif isinstance(value, (Array, _History)):
        settled[id(value)] = value.real
    elif isinstance(value, Module):
        raise ValueError('a pickled module in the place of weights')
    return settled[id(value)]


def module_weights(module, prefix):
    """Name to tensor of a module that stand-ins were read for, its children included."""
    named = {**module.state['_parameters'], **module.state['_buffers']}.items()
    weights = {prefix + name: torch.Tensor.detach(tensor) for name, tensor in named if tensor is not None}
    for name, child in module.state['_modules'].items():
        weights.update(module_weights(child, f'{prefix}{name}.'))
    return weights
