"""Small weights files that would take a naive reader minutes or all memory, each written by a function of a folder."""

import itertools
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION

from support.payloads import body, program, write

NONES = b'(' + b'N' * 300_000 + b't'
PADDING = bytes(3_000_000)  # behind the end: what may be made of a file follows from its size


def _often(start: bytes, name: str, part: bytes = b'h\0h\1\x85R', number: int = 50_000) -> bytes:
    """A value at 1 and a name at 0 in the memo, called many times."""
    module, _, function = name.rpartition('.')
    found = f'c{module}\n{function}\nq\0'.encode()
    return program(b'}', body('a'), start, b'q\1', found, b'(', part * number, b'ts') + PADDING


_PICKLES: dict[str, bytes] = {
    'a call with many values, often': _often(NONES, 'numpy.dtype', b'h\0h\1R'),
    'a path of many empty names, often': _often(
        b'X\0\0\0\0q\2(' + b'h\2' * 100_000 + b't', 'pathlib.PosixPath', b'h\0h\1R'
    ),
    'a path of some names, often': _often(
        b'X\1\0\0\0aq\2(' + b'h\2' * 90 + b't', 'pathlib.PosixPath', b'h\0h\1R', 200_000
    ),
    'a set of many, often': _often(body(list(range(100_000))), 'builtins.set'),
    'pairs of many, often': _often(body([(number, None) for number in range(50_000)]), 'collections.OrderedDict'),
    'a counter of many, often': _often(body({number: number for number in range(50_000)}), 'collections.Counter'),
    'sets of tuples of one hash, often': _often(
        body(list(itertools.islice(itertools.product((-1, -2), repeat=10), 1000))), 'builtins.set'
    ),
    'a key of many parts, often': program(b'}', body('a'), NONES, b'q\0(', b'}h\0Ns' * 900, b'ts'),
}


def _module(child: bytes, name: bytes = b'ctorch.nn.modules.container\nSequential\n') -> bytes:
    tables = body('_parameters') + b'}' + body('_buffers') + b'}' + body('_modules') + b'}'
    return name + b')\x81}(' + tables + child + b'ub'


def _nested_modules(folder: Path) -> Path:
    """Each with a name of a megabyte, the same one."""
    modules = b''
    for _ in range(300):
        modules = _module(b'h\xff' + modules + b's' if modules else b'')
    content = program(body('n' * 2**20), b'q\xff', _module(b'h\xff' + modules + b's', b'cdall_e.encoder\nEncoder\n'))
    return write(folder, content, 'raw')


def _old_format(folder: Path) -> Path:
    """Every pickle of the format before zip as long as one may be."""
    many = b'(' + b'N' * 990_000 + b't'
    pickles = [program(many, pickle.dumps(number, protocol=2)[2:-1]) for number in (MAGIC_NUMBER, PROTOCOL_VERSION)]
    return write(folder, b''.join([*pickles, program(many), program(many, b'}'), program(many)]), 'raw')


def _directory(folder: Path, number: int, extra: bytes) -> Path:
    """A zip file whose list of parts names one part many times."""
    entry = (
        struct.pack('<4s6H3L5H2L', b'PK\1\2', 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, len(extra), 0, 0, 0, 0, 0) + b'a' + extra
    )
    end = struct.pack('<4s4H2LH', b'PK\5\6', 0, 0, number % 2**16, number % 2**16, len(entry) * number, 30, 0)
    path = folder / 'evil.pth'
    path.write_bytes(b'PK\3\4' + bytes(26) + entry * number + end)
    return path


def _twice(folder: Path) -> Path:
    path = write(folder, program(b'}', body('a'), b'Ns'), 'zip')
    path.write_bytes(path.read_bytes() * 2)
    return path


def _local(folder: Path, old: bytes, new: bytes) -> Path:
    """A part whose own header says something else than the list of parts."""
    path = write(folder, program(b'}'), 'zip')
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    return path


def _large_format(folder: Path) -> Path:
    path = folder / 'evil.pth'
    with zipfile.ZipFile(path, 'w') as archive, archive.open('archive/data.pkl', 'w', force_zip64=True) as part:
        part.write(program(b'}'))
    return path


COSTLY: dict[str, Callable[[Path], Path]] = {
    **{f'cost, {name}': lambda folder, c=content: write(folder, c, 'pdparams') for name, content in _PICKLES.items()},
    'cost, modules of long names': _nested_modules,
    'cost, the old format': _old_format,
    'cost, a list of many parts': lambda folder: _directory(folder, 200_000, b''),
    'cost, parts with much beside them': lambda folder: _directory(folder, 150, b'\x99\x99\0\0' * 16_383),
    'zip, two archives': _twice,
    'zip, another name in its head': lambda folder: _local(folder, b'archive/data.pkl', b'archive/date.pkl'),
    'zip, the large format': _large_format,
    'zip, a comment that looks like an end': lambda folder: _comment(_twice(folder)),
}


def _comment(path: Path) -> Path:
    with zipfile.ZipFile(path, 'a') as archive:
        archive.comment = b'PK\5\6' + bytes(18)
    return path
