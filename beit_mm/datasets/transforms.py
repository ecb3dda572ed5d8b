"""Transforms of pre-training: one crop in two views, and what is packed for the model."""
from typing import Sequence, Union

import mmcv
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmpretrain.datasets.transforms import RandomResizedCrop

from ..registry import TRANSFORMS


@TRANSFORMS.register_module()
class TwoViewRandomResizedCrop(RandomResizedCrop):
    """One random crop, resized twice: `img` for the trunk and `view` for the tokenizer (BEiT release).

    Both are resized by Pillow, which filters against aliasing as the release's pipeline does.

    Args:
        scale, second_scale: sides in pixels of the two views, one number or (height, width).
        interpolation, second_interpolation: their resampling filters.
        crop_ratio_range, aspect_ratio_range, max_attempts: of MMPretrain's RandomResizedCrop.
    """

    def __init__(self, scale: Union[int, Sequence[int]] = 224, second_scale: Union[int, Sequence[int]] = 112,
                 interpolation: str = 'bicubic', second_interpolation: str = 'lanczos', **kwargs):
        super().__init__(scale, interpolation=interpolation, backend='pillow', **kwargs)
        self.second_scale = (second_scale,) * 2 if isinstance(second_scale, int) else tuple(second_scale)
        self.second_interpolation = second_interpolation

    def transform(self, results: dict) -> dict:
        top, left, height, width = self.rand_crop_params(results['img'])
        crop = np.ascontiguousarray(results['img'][top:top + height, left:left + width])
        results['img'] = self._resize(crop, self.scale, self.interpolation)
        results['view'] = self._resize(crop, self.second_scale, self.second_interpolation)
        results['img_shape'] = results['img'].shape
        return results

    @staticmethod
    def _resize(image: np.ndarray, scale: Sequence[int], interpolation: str) -> np.ndarray:
        return mmcv.imresize(image, tuple(scale[::-1]), interpolation=interpolation, backend='pillow')

    def __repr__(self) -> str:
        return (f'{super().__repr__()[:-1]}, second_scale={self.second_scale}, '
                f'second_interpolation={self.second_interpolation})')


@TRANSFORMS.register_module()
class PackTwoViews(BaseTransform):
    """The sample as tensors: `inputs` uint8 (3, H, W), `views` uint8 (3, 8h, 8w) and `mask` bool (h, w)."""

    def transform(self, results: dict) -> dict:
        return dict(inputs=self._to_tensor(results['img']), views=self._to_tensor(results['view']),
                    mask=torch.from_numpy(results['mask']))

    @staticmethod
    def _to_tensor(image: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(image).permute(2, 0, 1).contiguous()

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'
