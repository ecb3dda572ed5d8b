"""What pickles may hold: plain data, plain tensors, and what checkpoints of MMEngine and of BEiT's scripts need.

`CALLED` makes values while a pickle is read. Everything else that it may name is only recorded, as `Named`; `finish`
makes values of what `FINISHED` lists and refuses the rest. `Limits` bounds what a file may make of itself.
"""

import argparse
import math
import pathlib
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import nn, Tensor

MAX_DEPTH = 100
MAX_SIDES = 16  # of a tensor
MAX_TUPLE_KEYS = 1000  # unlike texts, tuples of the same hash can be made up; each is compared with all others
MAX_KEY = 1 << 60  # larger numbers may have the same hash, so that each is compared with all others

_PADDLE_NAME_TABLE = 'StructuredToParameterName@@'
_ONE_CYCLE = 'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler'


class Limits:
    """Bounds what is made of a file: a part of it can be named any number of times, and would be copied each time.

    Every 100 bytes also stand for about a microsecond of work.
    """

    def __init__(self, size: int):
        self.left = 16 * size + (64 << 20)
        self._tuple_keys = 0

    def add(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise ValueError('parts that are used so often that they become many times as large as the file')

    def add_keys(self, keys: Iterable) -> None:
        self._tuple_keys += sum(type(key) is tuple for key in keys)
        if self._tuple_keys > MAX_TUPLE_KEYS:
            raise ValueError(f'more than {MAX_TUPLE_KEYS:,} keys that are tuples')


class Storage(NamedTuple):
    """The numbers of tensors."""

    data: torch.UntypedStorage
    dtype: torch.dtype


@dataclass(eq=False)
class Named:
    """A function or class that a pickle names, or, with arguments, what calling it would return. It does nothing."""

    name: str
    args: tuple | None = None
    state: Any = None


def _tensor(storage, offset, size, stride, requires_grad, hooks, *rest) -> Tensor:
    dtype, *more = rest if rest and isinstance(rest[0], torch.dtype) else (storage.dtype, *rest)
    if type(storage) is not Storage or any(more) or dtype not in _DTYPES:  # such as a view that is conjugated
        raise ValueError('a tensor must be plain')
    size, stride = _tuple(size), _tuple(stride)
    if (
        len(size) != len(stride)
        or len(size) > MAX_SIDES
        or not all(type(number) is int and number >= 0 for number in (offset, *size, *stride))
    ):
        raise ValueError('a tensor must have sizes and strides')
    end = offset + 1 + sum((number - 1) * step for number, step in zip(size, stride)) if all(size) else offset
    if end * dtype.itemsize > storage.data.nbytes():
        raise ValueError('a tensor must lie within its numbers')
    tensor = torch.empty(0, dtype=dtype, device=storage.data.device).set_(storage.data, offset, size, stride)
    return tensor.requires_grad_(requires_grad is True)


def _parameter(data, requires_grad, *_) -> nn.Parameter:
    if not isinstance(data, Tensor):
        raise ValueError('a parameter must be a tensor')
    return nn.Parameter(data, requires_grad is True)


def _tuple(items) -> tuple:
    if type(items) not in (list, tuple):  # a tensor of one number may have any length
        raise ValueError(f'a list was expected, got a {type(items).__name__}')
    return tuple(items)


def pairs_of(items: Iterable) -> list[tuple[Any, Any]]:
    """Items for a dict, without those that no reader needs."""
    pairs = [(_key(key), value) for key, value in items]
    return [(key, value) for key, value in pairs if key != _PADDLE_NAME_TABLE and not _is_own_function(value)]


def _key(value: Any) -> Any:
    """A value that may be hashed: nested tuples may take for ever, or overflow the stack."""
    if type(value) is tuple and len(value) > MAX_SIDES:
        raise ValueError(f'a key of {len(value):,} parts, more than {MAX_SIDES}')
    for part in value if type(value) is tuple else (value,):
        is_text = isinstance(part, (str, bytes, torch.dtype, type(None)))
        if not is_text and not (type(part) in _NUMBERS and -MAX_KEY < part < MAX_KEY):
            raise ValueError('the keys of dicts and sets must be numbers or texts')
    if type(value) is str:
        value.encode()  # half a character cannot be shown or compared with a name
    return value


def _is_own_function(value: Any) -> bool:
    """Whether a value is a function of a schedule's own class; the schedule that resumes has it already."""
    if type(value) is not Named or value.name != 'builtins.getattr' or value.args is None:
        return False
    owner, name = value.args
    return type(owner) is Named and owner.name == _ONE_CYCLE and name in ('_annealing_cos', '_annealing_linear')


def _counter(counts) -> Counter:
    if type(counts) is not dict or not all(type(count) is int for count in counts.values()):
        raise ValueError('a counter must hold integers')
    return Counter(counts)


def _encode(text, encoding) -> bytes:
    """Bytes as protocol 2 writes them."""
    if type(text) is not str or encoding != 'latin1':
        raise ValueError('bytes must be written as latin1')
    return text.encode('latin1')


def _complex(real, imaginary) -> complex:
    if type(real) is not float or type(imaginary) is not float:
        raise ValueError('a complex number must have two parts')
    return complex(real, imaginary)


def _path(*parts) -> pathlib.PurePath:
    if not all(type(part) is str for part in parts):
        raise ValueError('a path must have names')
    return pathlib.PurePath(*parts)


def _dtype(recorded: Named) -> np.dtype:
    if type(recorded) is not Named or recorded.name != 'numpy.dtype' or recorded.args is None:
        raise ValueError('NumPy arrays must have a type')
    text = recorded.args[0]
    if not re.fullmatch(r'[biufcSU][1-9]\d{0,5}', text):  # no objects, no records, no size 0, which crashes NumPy
        raise ValueError(f'NumPy arrays must hold numbers or strings, got type {text!r}')
    dtype = np.dtype(text)
    return dtype if recorded.state is None else dtype.newbyteorder(recorded.state[1])


def _array_of(shape: tuple, dtype: Named, data: bytes, order: Any = 'C') -> np.ndarray:
    if type(data) is not bytes:  # NumPy would take None for memory of any size
        raise ValueError(f'NumPy arrays must be written as bytes, got a {type(data).__name__}')
    return np.ndarray(shape, _dtype(dtype), data, order=order).copy(order='K')  # too few bytes raise


_NUMBERS: tuple[type, ...] = (bool, int, float, np.bool_, np.float32, np.float64)
_NUMBERS += (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32)
_VALUES: tuple[type, ...] = (str, int, float, complex, bytes, type(None), np.generic, Tensor, set, Counter)
_VALUES += (torch.Size, torch.dtype, torch.device, pathlib.PurePath)
_DTYPES = {  # neither quantized nor packed
    getattr(torch, name)
    for name in 'float64 float32 float16 bfloat16 complex128 complex64 complex32 bool int64 int32 int16 int8 uint64 '
    'uint32 uint16 uint8 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz'.split()
}
_STORAGES = {name: dtype for dtype, name in torch.storage._dtype_to_storage_type_map().items() if dtype in _DTYPES}
CONSTANTS = {
    **{f'{module}.{name}': dtype for module in ('torch', 'torch.cuda') for name, dtype in _STORAGES.items()},
    'torch.storage.UntypedStorage': torch.uint8,
    **{str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)},
}
CALLED: dict[str, Callable] = {
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_tensor_v3': _tensor,
    **dict.fromkeys(  # without hooks and attributes
        ('torch._utils._rebuild_parameter', 'torch._utils._rebuild_parameter_with_state'), _parameter
    ),
    'torch.Size': lambda sizes: torch.Size(_tuple(sizes)),
    'torch.device': torch.device,
    'collections.OrderedDict': lambda items=(): OrderedDict(pairs_of(_tuple(items))),
    'collections.Counter': _counter,
    'builtins.set': lambda items: {_key(item) for item in _tuple(items)},
    'builtins.tuple': _tuple,  # in Paddle's
    'builtins.complex': _complex,
    'builtins.bytes': lambda: b'',
    '_codecs.encode': _encode,
    'mmengine.config.config.ConfigDict': lambda values: values,  # in a data set's metainfo
    'numpy._core.multiarray.scalar': lambda dtype, data: _array_of((), dtype, data)[()],
    **{f'pathlib.{name}': _path for name in ('PosixPath', 'WindowsPath', 'PurePosixPath', 'PureWindowsPath')},
    **{  # the settings of a model of Lightning
        f'{module}.AttributeDict': lambda items=(): dict(pairs_of(_tuple(items)))
        for module in ('lightning.fabric.utilities.data', 'lightning_fabric.utilities.data')
    },
}


