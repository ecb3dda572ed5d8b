"""Data parts. Data sets come from MMPretrain and MMSegmentation; what meets these contracts fits in beside ours:

- A mask generator is a transform that adds `mask`, bool (h, w), True where masked.
- A pre-training pipeline ends in PackTwoViews and feeds TwoViewPreprocessor.
- A data set too large for folders gives `img_bytes` in place of a file at `img_path`; LoadImage takes either.
"""
from .class_folders import ClassFolders
from .digits import DigitScenes
from .huggingface_images import HuggingFaceImages
from .loading import LoadImage
from .masking import BlockwiseMaskGenerator, RandomMaskGenerator
from .preprocessor import ClsDataPreprocessor, SegDataPreProcessor, TwoViewPreprocessor
from .transforms import PackTwoViews, TwoViewRandomResizedCrop
from .webdataset_shards import WebDatasetShards

__all__ = ['BlockwiseMaskGenerator', 'ClassFolders', 'ClsDataPreprocessor', 'DigitScenes', 'HuggingFaceImages',
           'LoadImage', 'PackTwoViews', 'RandomMaskGenerator', 'SegDataPreProcessor', 'TwoViewPreprocessor',
           'TwoViewRandomResizedCrop', 'WebDatasetShards']
