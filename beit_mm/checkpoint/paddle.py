"""Reads what paddle.save writes: a pickle of names and NumPy arrays (`.pdparams`), without Paddle.

The format is that of `_pickle_save` and `_legacy_save` in Paddle's python/paddle/framework/io.py.
"""

import mmap
import pickle
from pathlib import Path

import numpy as np
import torch

from .stand_ins import Array, ARRAYS, Dtype, settle

_NAME_TABLE = 'StructuredToParameterName@@'
_OPCODES = (  # of protocols 2 to 4; not among them: NEWOBJ, EXT and PERSID, which call what others registered
    'PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE '
    'BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS '
    'EMPTY_DICT GLOBAL STACK_GLOBAL REDUCE BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET'
).split()


def _encode(text, encoding):
    """How protocol 2 writes bytes."""
    if encoding != 'latin1':
        raise ValueError(f'bytes must be written as latin1, got {encoding!r}')
    return text.encode('latin1')


_ALLOWED = {**ARRAYS, '_codecs.encode': _encode, 'collections.OrderedDict': lambda: {}}
for _module in ('builtins', '__builtin__'):  # protocols 3 and 4, protocol 2
    _ALLOWED.update({f'{_module}.tuple': lambda pair: tuple(pair), f'{_module}.bytes': lambda: b''})


class _Reader(pickle._Unpickler):  # not the one in C: five bytes make it allocate 68 GB, nested keys overflow its stack
    dispatch = {getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in _OPCODES}

    def find_class(self, module, name):
        try:
            return _ALLOWED[f'{module}.{name}']
        except KeyError:
            raise pickle.UnpicklingError(f'GLOBAL {module}.{name} was not allowed') from None

    def _build(self):
        state = self.stack.pop()
        if type(self.stack[-1]) not in (Array, Dtype):  # functions and classes have a state, too
            raise pickle.UnpicklingError(f'only arrays may have a state, got a {type(self.stack[-1]).__name__}')
        self.stack[-1].__setstate__(state)

    def _set_items(self):
        self._fill(self.pop_mark())

    def _set_item(self):
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def _fill(self, items):
        if type(self.stack[-1]) is not dict or any(type(key) not in (str, int) for key in items[::2]):
            raise pickle.UnpicklingError('names and numbers must be the keys of dicts')
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    dispatch.update({pickle.BUILD[0]: _build, pickle.SETITEMS[0]: _set_items, pickle.SETITEM[0]: _set_item})


def _to_tensors(value, device):
    if isinstance(value, dict):
        return {key: _to_tensors(item, device) for key, item in value.items() if key != _NAME_TABLE}
    if isinstance(value, list):
        return [_to_tensors(item, device) for item in value]
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], np.ndarray):
        value = value[1]  # since Paddle 2.1 with the name of the parameter
    if not isinstance(value, np.ndarray):
        if not isinstance(value, (type(None), bool, int, float, str, bytes, tuple, np.generic)):
            raise ValueError(f'a {type(value).__name__} in the place of a value')
        return value
    if value.dtype == np.uint16:  # a type that Paddle lacks: bfloat16 is written so
        return torch.from_numpy(value.view(np.int16)).view(torch.bfloat16).to(device)
    return torch.from_numpy(value).to(device)


def read_paddle(path: Path, device='cpu') -> dict:
    """Read a `.pdparams` file.

    Args:
        path: the file.
        device: where the tensors go.

    Returns:
        What was saved, arrays as tensors, less Paddle's table of parameter names. Linear weights stay (in, out), as
        Paddle lays them.

    Raises:
        Exception: Of almost any kind if the file is damaged, of another kind, or names what is not allowed.
    """
    # mapped: a read never takes more memory than the file is long, whatever length the file names
    with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:2] not in (b'\x80\2', b'\x80\3', b'\x80\4'):
            raise pickle.UnpicklingError('no pickle of protocol 2, 3 or 4')
        try:
            saved = _Reader(content).load()
        except KeyError as error:
            raise pickle.UnpicklingError(f'opcode {error}, which paddle.save does not write') from error
    return _to_tensors(settle(saved), device)
