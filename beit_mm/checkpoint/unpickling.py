"""Reads pickles without executing anything: no name of a file is imported, and only functions listed here are called.

`CALLED` makes values of plain data. Everything else that a pickle may name is only recorded, as `Named`; `finish` makes
values of what `FINISHED` lists and refuses the rest. Torch's readers take this module as their `pickle_module`.
"""

import argparse
import pickle
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import nn, Tensor
from torch.serialization import StorageType
from torch.storage import TypedStorage

_SCALARS = (str, int, float, complex, bytes, type(None), np.generic)
_VALUES = (*_SCALARS, Tensor, set, Counter, torch.Size, torch.dtype, torch.device)
_PADDLE_NAME_TABLE = 'StructuredToParameterName@@'
_ONE_CYCLE = 'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler'
_OPCODES = (  # of protocols 2 to 4; not among them: sets, and EXT, INST, OBJ and NEWOBJ_EX, which call
    'PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE '
    'BINUNICODE8 SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST '
    'EMPTY_DICT GLOBAL STACK_GLOBAL BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET'
).split()


class NotAllowed(pickle.UnpicklingError):
    """A pickle names something that is not allowed."""


@dataclass(eq=False)
class Named:
    """A function or class that a pickle names, or, with arguments, what calling it would return. It does nothing."""

    name: str
    args: tuple | None = None
    state: Any = None


def _tensor(storage, offset, size, stride, requires_grad, hooks, *rest) -> Tensor:
    dtype, *more = rest if rest and isinstance(rest[0], torch.dtype) else (storage.dtype, *rest)
    if type(storage) is not TypedStorage or any(more):  # such as a view that is conjugated
        raise ValueError('a tensor must be plain')
    tensor = torch._utils._rebuild_tensor_v3(storage, offset, size, stride, False, OrderedDict(), dtype)
    return tensor.requires_grad_(requires_grad)


def _tuple(items) -> tuple:
    if type(items) not in (list, tuple):  # a tensor of one number may have any length
        raise ValueError(f'a list was expected, got a {type(items).__name__}')
    return tuple(items)


def _pairs(items: Iterable) -> list[tuple[Any, Any]]:
    """Items for a dict, less those that no reader needs."""
    pairs = [(_key(key), value) for key, value in items]
    return [(key, value) for key, value in pairs if key != _PADDLE_NAME_TABLE and not _is_own_function(value)]


def _key(value: Any) -> Any:
    """A value that may be hashed: nested tuples may take for ever, or overflow the stack."""
    if not all(isinstance(part, _SCALARS) for part in (value if type(value) is tuple else (value,))):
        raise ValueError('the keys of dicts and sets must be numbers or texts')
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


CONSTANTS = {
    'torch.storage.UntypedStorage': torch.UntypedStorage,
    **{str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)},
}
CALLED: dict[str, Callable] = {
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_tensor_v3': _tensor,
    **dict.fromkeys(  # without hooks and attributes
        ('torch._utils._rebuild_parameter', 'torch._utils._rebuild_parameter_with_state'),
        lambda data, requires_grad, *_: nn.Parameter(data, requires_grad),
    ),
    'torch.Size': lambda sizes: torch.Size(_tuple(sizes)),
    'torch.device': torch.device,
    'collections.OrderedDict': lambda items=(): OrderedDict(_pairs(_tuple(items))),
    'collections.Counter': _counter,
    'builtins.set': lambda items: set(map(_key, _tuple(items))),
    'builtins.tuple': _tuple,  # in Paddle's
    'builtins.complex': complex,
    'builtins.bytes': lambda: b'',
    '_codecs.encode': _encode,
    'mmengine.config.config.ConfigDict': lambda values: values,  # in a data set's metainfo
    'numpy._core.multiarray.scalar': lambda dtype, data: _array_of((), dtype, data)[()],
}


def _array(recorded: Named, build: Callable) -> np.ndarray:
    _, shape, dtype, is_fortran, data = recorded.state
    return _array_of(shape, dtype, data, 'F' if is_fortran else 'C')


def _history(recorded: Named, build: Callable) -> HistoryBuffer:
    state = recorded.state  # its functions are those of the class, not those of the file
    return HistoryBuffer(build(state['_log_history']), build(state['_count_history']), int(state['max_length']))


def _namespace(recorded: Named, build: Callable) -> argparse.Namespace:
    arguments = build(recorded.state or {})
    if not all(type(name) is str and not name.startswith('__') for name in arguments):
        raise ValueError('arguments must have names')
    return argparse.Namespace(**arguments)


