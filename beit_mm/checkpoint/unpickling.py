"""Reads pickles without executing anything: no name of a file is imported, and only functions listed here are called.

Nothing of the process is read or changed but what the file itself makes; see `pickled_values`.
"""

import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from beit_mm.text import show_start

from .pickled_values import ALLOWED, CALLED, CONSTANTS, Limits, MAX_SIDES, Named, pairs_of, Storage

MAX_OPCODES = 1_000_000  # a checkpoint of 20,000 tensors has 700,000
MAX_ARGS = 100  # of a call; a path has one for each folder
_OPCODES = (  # of protocols 2 to 4; not among them: sets, and EXT, INST, OBJ and NEWOBJ_EX, which call
    'PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE '
    'BINUNICODE8 SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST '
    'EMPTY_DICT GLOBAL STACK_GLOBAL BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET'
).split()
# From the type of a tensor's numbers, their key, their device and their least number of bytes to the numbers.
FindStorage = Callable[[torch.dtype, str, str, int], torch.UntypedStorage]


class NotAllowed(pickle.UnpicklingError):
    """A pickle names something that is not allowed."""


class _Dispatch(dict[int, Callable]):
    """The function of each opcode; more look-ups than a number are an error."""

    def __init__(self, functions: dict[int, Callable], max_opcodes: int):
        super().__init__(functions)
        self.left = max_opcodes

    def __getitem__(self, opcode: int) -> Callable:
        self.left -= 1
        if self.left < 0:
            raise ValueError(f'more values than {MAX_OPCODES:,}, or than a part of the file may have')
        return super().__getitem__(opcode)


_PythonUnpickler: Any = pickle._Unpickler


class Unpickler(_PythonUnpickler):  # not the one in C, which allocates whatever size a file names
    """Reads a pickle into dicts, lists, tuples, what `CALLED` makes, and `Named`.

    Args:
        file: what the pickle is read from.
        limits: of the whole file.
        find_storage: None if the file holds no tensors outside of the pickle.
        max_opcodes: of the pickle.
    """

    dispatch = {getattr(pickle, name)[0]: _PythonUnpickler.dispatch[getattr(pickle, name)[0]] for name in _OPCODES}

    def __init__(
        self, file: Any, limits: Limits, find_storage: FindStorage | None = None, max_opcodes: int = MAX_OPCODES
    ):
        super().__init__(file, encoding='utf-8')
        self.dispatch = _Dispatch(self.dispatch, max_opcodes)
        self._limits, self._find_storage = limits, find_storage

    def find_class(self, module: str, name: str) -> Any:
        full_name = f'{module}.{name}'.replace('__builtin__.', 'builtins.')
        full_name = full_name.replace('numpy.core.', 'numpy._core.')  # of NumPy 1
        full_name = full_name.replace('pathlib._local.', 'pathlib.')  # of Python 3.13
        if full_name in CONSTANTS:
            return CONSTANTS[full_name]
        if full_name not in ALLOWED:
            is_tensor = full_name.startswith(('torch._utils._rebuild_', 'torch._tensor._rebuild_'))
            advice = ', which makes no plain tensor with values; save dense ones' if is_tensor else ''
            raise NotAllowed(f'global {show_start(full_name.removeprefix("builtins."))}{advice}')
        return Named(full_name)

    def _call(self) -> None:
        args, named = self.stack.pop(), self.stack.pop()
        if type(named) is not Named or named.args is not None or type(args) is not tuple:
            raise pickle.UnpicklingError(f'a {type(named).__name__} cannot be called')
        if len(args) > MAX_ARGS:
            raise ValueError(f'a call with {len(args):,} values, more than {MAX_ARGS}')
        self._limits.add(100 * len(args))
        self._limits.add(sum(len(arg) for arg in args if isinstance(arg, (str, bytes))))
        for arg in args:
            if isinstance(arg, (list, tuple, dict)):
                self._limits.add((200 if len(arg) > MAX_SIDES else 20) * len(arg))  # the sides of a tensor are few
                tuples = [item for item in arg if type(item) is tuple and item]
                self._limits.add_keys(tuples if named.name == 'builtins.set' else [item[0] for item in tuples])
        value = CALLED[named.name](*args) if named.name in CALLED else Named(named.name, args)
        if isinstance(value, Tensor):
            self._limits.add(1000 + value.itemsize * math.prod(max(side, 1) for side in value.shape))
        self.append(value)

    def _set_state(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is Named and target.args is not None and target.state is None:
            target.state = state
        elif type(target) is OrderedDict and type(state) is dict:
            metadata = state.get('_metadata')  # of a state dict: the versions of its modules
            if isinstance(metadata, dict):
                self._limits.add(100 * len(metadata))
                versions = {name: entry.get('version') for name, entry in metadata.items() if type(entry) is dict}
                target._metadata = {  # type: ignore[attr-defined]
                    name: dict(version=version) for name, version in versions.items() if type(version) is int
                }
        else:
            raise pickle.UnpicklingError(f'a {type(target).__name__} cannot take this state')

    def _add(self, items: list, *types: type) -> None:
        """Add items to the list on the stack, or keys and values to the dict."""
        target = self.stack[-1]
        if type(target) not in types:
            raise pickle.UnpicklingError(f'a {type(target).__name__} cannot take items')
        if type(target) is list:
            target.extend(items)
            return
        self._limits.add_keys(items[::2])
        target.update(pairs_of(zip(items[::2], items[1::2], strict=True)))

    def _load_storage(self) -> None:
        """The numbers of a tensor, which torch keeps outside the pickle."""
        match self.stack.pop():
            case ('storage', torch.dtype() as dtype, str() as key, str() as device, int() as count, *view) if (
                self._find_storage is not None and count >= 0 and device != 'meta' and not any(view)
            ):
                self.append(Storage(self._find_storage(dtype, key, device, count * dtype.itemsize), dtype))
            case _:
                raise pickle.UnpicklingError('only numbers of tensors may lie outside the pickle')

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
