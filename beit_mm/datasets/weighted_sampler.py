"""Images drawn by weights, such as those of rare classes more often."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dataset import DefaultSampler

from beit_mm.errors import UserError
from beit_mm.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class WeightedRandomSampler(DefaultSampler):
    """Torch's WeightedRandomSampler on any number of processes: an epoch draws as many images as the data set has, each
    at random with a probability that follows its weight. An image may come several times, with other augmentation.

    Args:
        dataset: MMEngine gives it.
        weights: a number for each image; None for weights with which all classes are equally frequent.
        seed: MMEngine gives it.

    Raises:
        UserError: At the start of an epoch, if the weights do not fit the data set, or are None and it gives no labels.
    """

    def __init__(self, dataset: Any, weights: Sequence[float] | None = None, seed: int | None = None):
        super().__init__(dataset, shuffle=True, seed=seed)
        self.weights = weights
        self.num_repeats = self.total_size  # so that a SeededSampler gives every draw its own seed

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        weights = torch.as_tensor(self._balanced() if self.weights is None else self.weights, dtype=torch.float64)
        if weights.shape != (len(self.dataset),) or not (weights >= 0).all() or not weights.sum() > 0:
            raise UserError(
                f'WeightedRandomSampler.weights must be {len(self.dataset)} numbers of 0 or more, one for each image, '
                f'and not all 0, got {len(weights)}'
            )
        indices = torch.multinomial(weights, self.total_size, replacement=True, generator=generator).tolist()
        return iter(indices[self.rank :: self.world_size])

    def _balanced(self) -> np.ndarray:
        if not hasattr(self.dataset, 'get_gt_labels'):
            name = type(self.dataset).__name__
            raise UserError(f'WeightedRandomSampler needs weights for {name}, which gives no label for each image')
        labels = np.asarray(self.dataset.get_gt_labels())
        return 1 / np.bincount(labels)[labels]