# What takes a state after it was made.
FINISHED: dict[str, Callable[[Named, Callable], Any]] = {
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
    'torch.nn.modules.pooling.MaxPool2d torch.nn.modules.upsampling.Upsample'
).split()
ALLOWED = CALLED.keys() | FINISHED.keys() | DALLE_MODULES.keys() | set(_PARTS)


def finish(content: Any, device: str | torch.device | None = None) -> Any:
    """Make values of what is recorded in a pickle; dicts and lists are changed in place.

    Args:
        content: what `Unpickler` read.
        device: where NumPy arrays become tensors, as in files of Paddle; None to leave them as they are.

    Raises:
        Exception: Of almost any kind if the content is not that of an honest file.
    """
    done: dict[int, tuple[Any, Any]] = {}  # by identity: what is shared stays shared, and takes its time once

    def build(value: Any) -> Any:
        if isinstance(value, _VALUES):
            return value
        if id(value) not in done:
            built = build_new(value)
            done[id(value)] = value, built if device is None else _to_tensor(built, device)
        return done[id(value)][1]

    def build_new(value: Any) -> Any:
        if type(value) in (dict, OrderedDict):
            for key in value:
                value[key] = build(value[key])
        elif type(value) is list:
            value[:] = map(build, value)
        elif type(value) is tuple:
            return tuple(map(build, value))
        elif type(value) is Named and value.name in FINISHED:
            return FINISHED[value.name](value, build)
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


_PythonUnpickler: Any = pickle._Unpickler


class Unpickler(_PythonUnpickler):  # not the one in C, which allocates whatever size a file names
    """Reads a pickle into dicts, lists, tuples, what `CALLED` makes, and `Named`."""

    dispatch = {getattr(pickle, name)[0]: _PythonUnpickler.dispatch[getattr(pickle, name)[0]] for name in _OPCODES}

    def find_class(self, module: str, name: str) -> Any:
        full_name = f'{module}.{name}'.replace('__builtin__.', 'builtins.')
        full_name = full_name.replace('numpy.core.', 'numpy._core.')  # of NumPy 1
        if full_name in CONSTANTS:
            return CONSTANTS[full_name]
        if full_name not in ALLOWED:
            raise NotAllowed(f'global {full_name.removeprefix("builtins.")}')
        return Named(full_name)

    def _call(self) -> None:
        args, named = self.stack.pop(), self.stack.pop()
        if type(named) is not Named or named.args is not None or type(args) is not tuple:
            raise pickle.UnpicklingError(f'a {type(named).__name__} cannot be called')
        self.append(CALLED[named.name](*args) if named.name in CALLED else Named(named.name, args))

    def _set_state(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is Named and target.args is not None and target.state is None:
            target.state = state
        elif type(target) is OrderedDict and type(state) is dict:
            metadata = state.get('_metadata')  # of a state dict
            if isinstance(metadata, dict) and all(isinstance(entry, dict) for entry in metadata.values()):
                target._metadata = finish(metadata)  # type: ignore[attr-defined]
        else:
            raise pickle.UnpicklingError(f'a {type(target).__name__} cannot take this state')

    def _add(self, items: list, *types: type) -> None:
        """Add items to the list on the stack, or keys and values to the dict."""
        target = self.stack[-1]
        if type(target) not in types:
            raise pickle.UnpicklingError(f'a {type(target).__name__} cannot take items')
        if type(target) is list:
            target.extend(items)
        else:
            target.update(_pairs(zip(items[::2], items[1::2], strict=True)))

    def _load_storage(self) -> None:
        """The numbers of a tensor, which torch keeps outside the pickle."""
        match self.stack.pop():
            case ('storage', StorageType() | torch.UntypedStorage, str(), str(), int(), *_) as key:
                self.append(self.persistent_load(key))
            case _:
                raise pickle.UnpicklingError('only storages may lie outside the pickle')

    dispatch.update(
        {
            pickle.REDUCE[0]: _call,
            pickle.NEWOBJ[0]: _call,
            pickle.BUILD[0]: _set_state,
            pickle.APPEND[0]: lambda self: self._add([self.stack.pop()], list),
            pickle.APPENDS[0]: lambda self: self._add(self.pop_mark(), list),
            pickle.SETITEM[0]: lambda self: self._add([self.stack.pop(-2), self.stack.pop()], dict, OrderedDict),
            pickle.SETITEMS[0]: lambda self: self._add(self.pop_mark(), dict, OrderedDict),
            pickle.BINPERSID[0]: _load_storage,
        }
    )


def load(file: Any, **options: str) -> Any:
    """As pickle.load, for torch's readers."""
    return Unpickler(file, **options).load()
