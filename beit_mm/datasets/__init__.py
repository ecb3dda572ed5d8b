"""Data parts. Data sets come from MMPretrain and MMSegmentation; what meets these contracts fits in beside ours:

- A mask generator is a transform that adds `mask`, bool (h, w), True where masked.
- A pre-training pipeline ends in PackTwoViews and feeds TwoViewPreprocessor.
- A step named as a host's (RandAugment, PackInputs, ...) takes its place: same draws, less time for uint8 colour
  images. RandomResizedCrop names what resizes `resize_backend`.
- A data set too large for folders gives `img_bytes` in place of a file at `img_path`; LoadImage takes either.
"""

from .bad_images import BadImage, BadImages
from .class_folders import ClassFolders
from .huggingface import HuggingFaceImages
from .samplers import SeededSampler
from .seeded_dataset import SeededDataset
from .transforms.augmentation import RandAugment, RandomErasing
from .transforms.color import DrawColorJitter
from .transforms.crops import RandomFlip, RandomResizedCrop, TwoViewRandomResizedCrop
from .transforms.formatting import PackInputs, PackSegInputs, PackTwoViews
from .transforms.label_maps import LoadAnnotations
from .transforms.loading import LoadImage
from .transforms.masking import BlockwiseMaskGenerator, RandomMaskGenerator
from .transforms.segmentation import PhotoMetricDistortion, RandomCrop
from .webdataset import WebDatasetShards

__all__ = [
    'BadImage',
    'BadImages',
    'BlockwiseMaskGenerator',
    'ClassFolders',
    'DrawColorJitter',
    'HuggingFaceImages',
    'LoadAnnotations',
    'LoadImage',
    'PackInputs',
    'PackSegInputs',
    'PackTwoViews',
    'PhotoMetricDistortion',
    'RandAugment',
    'RandomCrop',
    'RandomErasing',
    'RandomFlip',
    'RandomMaskGenerator',
    'RandomResizedCrop',
    'SeededDataset',
    'SeededSampler',
    'TwoViewRandomResizedCrop',
    'WebDatasetShards',
]
