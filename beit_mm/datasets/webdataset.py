"""Tar shards in webdataset's layout as a map-style data set."""

import json
import os
import re
import tarfile
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.logging import print_log

from beit_mm.errors import UserError
from beit_mm.files import atomic_write
from beit_mm.registry import DATASETS

from .bad_images import BadImage
from .listing import IMAGE_SUFFIXES
from .stored_images import StoredImages

HEADER = 512  # bytes of the header before the data of each member
# One record per image: 16 bytes. Offset and size are in bytes; label -1 means none.
INDEX = np.dtype([('offset', np.int64), ('size', np.int32), ('label', np.int32)])
INDEX_FORMAT = 3  # of the cached index; increase it when its content changes
MAX_DIGITS = 9  # of a class number

# As webdataset splits names: `folder/00012.seg.png` is the member `seg.png` of the sample `folder/00012`.
MEMBER = re.compile(r'^((?:.*/|)[^.]+)[.]([^/]*)$')
META = re.compile(r'__[^/]*__($|/)')  # webdataset's own members, which belong to no sample
HIDDEN = re.compile(r'(^|/)[.][^/.]')  # files and folders, such as `._1.jpg` and `.ipynb_checkpoints`
IMAGE_KEYS = tuple(suffix[1:] for suffix in IMAGE_SUFFIXES)


@DATASETS.register_module()
class WebDatasetShards(StoredImages):
    """Images (and labels) of tar shards in webdataset's layout: members `KEY.jpg` and `KEY.cls` in sequence.

    Reads at random over all shards, so every sampler shuffles all images. The shards must lie on a disk that serves
    random reads, not behind a URL. The first use reads the headers of all shards (the processes of a run share that
    work) and caches an index next to them. Each process of a run holds its 16 bytes per image once (12 without
    labels, 227 MB for ImageNet-22k with them) and shares them with its workers.

    Args:
        shards: file names, with braces as webdataset takes them, `train-{000000..000123}.tar`; one or several.
        data_root: folder of relative names.
        image_keys: lower-case extensions of images; a sample's image is the first of them that it has. Hidden
            members do not count.
        label_key: extension of the class number, in decimal digits.
        index_dir: folder for the index, relative to the folder of each shard; None keeps it in memory.
        with_label, kwargs: see StoredImages; class names come from `classes` or `metainfo`.

    Raises:
        FileNotFoundError: If a shard is missing.
        UserError: If a shard is truncated or no uncompressed tar file, or a sample has no image or no label.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        data_root: str = '',
        image_keys: Sequence[str] = IMAGE_KEYS,
        label_key: str = 'cls',
        index_dir: str | None = '.index',
        **kwargs,
    ):
        root = os.path.expanduser(data_root)
        self.shards = [os.path.join(root, os.path.expanduser(shard)) for shard in expand_shards(shards)]
        self.image_keys, self.label_key, self.index_dir = tuple(image_keys), label_key, index_dir
        super().__init__(data_root=data_root, **kwargs)

    def open_store(self) -> tuple[int, np.ndarray | None]:
        missing = [shard for shard in self.shards if not os.path.isfile(shard)]
        if missing:
            raise FileNotFoundError(f'{len(missing)} of {len(self.shards)} shards do not exist: {missing[0]}')
        # Each process starts at another shard, and later reads the indices that the others have written.
        rank, num_processes = get_dist_info()
        start = rank * len(self.shards) // num_processes
        indices = [self._cached_index(shard) for shard in self.shards[start:] + self.shards[:start]]
        indices = indices[len(indices) - start :] + indices[: len(indices) - start]
        self._ends = np.cumsum([len(index) for index in indices])
        index = np.concatenate(indices)
        self._offsets, self._sizes = (torch.from_numpy(index[name].copy()) for name in ('offset', 'size'))
        return len(index), index['label'] if self.with_label else None

    def read(self, row: int) -> tuple[bytes, str]:
        """Reads the header before the data too, for the member's name."""
        shard = int(np.searchsorted(self._ends, row, side='right'))
        path, offset, size = self.shards[shard], int(self._offsets[row]), int(self._sizes[row])
        with open(path, 'rb', buffering=0) as file:
            content = os.pread(file.fileno(), HEADER + size, offset - HEADER)
        if len(content) != HEADER + size:
            raise BadImage(
                f'{path}/(image at byte {offset})',
                f'the shard {path} is truncated: it must have {offset + size} bytes for it, '
                f'got {os.path.getsize(path)}',
            )
        name = content[:100].rstrip(b'\0').decode('utf-8', 'replace')
        return content[HEADER:], f'{path}/{name}'

    def extra_repr(self) -> list[str]:
        return [f'Shards: \t{len(self.shards)}, from {self.shards[0]}', *super().extra_repr()]

    def _cached_index(self, path: str) -> np.ndarray:
        """The index of a shard, INDEX (n,), from an earlier run's file if the shard has not changed since."""
        if self.index_dir is None:
            return index_shard(path, self.image_keys, self.label_key)
        cache = Path(path).parent / self.index_dir / f'{Path(path).name}.npz'
        status = os.stat(path)
        stamp = json.dumps([INDEX_FORMAT, status.st_size, status.st_mtime_ns, self.image_keys, self.label_key])
        with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # missing or damaged
            with np.load(cache) as stored:
                if str(stored['stamp']) == stamp:
                    return stored['index']
        print_log(f'indexing {path}, about 80 us per member', 'current')
        index = index_shard(path, self.image_keys, self.label_key)
        with suppress(OSError), atomic_write(cache) as temporary:  # the folder may be read-only or full
            np.savez(temporary, index=index, stamp=np.array(stamp))
        return index


