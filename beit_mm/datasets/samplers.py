"""Draws that belong to the sample: the same for any number of workers, another one in every epoch."""

import hashlib
import random
import struct
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_dist_info
from torch.utils.data import Dataset, Sampler

from beit_mm.registry import DATA_SAMPLERS


class SampleKey(NamedTuple):
    """What a sampler asks a data set for: the sample's place in it, and the seed of all that is drawn for it."""

    index: int
    seed: int


def derive_seed(*numbers: int) -> int:
    """One 64-bit seed from whole numbers below 2**63, such as (run's seed, epoch, sample)."""
    packed = struct.pack(f'<{len(numbers)}q', *numbers)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), 'little')


def seed_generators(seed: int) -> None:
    """Seed the generators that transforms draw from: Python's, NumPy's and torch's on the CPU (14 us in all)."""
    random.seed(seed)
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32])
    torch.default_generator.manual_seed(seed)  # torch.manual_seed visits every device: 100 times as long


@DATA_SAMPLERS.register_module()
class KeyedSampler(Sampler):
    """Any sampler, whose indices get a seed: a function of (seed, epoch, sample), or with repeated augmentation of
    (seed, epoch, sample, repeat).

    EpochTrainLoop and IterTrainLoop put it around the sampler of the config.

    Args:
        sampler: the sampler or its config, one of MMEngine's or with their `seed` and `set_epoch`.
        dataset: the data set.
        seed: of the run, the same in all processes.
    """

    def __init__(self, sampler: dict | Sampler, dataset: Dataset, seed: int):
        self.dataset = dataset
        if isinstance(sampler, dict):
            sampler = DATA_SAMPLERS.build(sampler, default_args=dict(dataset=dataset, seed=seed))
        self.sampler = sampler
        self.endless = isinstance(self.sampler, InfiniteSampler)
        self.seed = seed
        self.epoch = 0
        self._start = 0

    def set_seed(self, seed: int) -> None:
        """Take another run's seed, for the order too."""
        self.seed = self.sampler.seed = seed

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.sampler.set_epoch(epoch)

    def skip(self, num_samples: int) -> None:
        """Let the next pass begin after as many samples of this process: of the epoch, or of an endless stream."""
        self._start = num_samples

    def __iter__(self) -> Iterator[SampleKey]:
        start, self._start = self._start, 0
        rank, world_size = get_dist_info()
        size, repeats = len(self.dataset), getattr(self.sampler, 'num_repeats', 1)
        if self.endless:
            self.sampler.skip(start)  # begins the stream anew, with the seed it has now
            indices = iter(self.sampler)
        else:
            indices = islice(self.sampler, start, None)
        for position, index in enumerate(indices, start):
            if position >= len(self) and not self.endless:
                raise ValueError(
                    f'a sampler must end after the {len(self)} samples that it counts or be an '
                    f'InfiniteSampler, {type(self.sampler).__name__} goes on'
                )
            position = position * world_size + rank  # among the samples of all processes
            epoch = position // size if self.endless else self.epoch
            yield SampleKey(index, derive_seed(self.seed, epoch, index, position % repeats))

    def __len__(self) -> int:
        return len(self.sampler)
