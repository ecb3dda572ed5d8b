"""Reads what torch.save wrote, in its zip format and the one before.

Not torch.load, which takes no unpickler if TORCH_FORCE_WEIGHTS_ONLY_LOAD is set, runs TorchScript archives, unpacks tar
archives, and gives a tensor more memory than the file has for it.
"""

import io
import mmap
import sys
import zipfile
from pathlib import Path
from typing import Any, IO

import torch
from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION

from .pickled_values import finish, Limits
from .unpickling import Unpickler

MAX_PARTS = 30_000  # of a zip file; one for each tensor
CHUNK = 1 << 24  # bytes that are read at once
PART_HEAD = 30  # bytes before the name and the content of a part
ENTRY_HEAD, ZIP64_TAIL = 46, 76  # bytes before a name in the list of parts, and after the list if the file is large
MAX_EXTRA = 200  # bytes of an entry in the list of parts


def verify_parts(path: Path) -> bool:
    """Compare every part of a file that torch.save wrote with its CRC-32, which torch.load does not.

    Files without checksums pass: torch.save's old format, and `torch.serialization.set_crc32_options(False)`.

    Returns:
        Whether the file is in torch.save's zip format.

    Raises:
        zipfile.BadZipFile: If a part is damaged, or is compressed or shared, which torch.save never does.
    """
    with path.open('rb') as file:
        if file.read(4) != b'PK\3\4':
            return False
        with _open(file) as archive:
            for part in _parts_of(archive).values():
                with archive.open(part) as content:
                    while content.read(CHUNK):  # raises at the end
                        pass
    return True


def read_meta(path: Path) -> dict:
    """The entry `meta` of a run's checkpoint, without its tensors; other files raise an exception of any type."""
    limits = Limits(path.stat().st_size)
    return finish(unpickle_zip(path, 'meta', limits)['meta'], limits)


def unpickle_zip(path: Path, map_location: Any, limits: Limits) -> Any:
    """The content of a file in the zip format, before `finish`."""
    restore = torch.serialization._get_restore_location(map_location)
    storages: dict[str, torch.UntypedStorage] = {}
    with path.open('rb') as file, _open(file) as archive:
        parts = _parts_of(archive)
        root = next(iter(parts)).partition('/')[0]
        order = archive.read(parts[f'{root}/byteorder']) if f'{root}/byteorder' in parts else b'little'
        if order not in (b'little', b'big'):
            raise ValueError('an unknown byte order')

        def find_storage(dtype: torch.dtype, key: str, device: str, size: int) -> torch.UntypedStorage:
            part = parts[f'{root}/data/{key}']
            if not size <= part.file_size < size + dtype.itemsize:
                raise ValueError(f'{part.filename} of {part.file_size} bytes instead of {size}')
            if key not in storages:
                storage = torch.UntypedStorage(part.file_size, device='meta' if map_location == 'meta' else 'cpu')
                if map_location != 'meta':
                    with archive.open(part) as content:
                        _fill(storage, content)
                    if order != sys.byteorder.encode():
                        storage.byteswap(dtype)
                storages[key] = restore(storage, device)
            return storages[key]

        return Unpickler(io.BytesIO(archive.read(parts[f'{root}/data.pkl'])), limits, find_storage).load()


def unpickle_legacy(path: Path, map_location: Any, limits: Limits) -> Any:
    """The content of a file in the old format, before `finish`. Its numbers follow the pickle, which is read twice."""
    restore = torch.serialization._get_restore_location(map_location)
    with map_file(path) as memory:
        magic, version, _ = (Unpickler(memory, limits, max_opcodes=100).load() for _ in range(3))
        if (magic, version) != (MAGIC_NUMBER, PROTOCOL_VERSION):
            raise ValueError('no file of torch.save')
        start = memory.tell()
        expected: dict[str, tuple[int, int]] = {}
        read: dict[str, torch.UntypedStorage] = {}
        restored: dict[str, torch.UntypedStorage] = {}

        def note(dtype: torch.dtype, key: str, device: str, size: int) -> torch.UntypedStorage:
            if expected.setdefault(key, (size, dtype.itemsize)) != (size, dtype.itemsize):
                raise ValueError('numbers of two sizes')
            return torch.UntypedStorage(size, device='meta')

        def find_storage(dtype: torch.dtype, key: str, device: str, size: int) -> torch.UntypedStorage:
            if key not in restored:
                restored[key] = restore(read[key], device)
            return restored[key]

        Unpickler(memory, limits, note).load()
        for key in Unpickler(memory, limits).load():
            size, itemsize = expected[key]
            if int.from_bytes(memory.read(8), 'little') * itemsize != size or size > len(memory) - memory.tell():
                raise ValueError('other numbers than the file says')
            read[key] = torch.UntypedStorage(size, device='cpu')
            _fill(read[key], memory)
        memory.seek(start)
        return Unpickler(memory, limits, find_storage).load()


def map_file(path: Path) -> mmap.mmap:
    """A file as memory: a read never takes more memory than the file is long, even if the pickle claims more."""
    with path.open('rb') as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _open(file: IO[bytes]) -> zipfile.ZipFile:
    """Open an archive of few parts without long extra fields, which zipfile reads in quadratic time."""
    record = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if record is None:
        raise zipfile.BadZipFile('no list of parts, so the end of the file is missing')
    mark, size, end = record[0], record[5], record[9]
    file.seek(end)
    # Newer releases of Python return where the zip64 record is, which large files have; older ones the last record.
    tail = ZIP64_TAIL if mark == b'PK\6\6' and file.read(4) != mark else 0
    file.seek(max(0, end - size - tail))
    directory, start, count = file.read(size), 0, 0
    while start < len(directory):
        name, extra, comment = (int.from_bytes(directory[start + at : start + at + 2], 'little') for at in (28, 30, 32))
        start, count = start + ENTRY_HEAD + name + extra + comment, count + 1
        if count > MAX_PARTS or extra > MAX_EXTRA:
            raise zipfile.BadZipFile(f'more than {MAX_PARTS:,} parts, or a part with much that is no content')
    return zipfile.ZipFile(file)


def _parts_of(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Parts by their names. None may share bytes with another: a small file could hold any amount."""
    parts = sorted(archive.infolist(), key=lambda part: part.header_offset)
    end = 0
    for part in parts:
        if part.compress_type != zipfile.ZIP_STORED or part.file_size != part.compress_size:
            raise zipfile.BadZipFile(f'{part.filename} is compressed')
        if part.header_offset < end:
            raise zipfile.BadZipFile(f'{part.filename} shares bytes with another part')
        end = part.header_offset + PART_HEAD + part.file_size
    if end > archive.start_dir:
        raise zipfile.BadZipFile('parts that are longer than the file')
    if not any(part.CRC for part in parts):  # saved without checksums
        for part in parts:
            part.CRC = None  # type: ignore[assignment]
    by_name = {part.filename: part for part in archive.infolist()}
    if len(by_name) < len(parts):
        raise zipfile.BadZipFile('two parts of one name')
    return by_name


def _fill(storage: torch.UntypedStorage, content: IO[bytes] | mmap.mmap) -> None:
    numbers = torch.empty(0, dtype=torch.uint8, device='cpu').set_(storage).numpy().data
    for start in range(0, len(numbers), CHUNK):
        chunk = numbers[start : start + CHUNK]
        chunk[:] = content.read(len(chunk))  # raises if there are fewer
