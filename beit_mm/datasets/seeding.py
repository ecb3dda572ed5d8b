"""Seeds of the random draws for a sample: independent of the number of workers, different in every epoch."""

import hashlib
import random
import struct
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_dist_info
from torch.utils.data import Dataset, Sampler

from beit_mm.errors import UserError
from beit_mm.registry import DATA_SAMPLERS, DATASETS

from .bad_images import BadImage, BadImages

MAX_ATTEMPTS = 100  # to read a sample; reached only if nearly all images may be bad


class SeededIndex(NamedTuple):
    """The index of a sample in its data set, and the seed of everything that is drawn for it."""

    index: int  # type: ignore[assignment]  # hides tuple.index
    seed: int


def derive_seed(*numbers: int) -> int:
    """A 64-bit seed from whole numbers below 2**63, such as (seed of the run, epoch, sample)."""
    packed = struct.pack(f'<{len(numbers)}q', *numbers)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), 'little')


def seed_generators(seed: int) -> None:
    """Seed the generators that transforms draw from: Python's, NumPy's and torch's on the CPU (14 us in all)."""
    random.seed(seed)
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32])
    torch.default_generator.manual_seed(seed)  # torch.manual_seed visits every device and takes 100 times as long


@DATA_SAMPLERS.register_module(name=['SeededSampler', 'KeyedSampler'])
class SeededSampler(Sampler):
    """Any sampler, with a seed for each index: a function of (seed, epoch, sample, repeat under repeated augmentation).

    It can start anywhere in an epoch. EpochTrainLoop and IterTrainLoop wrap the config's sampler in it.

    Args:
        sampler: the sampler or its config: one of MMEngine, or another with the same `seed` and `set_epoch`.
        dataset: the data set; a SeededDataset hands the data set inside to the sampler.
        seed: of the run, the same in all processes.
    """

    def __init__(self, sampler: dict | Sampler, dataset: Any, seed: int):
        if isinstance(sampler, dict):
            inner = dataset.dataset if isinstance(dataset, SeededDataset) else dataset
            sampler = DATA_SAMPLERS.build(sampler, default_args=dict(dataset=inner, seed=seed))
        self.dataset, self.seed = dataset, seed
        self.sampler: Any = sampler
        self.endless = isinstance(sampler, InfiniteSampler)
        self.epoch = self._start = 0

    def set_seed(self, seed: int) -> None:
        """Change the seed of the run, also for the order."""
        self.seed = self.sampler.seed = seed

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.sampler.set_epoch(epoch)

    def skip(self, num_samples: int) -> None:
        """Start the next pass after this many samples of this process, in the epoch or in an endless stream."""
        self._start = num_samples

    def __iter__(self) -> Iterator[SeededIndex]:
        start, self._start = self._start, 0
        rank, world_size = get_dist_info()
        size, repeats = len(self.dataset), getattr(self.sampler, 'num_repeats', 1)
        if self.endless:
            self.sampler.skip(start)  # restarts the stream with the current seed
        for position, index in enumerate(self.sampler if self.endless else islice(self.sampler, start, None), start):
            if position >= len(self) and not self.endless:
                raise UserError(
                    f'a sampler must end after the {len(self)} samples of its length or be an InfiniteSampler, '
                    f'{type(self.sampler).__name__} continues'
                )
            position = position * world_size + rank  # among the samples of all processes
            epoch = position // size if self.endless else self.epoch
            yield SeededIndex(index, derive_seed(self.seed, epoch, index, position % repeats))

    def __len__(self) -> int:
        return len(self.sampler)


@DATASETS.register_module(name=['SeededDataset', 'KeyedDataset'])
class SeededDataset(Dataset):
    """Any data set, read by a SeededSampler: every sample has its own draws, and other samples replace bad images.

    A replacement depends on the seed and the index of the sample alone. EpochTrainLoop and IterTrainLoop wrap the
    config's data set in it. `metainfo`, `CLASSES` and `get_gt_labels` are for hooks of the hosts.

    Args:
        dataset: config of the data set, or the data set.
        bad_image_list, max_bad_share, max_bad_images: `list_path`, `max_share` and `max_images` of BadImages, which
            ends a training by its UserError.
    """

    def __init__(
        self, dataset: dict | Dataset, bad_image_list: str | Path, max_bad_share: float, max_bad_images: int = 0
    ):
        self.dataset: Any = dataset
        if isinstance(dataset, dict):
            self.dataset = DATASETS.build(dataset)
        self.bad_images = BadImages(len(self.dataset), bad_image_list, max_bad_share, max_bad_images)

    def __getitem__(self, sample: SeededIndex) -> Any:
        index, seed = sample
        for attempt in range(1, MAX_ATTEMPTS + 1):
            seed_generators(seed)
            try:
                return self.dataset[index]
            except BadImage as error:
                bad = error
                self.bad_images.add(bad)
            seed = derive_seed(sample.seed >> 1, sample.index, attempt)  # >> 1 because derive_seed takes 63 bits
            index = seed % len(self)
        raise UserError(f'{MAX_ATTEMPTS} images tried for sample {sample.index} cannot be read, the last: {bad}')

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def metainfo(self) -> dict:
        return self.dataset.metainfo

    @property
    def CLASSES(self) -> tuple[str, ...] | None:
        return self.dataset.CLASSES

    def get_gt_labels(self) -> Any:
        """The labels of all samples."""
        return self.dataset.get_gt_labels()
