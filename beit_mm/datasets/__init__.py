"""Data parts. Data sets come from MMPretrain and MMSegmentation; what meets these contracts fits in beside ours:

- A mask generator is a transform that adds `mask`, bool (h, w), True where masked.
- A pre-training pipeline ends in PackTwoViews and feeds TwoViewPreprocessor.
- A step named as a host's (RandAugment, PackInputs, ...) takes its place: same draws, less time for uint8 colour
  images. RandomResizedCrop names what resizes `resize_backend`.
- A data set too large for folders gives `img_bytes` in place of a file at `img_path`; LoadImage takes either.
"""
from .augmentation import RandAugment, RandomErasing
from .bad_images import BadImage, BadImages
from .class_folders import ClassFolders
from .color_jitter import DrawColorJitter
from .digits import DigitScenes
from .geometry import RandomFlip, RandomResizedCrop, TwoViewRandomResizedCrop
from .huggingface_images import HuggingFaceImages
from .keyed_dataset import KeyedDataset
from .label_maps import LoadAnnotations
from .loading import LoadImage
from .masking import BlockwiseMaskGenerator, RandomMaskGenerator
from .packing import PackInputs, PackSegInputs, PackTwoViews
from .preprocessor import ClsDataPreprocessor, SegDataPreProcessor, TwoViewPreprocessor
from .sampling import KeyedSampler
from .segmentation import PhotoMetricDistortion, RandomCrop
from .webdataset_shards import WebDatasetShards

__all__ = ['BadImage', 'BadImages', 'BlockwiseMaskGenerator', 'ClassFolders', 'ClsDataPreprocessor', 'DigitScenes',
           'DrawColorJitter', 'HuggingFaceImages', 'KeyedDataset', 'KeyedSampler', 'LoadAnnotations', 'LoadImage',
           'PackInputs', 'PackSegInputs', 'PackTwoViews', 'PhotoMetricDistortion', 'RandAugment', 'RandomCrop',
           'RandomErasing', 'RandomFlip', 'RandomMaskGenerator', 'RandomResizedCrop', 'SegDataPreProcessor',
           'TwoViewPreprocessor', 'TwoViewRandomResizedCrop', 'WebDatasetShards']
