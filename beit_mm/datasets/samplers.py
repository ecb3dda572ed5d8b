"""A sampler that gives every sample its own seed and can start anywhere in an epoch."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_dist_info
from torch.utils.data import Sampler

from beit_mm.registry import DATA_SAMPLERS

from .seeded_dataset import SeededDataset
from .seeds import derive_seed, SeededIndex


@DATA_SAMPLERS.register_module(name=['SeededSampler', 'KeyedSampler'])
class SeededSampler(Sampler):
    """Any sampler, with a seed for each index: a function of (seed, epoch, sample), or of (seed, epoch, sample,
    repeat) under repeated augmentation.

    EpochTrainLoop and IterTrainLoop wrap the config's sampler in it.

    Args:
        sampler: the sampler or its config; MMEngine's, or another one with their `seed` and `set_epoch`.
        dataset: the data set; a SeededDataset hands the data set inside to the sampler.
        seed: of the run, the same in all processes.
    """

    def __init__(self, sampler: dict | Sampler, dataset: Any, seed: int):
        self.dataset = dataset
        self.sampler: Any = sampler
        if isinstance(sampler, dict):
            inner = dataset.dataset if isinstance(dataset, SeededDataset) else dataset
            self.sampler = DATA_SAMPLERS.build(sampler, default_args=dict(dataset=inner, seed=seed))
        self.endless = isinstance(self.sampler, InfiniteSampler)
        self.seed = seed
        self.epoch = 0
        self._start = 0

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
                raise ValueError(
                    f'a sampler must end after the {len(self)} samples of its length or be an InfiniteSampler, '
                    f'{type(self.sampler).__name__} continues'
                )
            position = position * world_size + rank  # among the samples of all processes
            epoch = position // size if self.endless else self.epoch
            yield SeededIndex(index, derive_seed(self.seed, epoch, index, position % repeats))

    def __len__(self) -> int:
        return len(self.sampler)
