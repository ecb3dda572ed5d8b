"""Transforms of pre-training: one crop in two views, and what is packed for the model."""
from typing import Sequence, Union

import mmcv
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmpretrain.datasets.transforms import RandomResizedCrop
from torch.nn import functional as F

from ..registry import TRANSFORMS

TORCH_HAS_LANCZOS = 'lanczos' in (F.interpolate.__doc__ or '')  # since 2.15 or shortly before


def _resize_by_pillow(image: np.ndarray, scale: Sequence[int], interpolation: str) -> np.ndarray:
    return mmcv.imresize(np.ascontiguousarray(image), tuple(scale[::-1]), interpolation=interpolation,
                         backend='pillow')


def _resize_by_torch(image: np.ndarray, scale: Sequence[int], interpolation: str) -> np.ndarray:
    """uint8 arithmetic on the view of the crop: channels stay last in memory, so nothing is copied before."""
    if interpolation == 'lanczos' and not TORCH_HAS_LANCZOS:
        return _resize_by_pillow(image, scale, interpolation)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    resized = F.interpolate(pixels, size=tuple(scale), mode=interpolation, antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


RESIZERS = dict(pillow=_resize_by_pillow, torch=_resize_by_torch)


@TRANSFORMS.register_module()
class TwoViewRandomResizedCrop(RandomResizedCrop):
    """One random crop, resized twice: `img` for the trunk and `view` for the tokenizer (BEiT release).

    Both are filtered against aliasing, as in the release's pipeline.

    Args:
        scale, second_scale: sides in pixels of the two views, one number or (height, width).
        interpolation, second_interpolation: their resampling filters, 'bicubic', 'bilinear' or 'lanczos'.
        resize_backend: 'pillow', the release's; or 'torch', which takes a third of the time and differs by 0.02 of
            255 on average.
        flip_prob: probability that both views are mirrored; the same as mirroring the image before, for less work.
        crop_ratio_range, aspect_ratio_range, max_attempts: of MMPretrain's RandomResizedCrop.

    Raises:
        ValueError: If resize_backend is unknown.
    """

    def __init__(self, scale: Union[int, Sequence[int]] = 224, second_scale: Union[int, Sequence[int]] = 112,
                 interpolation: str = 'bicubic', second_interpolation: str = 'lanczos',
                 resize_backend: str = 'pillow', flip_prob: float = 0.0, **kwargs):
        super().__init__(scale, interpolation=interpolation, backend='pillow', **kwargs)
        if resize_backend not in RESIZERS:
            raise ValueError(f'resize_backend must be one of {", ".join(RESIZERS)}, got {resize_backend!r}')
        self.second_scale = (second_scale,) * 2 if isinstance(second_scale, int) else tuple(second_scale)
        self.second_interpolation = second_interpolation
        self.resize_backend = resize_backend
        self.flip_prob = flip_prob

    def transform(self, results: dict) -> dict:
        top, left, height, width = self.rand_crop_params(results['img'])
        crop = results['img'][top:top + height, left:left + width]
        flip = self.flip_prob > 0 and np.random.random() < self.flip_prob
        resize = RESIZERS[self.resize_backend]
        for key, scale, interpolation in (('img', self.scale, self.interpolation),
                                          ('view', self.second_scale, self.second_interpolation)):
            view = resize(crop, scale, interpolation)
            results[key] = view[:, ::-1] if flip else view
        results['img_shape'] = results['img'].shape
        return results

    def __repr__(self) -> str:
        return (f'{super().__repr__()[:-1]}, second_scale={self.second_scale}, '
                f'second_interpolation={self.second_interpolation}, resize_backend={self.resize_backend}, '
                f'flip_prob={self.flip_prob})')


@TRANSFORMS.register_module()
class PackTwoViews(BaseTransform):
    """The sample as tensors: `inputs` uint8 (3, H, W), `views` uint8 (3, 8h, 8w), `mask` bool (h, w), and `jitter`
    float32 (6,) where DrawColorJitter drew one."""

    def transform(self, results: dict) -> dict:
        packed = dict(inputs=self._to_tensor(results['img']), views=self._to_tensor(results['view']),
                      mask=torch.from_numpy(results['mask']))
        if 'jitter' in results:
            packed['jitter'] = torch.from_numpy(results['jitter'])
        return packed

    @staticmethod
    def _to_tensor(image: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'
