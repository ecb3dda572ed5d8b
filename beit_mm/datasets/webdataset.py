"""Tar shards in webdataset's layout as a map-style data set."""

import json
import os
import re
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import FileIO
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.logging import print_log

from beit_mm.errors import UserError
from beit_mm.files import atomic_write
from beit_mm.registry import DATASETS

from .bad_images import BadImage
from .image_store import ImageStore, StoredImages

MAX_OPEN_SHARDS = 64  # per process: a thousand shards times ten workers would exceed the usual limits
HEADER = 512  # bytes of the header before the data of each member
INDEX_FORMAT = 1  # of the cached index; increase it when its content changes
MAX_LABEL_SIZE = 32  # bytes; a longer member is no number

# As webdataset splits names: `folder/00012.seg.png` is the member `seg.png` of the sample `folder/00012`.
MEMBER = re.compile(r'^((?:.*/|)[^.]+)[.]([^/]*)$')
META = re.compile(r'__[^/]*__($|/)')  # webdataset's own members, which belong to no sample


class ShardIndex(NamedTuple):
    """For n images of a shard: offsets (n,) int64 in bytes, sizes (n,) int32 in bytes, labels (n,) int32, -1 for none.

    16 bytes per image.
    """

    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray


class ShardStore(ImageStore):
    """Images in tar shards: 16 bytes per image, 12 without labels; 227 MB for the 14.2 M images of ImageNet-22k.

    Args:
        shards: paths of uncompressed tar files.
        indices: one index per shard.
        with_label: whether to keep the labels.
    """

    def __init__(self, shards: Sequence[str], indices: Sequence[ShardIndex], with_label: bool):
        self._ends = np.cumsum([len(index.offsets) for index in indices])
        labels = np.concatenate([index.labels for index in indices]) if with_label else None
        super().__init__(int(self._ends[-1]), labels)
        self._offsets = torch.from_numpy(np.concatenate([index.offsets for index in indices]))
        self._sizes = torch.from_numpy(np.concatenate([index.sizes for index in indices]))
        self.shards = list(shards)
        self._files: dict[int, FileIO] = {}  # open files, the most recently used last

    def read(self, row: int) -> tuple[bytes, str]:
        """Reads the header before the data too, for the member's name."""
        shard = int(np.searchsorted(self._ends, row, side='right'))
        path, offset, size = self.shards[shard], int(self._offsets[row]), int(self._sizes[row])
        content = os.pread(self._open(shard).fileno(), HEADER + size, offset - HEADER)
        if len(content) != HEADER + size:
            raise BadImage(
                f'{path}/(image at byte {offset})',
                f'the shard {path} is truncated: it must have {offset + size} bytes for it, '
                f'got {os.path.getsize(path)}',
            )
        name = content[:100].rstrip(b'\0').decode('utf-8', 'replace')
        return content[HEADER:], f'{path}/{name}'

    def _open(self, shard: int) -> FileIO:
        file = self._files.pop(shard, None) or open(self.shards[shard], 'rb', buffering=0)
        self._files[shard] = file
        if len(self._files) > MAX_OPEN_SHARDS:
            self._files.pop(next(iter(self._files))).close()
        return file

    def __getstate__(self) -> dict:
        """Without open files, which cannot go to another process."""
        return dict(self.__dict__, _files={})