def _array(recorded: Named, build: Callable, limits: Limits) -> np.ndarray:
    _, shape, dtype, is_fortran, data = recorded.state
    limits.add(len(data) + math.prod(max(side, 1) for side in shape))
    return _array_of(shape, dtype, data, 'F' if is_fortran else 'C')


def _history(recorded: Named, build: Callable, limits: Limits) -> HistoryBuffer:
    state = recorded.state  # its functions are those of the class, not those of the file
    values, counts = build(state['_log_history']), build(state['_count_history'])
    if not all(isinstance(array, np.ndarray) and array.ndim == 1 for array in (values, counts)):
        raise ValueError('a history must hold arrays')
    limits.add(values.nbytes + counts.nbytes)
    return HistoryBuffer(values, counts, int(state['max_length']))


def _namespace(recorded: Named, build: Callable, limits: Limits) -> argparse.Namespace:
    arguments = build(recorded.state or {})
    if not all(type(name) is str and not name.startswith('__') for name in arguments):
        raise ValueError('arguments must have names')
    return argparse.Namespace(**arguments)


# Values whose content a pickle gives as a state, after it has made them.
FINISHED: dict[str, Callable[[Named, Callable, Limits], Any]] = {
    'numpy._core.multiarray._reconstruct': _array,
    'mmengine.logging.history_buffer.HistoryBuffer': _history,
    'argparse.Namespace': _namespace,  # the arguments in BEiT's, MAE's and timm's checkpoints
}
# The halves of OpenAI's tokenizer, each pickled as a whole, and the prefix of its weights in ours.
DALLE_MODULES = {'dall_e.encoder.Encoder': 'encoder.', 'dall_e.decoder.Decoder': 'decoder.'}
_PARTS = (  # of other values; methods of histories and schedules (getattr) are never looked up
    f'builtins.getattr {_ONE_CYCLE} numpy.dtype numpy.ndarray '
    'dall_e.encoder.EncoderBlock dall_e.decoder.DecoderBlock dall_e.utils.Conv2d '
    'torch.nn.modules.container.Sequential torch.nn.modules.activation.ReLU torch.nn.modules.linear.Identity '
    'torch.nn.modules.pooling.MaxPool2d torch.nn.modules.upsampling.Upsample '
    + ' '.join(f'mmengine.logging.history_buffer.HistoryBuffer.{name}' for name in ('mean', 'max', 'min', 'current'))
).split()  # the methods of histories stand so in protocol 4
ALLOWED = CALLED.keys() | FINISHED.keys() | DALLE_MODULES.keys() | set(_PARTS)


