"""Data sets, transforms and samplers. Most come from MMPretrain and MMSegmentation. Your own parts fit in like this:

- A mask generator is a transform that adds `mask`, bool (h, w), True where masked.
- A pipeline for pre-training ends in PackTwoViews; TwoViewPreprocessor takes its samples.
- A step with the name of a host's step (RandomCrop, PackInputs, ...) replaces it: the same draws, less time for
  uint8 colour images. In RandomResizedCrop `resize_backend` names the library that resizes.
- A data set too large for folders gives `img_bytes` instead of a file at `img_path`; LoadImage takes either.
"""

import warnings

from .bad_images import BadImage, BadImages
from .classification import CIFAR100, ClassFolders
from .seeding import SeededDataset, SeededSampler
from .segmentation import SegFolders
from .stored_images import HuggingFaceImages
from .transforms.augment import RandAugment, RandomErasing
from .transforms.color import DrawColorJitter, PhotoMetricDistortion
from .transforms.crops import (
    PackInputs,
    PackSegInputs,
    PackTwoViews,
    RandomCrop,
    RandomFlip,
    RandomResizedCrop,
    ResizeEdge,
    TwoViewRandomResizedCrop,
)
from .transforms.loading import LoadAnnotations, LoadImage
from .transforms.masking import BlockwiseMaskGenerator, RandomMaskGenerator
from .webdataset import WebDatasetShards
from .weighted_sampler import WeightedRandomSampler


def __getattr__(name: str):
    """Preprocessors are in beit_mm.models, and Keyed parts are called Seeded; old names work until the next release."""
    if name in ('ClsDataPreprocessor', 'SegDataPreProcessor', 'TwoViewPreprocessor'):
        from beit_mm import models

        warnings.warn(f'{name} has moved to beit_mm.models', DeprecationWarning, stacklevel=2)
        return getattr(models, name)
    if name in ('KeyedDataset', 'KeyedSampler'):
        warnings.warn(f'{name} is called {name.replace("Keyed", "Seeded")} now', DeprecationWarning, stacklevel=2)
        return globals()[name.replace('Keyed', 'Seeded')]
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