@DATASETS.register_module()
class WebDatasetShards(StoredImages):
    """Images (and labels) of tar shards in webdataset's layout: members `KEY.jpg` and `KEY.cls` in sequence.

    Reads at random over all shards, so every sampler shuffles all images. The shards must lie on a disk that serves
    random reads, not behind a URL. The first use reads the headers of all shards (the processes of a run share that
    work) and caches an index next to them. Each process of a run holds its 16 bytes per image once (12 without
    labels) and shares them with its workers.

    Args:
        shards: file names, with braces as webdataset takes them, `train-{000000..000123}.tar`; one or several.
        data_root: folder of relative names.
        image_keys: extensions of images; a sample's image is the first of them that it has.
        label_key: extension of the class number, in decimal digits.
        index_dir: folder for the index, relative to the folder of each shard; None keeps it in memory.
        with_label, **kwargs: see StoredImages; class names come from `classes` or `metainfo`.

    Raises:
        FileNotFoundError: If a shard is missing.
        UserError: If a shard is truncated or no uncompressed tar file, or a sample has no image or no label.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        data_root: str = '',
        image_keys: Sequence[str] = ('jpg', 'jpeg', 'png', 'webp'),
        label_key: str = 'cls',
        index_dir: str | None = '.index',
        with_label: bool = True,
        **kwargs,
    ):
        root = os.path.expanduser(data_root)
        self.shards = [os.path.join(root, os.path.expanduser(shard)) for shard in expand_shards(shards)]
        self.image_keys = tuple(image_keys)
        self.label_key = label_key
        self.index_dir = index_dir
        super().__init__(with_label, data_root=data_root, **kwargs)

    def _open_store(self) -> ShardStore:
        missing = [shard for shard in self.shards if not Path(shard).is_file()]
        if missing:
            raise FileNotFoundError(
                f'{len(missing)} of {len(self.shards)} shards do not exist: '
                f'{", ".join(missing[:3])}{" ..." if len(missing) > 3 else ""}'
            )
        caches = [cache_path(shard, self.index_dir) for shard in self.shards]
        new = sum(cache is None or not cache.is_file() for cache in caches)
        if new:
            print_log(f'indexing {new} shards, about 80 us per member', 'current')
        # Each process starts with other shards, and later reads the indices that the others have written.
        rank, num_processes = get_dist_info()
        order = sorted(range(len(self.shards)), key=lambda number: ((number - rank) % num_processes, number))
        indices = {
            number: cached_index(self.shards[number], self.image_keys, self.label_key, self.index_dir)
            for number in order
        }
        return ShardStore(self.shards, [indices[number] for number in range(len(indices))], self.with_label)

    def extra_repr(self) -> list[str]:
        return [f'Shards: \t{len(self.shards)}, from {self.shards[0]}', *super().extra_repr()]


def expand_shards(shards: str | Sequence[str]) -> list[str]:
    """Expand file names with braces, in order.

    Raises:
        ValueError: If there is no name.
        ImportError: If there are braces and the package braceexpand is not installed.
    """
    patterns = [shards] if isinstance(shards, str) else list(shards)
    if not patterns:
        raise ValueError('shards must name at least one tar file, got none')
    if not any('{' in pattern for pattern in patterns):
        return patterns
    try:
        from braceexpand import braceexpand
    except ImportError as error:
        raise ImportError(
            'names of shards with braces need the package braceexpand, which comes with webdataset: '
            'pip install "beit_mm[sources]"'
        ) from error
    return [name for pattern in patterns for name in braceexpand(pattern)]


def cached_index(path: str, image_keys: Sequence[str], label_key: str, cache_dir: str | None) -> ShardIndex:
    """The index of a shard, from a file of an earlier call if the shard has not changed since.

    Args:
        path, image_keys, label_key: see index_shard.
        cache_dir: folder of these files, relative to the shard's folder; None for no file. A folder that cannot be
            written to is no error.
    """
    cache = cache_path(path, cache_dir)
    if cache is None:
        return index_shard(path, image_keys, label_key)
    status = os.stat(path)
    stamp = json.dumps([INDEX_FORMAT, status.st_size, status.st_mtime_ns, list(image_keys), label_key])
    with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # missing or damaged
        with np.load(cache) as stored:
            if str(stored['stamp']) == stamp:
                return ShardIndex(*(stored[name] for name in ShardIndex._fields))
    index = index_shard(path, image_keys, label_key)
    with suppress(OSError), atomic_write(cache) as temporary:  # the folder may be read-only or full
        np.savez(temporary, **index._asdict(), stamp=np.array(stamp))
    return index


def cache_path(path: str, cache_dir: str | None) -> Path | None:
    """The file of a shard's index; None without a folder for it."""
    return None if cache_dir is None else Path(path).parent / cache_dir / f'{Path(path).name}.npz'


def index_shard(path: str, image_keys: Sequence[str], label_key: str) -> ShardIndex:
    """Read the headers of a shard, in order.

    Args:
        path: an uncompressed tar file.
        image_keys: lower-case extensions of images; a sample's image is the first of them that it has.
        label_key: extension of the member that holds the class number in decimal digits.

    Raises:
        UserError: If the file is truncated or no such tar file, or a sample has no image; names the shard.
    """
    offsets, sizes, labels = [], [], []
    try:
        with open(path, 'rb') as file, tarfile.open(fileobj=file, mode='r:') as tar:
            for sample, entries in groupby(_members(tar), key=lambda entry: entry[0]):
                members = {extension: member for _, extension, member in entries}
                image = next((members[key] for key in image_keys if key in members), None)
                if image is None:
                    raise UserError(
                        f'{path}: the sample {sample} must have an image ({", ".join(image_keys)}), got '
                        f'{", ".join(members)}'
                    )
                offsets.append(image.offset_data)
                sizes.append(image.size)
                labels.append(_read_label(file.fileno(), members.get(label_key)))
            # tarfile does not notice a file that is cut between two members.
            if os.pread(file.fileno(), HEADER, tar.offset) != bytes(HEADER):
                raise UserError(f'the shard {path} is truncated: no end mark at byte {tar.offset}')
    except tarfile.TarError as error:
        raise UserError(f'the shard {path} is truncated or no uncompressed tar file: {error}') from error
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
