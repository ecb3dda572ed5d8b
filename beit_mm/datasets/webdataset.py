"""Tar shards in webdataset's layout as a map-style data set."""

import os
from collections.abc import Sequence
from io import FileIO
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.logging import print_log

from beit_mm.registry import DATASETS

from .bad_images import BadImage
from .encoded_images import EncodedImageDataset, ImageStore
from .tar_index import cache_path, cached_index, HEADER, ShardIndex

MAX_OPEN_SHARDS = 64  # per process; 22k's thousand shards times ten workers meet the usual limits


class ShardStore(ImageStore):
    """Images in tar shards. 16 bytes per image, 12 without labels, so 227 MB for ImageNet-22k's 14.2 M.

    Args:
        shards: paths of uncompressed tar files.
        indices: where their images lie, one index per shard.
        with_label: whether to keep the labels.
    """

    def __init__(self, shards: Sequence[str], indices: Sequence[ShardIndex], with_label: bool):
        self._ends = np.cumsum([len(index.offsets) for index in indices])
        labels = np.concatenate([index.labels for index in indices]) if with_label else None
        super().__init__(int(self._ends[-1]), labels)
        self._offsets = torch.from_numpy(np.concatenate([index.offsets for index in indices]))
        self._sizes = torch.from_numpy(np.concatenate([index.sizes for index in indices]))
        self.shards = list(shards)
        self._files: dict[int, FileIO] = {}  # the most recent last

    def read(self, row: int) -> tuple[bytes, str]:
        """With the header before the data, which holds the member's name."""
        shard = int(np.searchsorted(self._ends, row, side='right'))
        offset, size = int(self._offsets[row]), int(self._sizes[row])
        content = os.pread(self._open(shard).fileno(), HEADER + size, offset - HEADER)
        if len(content) != HEADER + size:
            raise BadImage(
                f'{self.shards[shard]}/(image at byte {offset})',
                f'the shard {self.shards[shard]} is truncated: it must have {offset + size} bytes for it, '
                f'got {os.path.getsize(self.shards[shard])}',
            )
        name = content[:100].rstrip(b'\0').decode('utf-8', 'replace')
        return content[HEADER:], f'{self.shards[shard]}/{name}'

    def _open(self, shard: int) -> FileIO:
        file = self._files.pop(shard, None) or open(self.shards[shard], 'rb', buffering=0)
        self._files[shard] = file
        if len(self._files) > MAX_OPEN_SHARDS:
            self._files.pop(next(iter(self._files))).close()
        return file

    def __getstate__(self) -> dict:
        """Without open files, which another process cannot take over."""
        return dict(self.__dict__, _files={})


@DATASETS.register_module()
class WebDatasetShards(EncodedImageDataset):
    """Images (and labels) of tar shards in webdataset's layout: members `KEY.jpg` and `KEY.cls`, side by side.

    Random access over all shards, so every sampler shuffles all images; shards lie on a disk that serves random reads,
    not behind an address. The first use reads the headers of every shard (in a run on several processes they share
    that work) and keeps what it found beside the shards. Its 16 bytes per image are held once by each process of a
    run, whose workers share them; without labels it is 12.

    Args:
        shards: file names with braces as webdataset takes them, `train-{000000..000123}.tar`; one or several.
        data_root: folder of relative names.
        image_keys: extensions of images; a sample's image is the first of them that it has.
        label_key: extension of the class number, in decimal digits.
        index_dir: folder for the index, relative to the shards' own; None keeps it in memory.
        with_label, **kwargs: of EncodedImageDataset; class names come from `classes` or `metainfo`.

    Raises:
        FileNotFoundError: If a shard is missing.
        ValueError: If a shard is truncated or no uncompressed tar file, or a sample has no image or no label.
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
        self.shards = [
            os.path.join(os.path.expanduser(data_root), os.path.expanduser(shard)) for shard in expand_shards(shards)
        ]
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
            print_log(f'making an index of {new} shards, about 80 us per member', 'current')
        # Every process starts with a share of its own, and finds the others' done when it comes to them.
        rank, num_processes = get_dist_info()
        order = sorted(range(len(self.shards)), key=lambda place: ((place - rank) % num_processes, place))
        indices = {
            place: cached_index(self.shards[place], self.image_keys, self.label_key, self.index_dir) for place in order
        }
        return ShardStore(self.shards, [indices[place] for place in range(len(indices))], self.with_label)

    def extra_repr(self) -> list[str]:
        return [f'Shards: \t{len(self.shards)}, from {self.shards[0]}', *super().extra_repr()]


def expand_shards(shards: str | Sequence[str]) -> list[str]:
    """File names with braces to all the names they stand for, in order.

    Raises:
        ValueError: If there is no name.
        ImportError: If there are braces and the optional package is not installed.
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
