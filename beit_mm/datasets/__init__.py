"""Data parts. Data sets come from MMPretrain and MMSegmentation; what meets these contracts fits in beside ours:

- A mask generator is a transform that adds `mask`, bool (h, w), True where masked.
- A pre-training pipeline ends in PackTwoViews and feeds TwoViewPreprocessor.
"""
from .digits import DigitScenes
from .masking import BlockwiseMaskGenerator, RandomMaskGenerator
from .preprocessor import TwoViewPreprocessor
from .transforms import PackTwoViews, TwoViewRandomResizedCrop

__all__ = ['BlockwiseMaskGenerator', 'DigitScenes', 'PackTwoViews', 'RandomMaskGenerator', 'TwoViewPreprocessor',
           'TwoViewRandomResizedCrop']
