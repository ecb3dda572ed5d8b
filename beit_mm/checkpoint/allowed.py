"""What a pickle may name, and the values that are made of it.

No function or class that a file names becomes a value or is called: each name has a function here that makes the value
from the recorded arguments, items and state. What an honest file does not hold is an error.
"""

import argparse
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import nn, Tensor
from torch.storage import TypedStorage

_SCALARS = (str, int, float, complex, bytes, type(None), np.generic)
_PLAIN = (*_SCALARS, torch.Size, torch.dtype, torch.device)
_PADDLE_NAME_TABLE = 'StructuredToParameterName@@'
_ONE_CYCLE = 'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler'


class Name:
    """A function or class that a pickle names."""

    def __init__(self, name: str):
        self.name = name


class Call:
    """A call that a pickle asks for, and the items and the state that the pickle gives to the result."""

    def __init__(self, name: str, args: tuple):
        self.name, self.args = name, args
        self.items: list[tuple[Any, Any]] = []
        self.state: Any = None


def is_key(value: Any) -> bool:
    """Whether a value may be the key of a dict: nested tuples may take for ever to hash, or overflow the stack."""
    return all(isinstance(part, _SCALARS) for part in (value if type(value) is tuple else (value,)))


class Builder:
    """Makes values of what an `Unpickler` reads; what is shared stays shared.

    Args:
        tensor_device: where NumPy arrays become tensors, as in files of Paddle; None to leave them as they are.
    """

    def __init__(self, tensor_device: str | torch.device | None = None):
        self.tensor_device = tensor_device
        self._built: dict[int, Any] = {}  # by the id of what was read, which stays alive as long as its root
        self._open: set[int] = set()

    def build(self, value: Any) -> Any:
        """The value without calls.

        Raises:
            Exception: Of almost any kind if the value is none of an honest file.
        """
        if isinstance(value, _PLAIN):
            return value
        key = id(value)
        if key in self._open:
            raise ValueError('a value that holds itself')
        if key not in self._built:
            self._open.add(key)
            self._built[key] = self._build(value)
            self._open.remove(key)
        return self._built[key]

    def _build(self, value: Any) -> Any:
        if type(value) is Call:
            built = ALLOWED[value.name](self, value)
        elif type(value) is dict:
            built = dict(self.pairs(value.items()))
        elif type(value) in (list, tuple):
            built = type(value)(self.build(item) for item in value)
        else:
            raise ValueError(f'a {type(value).__name__} in the place of a value')
        return built if self.tensor_device is None else _to_tensor(built, self.tensor_device)

    def pairs(self, items: Iterable[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        """The items of a dict."""
        pairs = [
            (self.build(key), self.build(value))
            for key, value in items
            if key != _PADDLE_NAME_TABLE and not _is_own_function(value)
        ]
        if not all(is_key(key) for key, _ in pairs):
            raise ValueError('the keys of dicts must be numbers or texts')
        return pairs

    def module_weights(self, module: Call, prefix: str = '') -> dict[str, Tensor]:
        """Name to tensor of a pickled module, its children included."""
        if id(module) in self._open:
            raise ValueError('a module in two places')
        self._open.add(id(module))
        tensors = self.build(module.state['_parameters']) | self.build(module.state['_buffers'])
        weights = {prefix + name: tensor.detach() for name, tensor in tensors.items() if tensor is not None}
        children = module.state['_modules']
        for name, child in children.items() if type(children) is dict else children.items:
            weights.update(self.module_weights(child, f'{prefix}{name}.'))
        return weights


def _to_tensor(value: Any, device: str | torch.device) -> Any:
    """A tensor for an array of Paddle, alone or, since Paddle 2.1, with the name of the parameter."""
    if type(value) is tuple and len(value) == 2 and isinstance(value[1], Tensor):
        return value[1]
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype == np.uint16:  # a type that Paddle lacks: bfloat16 is written so
        return torch.from_numpy(value.view(np.int16)).view(torch.bfloat16).to(device)
    return torch.from_numpy(value).to(device)


def _tensor(builder: Builder, call: Call) -> Tensor:
    storage, offset, size, stride, requires_grad, _hooks, *more = call.args
    if call.name.endswith('_v3'):
        dtype, *more = more
    if type(storage) is not TypedStorage or any(more):  # such as a view that is conjugated
        raise ValueError('a tensor must be plain')
    if call.name.endswith('_v3'):
        return torch._utils._rebuild_tensor_v3(storage, offset, size, stride, requires_grad, OrderedDict(), dtype)
    return torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, OrderedDict())


def _parameter(builder: Builder, call: Call) -> nn.Parameter:
    data, requires_grad, *_ = call.args  # hooks and attributes are left out
    return nn.Parameter(builder.build(data), requires_grad)


def _ordered_dict(builder: Builder, call: Call) -> OrderedDict:
    ordered = OrderedDict(builder.pairs([*(call.args[0] if call.args else ()), *call.items]))
    metadata = builder.build(call.state.get('_metadata') if type(call.state) is dict else None)
    if isinstance(metadata, dict) and all(isinstance(entry, dict) for entry in metadata.values()):
        ordered._metadata = metadata  # type: ignore[attr-defined]  # of a state dict
    return ordered


def _collection(kind: Callable) -> Callable:
    """A builder of a set or Counter from its only argument."""

    def build(builder: Builder, call: Call) -> Any:
        (items,) = map(builder.build, call.args)
        if not all(map(is_key, items)):
            raise ValueError(f'the items of a {kind.__name__} must be numbers or texts')
        return kind(items)

    return build


def _bytes(builder: Builder, call: Call) -> bytes:
    """As protocol 2 writes them."""
    text, encoding = call.args or ('', 'latin1')
    if call.name == '_codecs.encode' and encoding == 'latin1':
        return text.encode('latin1')
    if call.args:
        raise ValueError(f'bytes must be written as latin1, got {encoding!r}')
    return b''


def _number_type(builder: Builder, call: Call) -> np.dtype:
    text = call.args[0]
    if not re.fullmatch(r'[biufcSU][1-9]\d{0,5}', text):  # no objects, no records, no size 0, which crashes NumPy
        raise ValueError(f'NumPy arrays must hold numbers or strings, got type {text!r}')
    dtype = np.dtype(text)
    return dtype if call.state is None else dtype.newbyteorder(call.state[1])


def _array(builder: Builder, call: Call) -> np.ndarray:
    _, shape, dtype, is_fortran, data = map(builder.build, call.state)
    return _array_of(shape, dtype, data, bool(is_fortran))


def _array_of(shape: tuple, dtype: np.dtype, data: bytes, is_fortran: bool = False) -> np.ndarray:
    if type(data) is not bytes:  # NumPy would take None for memory of any size
        raise ValueError(f'NumPy arrays must be written as bytes, got a {type(data).__name__}')
    return np.ndarray(shape, dtype, data, order='F' if is_fortran else 'C').copy(order='K')  # too few bytes raise


def _number(builder: Builder, call: Call) -> Any:
    dtype, data = map(builder.build, call.args)
    return _array_of((), dtype, data)[()]


def _history(builder: Builder, call: Call) -> HistoryBuffer:
    logs, counts = builder.build(call.state['_log_history']), builder.build(call.state['_count_history'])
    return HistoryBuffer(logs, counts, int(call.state['max_length']))  # with its own methods, not those of the file


def _namespace(builder: Builder, call: Call) -> argparse.Namespace:
    arguments = dict(builder.pairs((call.state or {}).items()))
    if not all(type(name) is str and not name.startswith('__') for name in arguments):
        raise ValueError('arguments must have names')
    return argparse.Namespace(**arguments)


def _is_own_function(value: Any) -> bool:
    """Whether a value is a function of a schedule's own class; the schedule that resumes has it already."""
    return (
        type(value) is Call
        and value.name == 'builtins.getattr'
        and type(value.args[0]) is Name
        and value.args[0].name == _ONE_CYCLE
        and value.args[1] in ('_annealing_cos', '_annealing_linear')
    )


def _refuse(builder: Builder, call: Call) -> None:
    raise ValueError(f'a {call.name} in the place of a value')


CONSTANTS = {
    'torch.storage.UntypedStorage': torch.UntypedStorage,
    **{str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)},
}
# The two halves of OpenAI's tokenizer, each pickled as a whole, and the prefix of its weights in ours.
DALLE_MODULES = {'dall_e.encoder.Encoder': 'encoder.', 'dall_e.decoder.Decoder': 'decoder.'}
ALLOWED: dict[str, Callable[[Builder, Call], Any]] = {
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_tensor_v3': _tensor,
    'torch._utils._rebuild_parameter': _parameter,
    'torch._utils._rebuild_parameter_with_state': _parameter,
    'torch.Size': lambda builder, call: torch.Size(*call.args),
    'torch.device': lambda builder, call: torch.device(*call.args),
    'collections.OrderedDict': _ordered_dict,
    'collections.Counter': _collection(Counter),
    'builtins.set': _collection(set),
    'builtins.tuple': lambda builder, call: tuple(builder.build(item) for item in call.args[0]),  # in Paddle's
    'builtins.complex': lambda builder, call: complex(*call.args),
    'builtins.bytes': _bytes,
    '_codecs.encode': _bytes,
    'builtins.getattr': _refuse,  # methods of histories and schedules, which are never looked up
    'argparse.Namespace': _namespace,  # the arguments in BEiT's, MAE's and timm's checkpoints
    'mmengine.config.config.ConfigDict': lambda builder, call: builder.build(*call.args),  # in a data set's metainfo
    'mmengine.logging.history_buffer.HistoryBuffer': _history,
    _ONE_CYCLE: _refuse,
    'numpy.dtype': _number_type,
    'numpy.ndarray': _refuse,
    **dict.fromkeys(('numpy.core.multiarray._reconstruct', 'numpy._core.multiarray._reconstruct'), _array),
    **dict.fromkeys(('numpy.core.multiarray.scalar', 'numpy._core.multiarray.scalar'), _number),
    **dict.fromkeys(DALLE_MODULES, _refuse),
    **dict.fromkeys(
        (
            'dall_e.encoder.EncoderBlock',
            'dall_e.decoder.DecoderBlock',
            'dall_e.utils.Conv2d',
            'torch.nn.modules.container.Sequential',
            'torch.nn.modules.activation.ReLU',
            'torch.nn.modules.linear.Identity',
            'torch.nn.modules.pooling.MaxPool2d',
            'torch.nn.modules.upsampling.Upsample',
        ),
        _refuse,
    ),
}
