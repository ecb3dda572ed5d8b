"""An unpickler that executes nothing: it imports no name of the file and calls nothing that the file names.

Calls and states in a pickle are only recorded, as `Call`. They may name only what `allowed.ALLOWED` lists, and
`allowed.build` then makes values of them.

torch.load takes this module as its `pickle_module`.
"""

import pickle
from typing import Any, IO

import torch
from torch.serialization import StorageType

from .allowed import ALLOWED, Call, CONSTANTS, is_key, Name

_OPCODES = (  # of protocols 2 to 4; not among them: sets, and EXT, INST, OBJ and NEWOBJ_EX, which call
    'PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE '
    'BINUNICODE8 SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST '
    'EMPTY_DICT GLOBAL STACK_GLOBAL BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET'
).split()


_PythonUnpickler: Any = pickle._Unpickler


class NotAllowed(pickle.UnpicklingError):
    """A pickle names something that is not in ALLOWED."""


class Unpickler(_PythonUnpickler):  # not the one in C, which allocates whatever size a file names
    """Reads a pickle into dicts, lists, tuples, numbers, texts, storages and `Call`s."""

    dispatch = {getattr(pickle, name)[0]: _PythonUnpickler.dispatch[getattr(pickle, name)[0]] for name in _OPCODES}

    def load(self) -> Any:
        try:
            return super().load()
        except KeyError as error:
            raise pickle.UnpicklingError(f'opcode {error} is not allowed') from error

    def find_class(self, module: str, name: str) -> Any:
        full_name = f'{module}.{name}'.replace('__builtin__.', 'builtins.')
        if full_name in CONSTANTS:
            return CONSTANTS[full_name]
        if full_name not in ALLOWED:
            raise NotAllowed(f'global {full_name.removeprefix("builtins.")}')
        return Name(full_name)

    def _load_call(self) -> None:
        args, name = self.stack.pop(), self.stack.pop()
        if type(name) is not Name or type(args) is not tuple:
            raise pickle.UnpicklingError(f'a {type(name).__name__} cannot be called')
        self.append(Call(name.name, args))

    def _load_state(self) -> None:
        state, call = self.stack.pop(), self.stack[-1]
        if type(call) is not Call or call.state is not None:
            raise pickle.UnpicklingError(f'a {type(call).__name__} cannot take this state')
        call.state = state

    def _extend(self, items: list) -> None:
        if type(self.stack[-1]) is not list:
            raise pickle.UnpicklingError(f'a {type(self.stack[-1]).__name__} cannot be extended')
        self.stack[-1].extend(items)

    def _update(self, items: list) -> None:
        target, pairs = self.stack[-1], list(zip(items[::2], items[1::2], strict=True))
        if not all(is_key(key) or type(key) is Call for key, _ in pairs):
            raise pickle.UnpicklingError('the keys of dicts must be numbers or texts')
        if type(target) is dict:
            target.update(pairs)
        elif type(target) is Call:
            target.items.extend(pairs)
        else:
            raise pickle.UnpicklingError(f'a {type(target).__name__} cannot take items')

    def _load_storage(self) -> None:
        """The numbers of a tensor, which torch keeps outside the pickle."""
        key = self.stack.pop()
        if type(key) is not tuple or len(key) not in (5, 6) or key[0] != 'storage':
            raise pickle.UnpicklingError('only storages may lie outside the pickle')
        _, kind, name, location, size, *_ = key
        if not isinstance(kind, StorageType) and kind is not torch.UntypedStorage:
            raise pickle.UnpicklingError(f'a {type(kind).__name__} is no type of a storage')
        if type(name) is not str or type(location) is not str or type(size) is not int:
            raise pickle.UnpicklingError('a storage must have a name, a device and a size')
        self.append(self.persistent_load(key))

    dispatch.update(
        {
            pickle.REDUCE[0]: _load_call,
            pickle.NEWOBJ[0]: _load_call,
            pickle.BUILD[0]: _load_state,
            pickle.APPEND[0]: lambda self: self._extend([self.stack.pop()]),
            pickle.APPENDS[0]: lambda self: self._extend(self.pop_mark()),
            pickle.SETITEM[0]: lambda self: self._update([self.stack.pop(-2), self.stack.pop()]),
            pickle.SETITEMS[0]: lambda self: self._update(self.pop_mark()),
            pickle.BINPERSID[0]: _load_storage,
        }
    )


def load(file: IO[bytes], **options: str) -> Any:
    """What pickle.load does, for torch.load."""
    return Unpickler(file, **options).load()