def finish(content: Any, limits: Limits, device: str | torch.device | None = None) -> Any:
    """Make values of what is recorded in a pickle; dicts and lists are changed in place.

    Args:
        content: what `Unpickler` read.
        limits: of the file. What is shared stays shared, but counts each time, since its readers walk it each time.
        device: where NumPy arrays become tensors, as in files of Paddle; None to leave them as they are.

    Raises:
        Exception: Of almost any kind if the content is not that of an honest file.
    """
    done: dict[int, tuple[Any, Any, int]] = {}  # by identity: the value, what was built, and how much that counted

    def build(value: Any, depth: int = 0) -> Any:
        if isinstance(value, _VALUES):
            return value
        if depth > MAX_DEPTH:
            raise ValueError(f'values that are nested more than {MAX_DEPTH} deep')
        if id(value) in done:
            limits.add(done[id(value)][2])
            return done[id(value)][1]
        before = limits.left
        limits.add(100 + 40 * len(value) if isinstance(value, (dict, list, tuple)) else 100)
        built = build_new(value, lambda part: build(part, depth + 1))
        built = built if device is None else _to_tensor(built, device)
        done[id(value)] = value, built, before - limits.left
        return built

    def build_new(value: Any, build_part: Callable) -> Any:
        if type(value) in (dict, OrderedDict):
            for key in value:
                value[key] = build_part(value[key])
        elif type(value) is list:
            value[:] = [build_part(part) for part in value]
        elif type(value) is tuple:
            return tuple([build_part(part) for part in value])
        elif type(value) is Named and value.name in FINISHED:
            return FINISHED[value.name](value, build_part, limits)
        else:
            raise ValueError(f'{value.name if type(value) is Named else type(value).__name__} is not a value')
        return value

    return build(content)


def _to_tensor(value: Any, device: str | torch.device) -> Any:
    """A tensor for an array of Paddle, also, since Paddle 2.1, for one with the name of its parameter."""
    if type(value) is tuple and len(value) == 2 and isinstance(value[1], Tensor):
        return value[1]
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype == np.uint16:  # Paddle writes bfloat16 so, a type that NumPy lacks
        return torch.from_numpy(value.view(np.int16)).view(torch.bfloat16).to(device)
    return torch.from_numpy(value).to(device)
