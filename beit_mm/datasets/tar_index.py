"""Where the images of a tar shard in webdataset's layout lie, so that any of them can be read at any time."""

import json
import os
import re
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from beit_mm.files import atomic_write

HEADER = 512  # bytes of the header before every member's data
FORMAT = 1  # of the cached index; count up when its content changes
MAX_LABEL_SIZE = 32  # bytes; a longer member is no number

# As webdataset splits names: `folder/00012.seg.png` is the member `seg.png` of the sample `folder/00012`.
MEMBER = re.compile(r'^((?:.*/|)[^.]+)[.]([^/]*)$')
META = re.compile(r'__[^/]*__($|/)')  # webdataset's own members, which belong to no sample


class ShardIndex(NamedTuple):
    """Of n images of a shard: offsets (n,) int64 in bytes, sizes (n,) int32 in bytes, labels (n,) int32, -1 for none.

    16 bytes per image.
    """

    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray


def index_shard(path: str, image_keys: Sequence[str], label_key: str) -> ShardIndex:
    """Read the headers of a shard, in order.

    Args:
        path: an uncompressed tar file.
        image_keys: lower-case extensions of images; a sample's image is the first of them that it has.
        label_key: extension of the member that holds the class number in decimal digits.

    Raises:
        ValueError: If the file is truncated or no such tar file, or a sample has no image; names the shard.
    """
    offsets, sizes, labels = [], [], []
    try:
        with open(path, 'rb') as file, tarfile.open(fileobj=file, mode='r:') as tar:
            for sample, entries in groupby(_members(tar), key=lambda entry: entry[0]):
                members = {extension: member for _, extension, member in entries}
                image = next((members[key] for key in image_keys if key in members), None)
                if image is None:
                    raise ValueError(
                        f'{path}: the sample {sample} must have an image ({", ".join(image_keys)}), got '
                        f'{", ".join(members)}'
                    )
                offsets.append(image.offset_data)
                sizes.append(image.size)
                labels.append(_read_label(file.fileno(), members.get(label_key)))
            # tarfile takes a file that is cut between two members for a whole one.
            if os.pread(file.fileno(), HEADER, tar.offset) != bytes(HEADER):
                raise ValueError(f'the shard {path} is truncated: no end mark at byte {tar.offset}')
    except tarfile.TarError as error:
        raise ValueError(f'the shard {path} is truncated or no uncompressed tar file: {error}') from error
    return ShardIndex(np.array(offsets, np.int64), np.array(sizes, np.int32), np.array(labels, np.int32))


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Sample, extension and header of every member that belongs to a sample."""
    for member in tar:
        parts = MEMBER.match(member.name)
        if member.isreg() and parts and not META.match(member.name):
            yield parts[1], parts[2].lower(), member


def _read_label(descriptor: int, member: tarfile.TarInfo | None) -> int:
    if member is None or member.size > MAX_LABEL_SIZE:
        return -1
    digits = os.pread(descriptor, member.size, member.offset_data).strip()
    return int(digits) if digits.isdigit() else -1


def cached_index(path: str, image_keys: Sequence[str], label_key: str, cache_dir: str | None) -> ShardIndex:
    """The same, from a file that an earlier call has left, as long as the shard has not changed since.

    Args:
        path, image_keys, label_key: see index_shard.
        cache_dir: folder of these files, relative to the shard's own; None for no file. A folder that cannot be
            written to is no error.
    """
    status = os.stat(path)
    stamp = json.dumps([FORMAT, status.st_size, status.st_mtime_ns, list(image_keys), label_key])
    cache = cache_path(path, cache_dir)
    if cache is None:
        return index_shard(path, image_keys, label_key)
    try:
        with np.load(cache) as stored:
            if str(stored['stamp']) == stamp:
                return ShardIndex(*(stored[name] for name in ShardIndex._fields))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # not there yet, or damaged
    index = index_shard(path, image_keys, label_key)
    _write(cache, dict(index._asdict(), stamp=np.array(stamp)))
    return index


def cache_path(path: str, cache_dir: str | None) -> Path | None:
    """The file of a shard's index, None without a folder for it."""
    return None if cache_dir is None else Path(path).parent / cache_dir / f'{Path(path).name}.npz'


def _write(cache: Path, arrays: dict) -> None:
    """Write the index; a folder that is read-only or full is no error."""
    with suppress(OSError), atomic_write(cache) as temporary:
        np.savez(temporary, **arrays)