def expand_shards(shards: str | Sequence[str]) -> list[str]:
    """Expand file names with braces, in order. ValueError without a name, ImportError without braceexpand."""
    patterns = [shards] if isinstance(shards, str) else list(shards)
    if not patterns:
        raise UserError('shards must name at least one tar file, got none')
    if not any('{' in pattern for pattern in patterns):
        return patterns
    try:
        from braceexpand import braceexpand  # comes with webdataset
    except ImportError as error:
        raise ImportError('braces need the package braceexpand: pip install "beit_mm[sources]"') from error
    return [name for pattern in patterns for name in braceexpand(pattern)]


def index_shard(path: str, image_keys: Sequence[str], label_key: str) -> np.ndarray:
    """Read the headers of a shard; INDEX (n,), in order. Arguments and errors: see WebDatasetShards."""
    index = []
    try:
        with open(path, 'rb') as file, tarfile.open(fileobj=file, mode='r:') as tar:
            seen = (entry for entry in tar if not HIDDEN.search(entry.name) and not META.match(entry.name))
            names = ((MEMBER.match(entry.name), entry) for entry in seen if entry.isreg())
            parts = ((name[1], name[2].lower(), entry) for name, entry in names if name)
            for sample, entries in groupby(parts, key=lambda entry: entry[0]):
                members = {extension: member for _, extension, member in entries}
                image = next((members[key] for key in image_keys if key in members), None)
                if image is None:
                    raise UserError(
                        f'{path}: the sample {sample} must have an image ({", ".join(image_keys)}), got '
                        f'{", ".join(members)}'
                    )
                index.append((image.offset_data, image.size, _read_label(file.fileno(), members.get(label_key))))
            # tarfile does not notice a file that is cut between two members.
            if os.pread(file.fileno(), HEADER, tar.offset) != bytes(HEADER):
                raise UserError(f'the shard {path} is truncated: no end mark at byte {tar.offset}')
    except tarfile.TarError as error:
        raise UserError(f'the shard {path} is truncated or no uncompressed tar file: {error}') from error
    return np.array(index, INDEX)


def _read_label(descriptor: int, member: tarfile.TarInfo | None) -> int:
    """-1 without a member or if it is no class number."""
    digits = b'' if member is None else os.pread(descriptor, 32, member.offset_data)[: member.size].strip()
    return int(digits) if digits.isdigit() and len(digits) <= MAX_DIGITS else -1
