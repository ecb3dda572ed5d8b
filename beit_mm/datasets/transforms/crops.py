"""Crops, resizing and mirroring of training images, faster than the hosts' and with their draws."""

from collections.abc import Sequence

import cv2
import mmcv
import numpy as np
import torch
from mmcv.transforms import RandomFlip as HostRandomFlip
from mmpretrain.datasets.transforms import RandomResizedCrop as HostRandomResizedCrop
from torch.nn import functional as F

from beit_mm.registry import TRANSFORMS

TORCH_HAS_LANCZOS = 'lanczos' in (F.interpolate.__doc__ or '')  # since 2.15 or shortly before
FLIP_CODES = dict(horizontal=1, vertical=0, diagonal=-1)  # OpenCV's


def _resize_by_pillow(image: np.ndarray, scale: Sequence[int], interpolation: str) -> np.ndarray:
    return mmcv.imresize(np.ascontiguousarray(image), tuple(scale[::-1]), interpolation=interpolation, backend='pillow')


def _resize_by_torch(image: np.ndarray, scale: Sequence[int], interpolation: str) -> np.ndarray:
    """uint8 arithmetic on the view of the crop: nothing is copied before, unless it is a mirrored view. In memory,
    channels come first in the result, as they do in a batch.
    """
    if interpolation == 'lanczos' and not TORCH_HAS_LANCZOS:
        return _resize_by_pillow(image, scale, interpolation)
    if min(image.strides) < 0:  # mirrored, or channels reversed, as MMCV's Pillow decoder gives them; torch has no such
        image = np.ascontiguousarray(image)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    resized = F.interpolate(pixels, size=tuple(scale), mode=interpolation, antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def _mirror(image: np.ndarray) -> np.ndarray:
    """An image (H, W, 3) with left and right exchanged, in the same order in memory."""
    planes = image.transpose(2, 0, 1)
    if not planes.flags.c_contiguous:
        return cv2.flip(image, FLIP_CODES['horizontal'])
    flipped = cv2.flip(planes.reshape(-1, planes.shape[2]), FLIP_CODES['horizontal'])
    return flipped.reshape(planes.shape).transpose(1, 2, 0)


def _check_filter(name: str, value: str) -> None:
    if value not in FILTERS:
        raise ValueError(f'{name} must be one of {", ".join(FILTERS)}, got {value!r}')


FILTERS = ('bicubic', 'bilinear', 'lanczos')
RESIZERS = dict(pillow=_resize_by_pillow, torch=_resize_by_torch)


@TRANSFORMS.register_module()
class RandomResizedCrop(HostRandomResizedCrop):
    """MMPretrain's RandomResizedCrop with a choice of what resizes; filtered against aliasing by either.

    Args:
        scale: sides of the result in pixels, one number or (height, width).
        interpolation: resampling filter, 'bicubic', 'bilinear' or 'lanczos'.
        resize_backend: 'pillow', equal to MMPretrain's with `backend='pillow'`; or 'torch', which takes a fifth of the
            time and differs by 0.02 of 255 on average.
        **kwargs: crop_ratio_range, aspect_ratio_range and max_attempts of MMPretrain's.

    Raises:
        ValueError: If resize_backend or interpolation is unknown.
    """

    def __init__(
        self, scale: int | Sequence[int], interpolation: str = 'bicubic', resize_backend: str = 'pillow', **kwargs
    ):
        if resize_backend not in RESIZERS:
            raise ValueError(f'resize_backend must be one of {", ".join(RESIZERS)}, got {resize_backend!r}')
        _check_filter('interpolation', interpolation)
        super().__init__(scale, interpolation=interpolation, backend=resize_backend, **kwargs)

    def transform(self, results: dict) -> dict:
        image = self.resize(self.crop(results['img']), self.scale, self.interpolation)
        # Channels last in memory too: OpenCV would put that right in every step that follows.
        results['img'] = image if image.flags.c_contiguous else cv2.merge(list(image.transpose(2, 0, 1)))
        results['img_shape'] = image.shape
        return results

    def crop(self, image: np.ndarray) -> np.ndarray:
        """A view of a random part of an image (H, W, 3)."""
        top, left, height, width = self.rand_crop_params(image)
        return image[top : top + height, left : left + width]

    def resize(self, image: np.ndarray, scale: Sequence[int], interpolation: str) -> np.ndarray:
        return RESIZERS[self.backend](image, scale, interpolation)


@TRANSFORMS.register_module()
class TwoViewRandomResizedCrop(RandomResizedCrop):
    """One random crop, resized twice: `img` for the trunk and `view` for the tokenizer (BEiT release).

    Both are filtered against aliasing, as in the release's pipeline.

    Args:
        scale, second_scale: sides in pixels of the two views, one number or (height, width).
        interpolation, second_interpolation: their resampling filters, 'bicubic', 'bilinear' or 'lanczos'.
        flip_prob: probability that both views are mirrored; the same as mirroring the image before, for less work.
        **kwargs: resize_backend, crop_ratio_range, aspect_ratio_range and max_attempts of RandomResizedCrop.
    """

    def __init__(
        self,
        scale: int | Sequence[int] = 224,
        second_scale: int | Sequence[int] = 112,
        interpolation: str = 'bicubic',
        second_interpolation: str = 'lanczos',
        flip_prob: float = 0.0,
        **kwargs,
    ):
        super().__init__(scale, interpolation, **kwargs)
        _check_filter('second_interpolation', second_interpolation)
        self.second_scale = (second_scale,) * 2 if isinstance(second_scale, int) else tuple(second_scale)
        self.second_interpolation = second_interpolation
        self.flip_prob = flip_prob

    def transform(self, results: dict) -> dict:
        crop = np.ascontiguousarray(self.crop(results['img']))
        flip = self.flip_prob > 0 and np.random.random() < self.flip_prob
        for key, scale, interpolation in (
            ('img', self.scale, self.interpolation),
            ('view', self.second_scale, self.second_interpolation),
        ):
            view = self.resize(crop, scale, interpolation)
            results[key] = _mirror(view) if flip else view
        results['img_shape'] = results['img'].shape
        return results

    def __repr__(self) -> str:
        return (
            f'{super().__repr__()[:-1]}, second_scale={self.second_scale}, '
            f'second_interpolation={self.second_interpolation}, flip_prob={self.flip_prob})'
        )


@TRANSFORMS.register_module()
class RandomFlip(HostRandomFlip):
    """MMCV's RandomFlip, with the image in new memory: every step that follows would first copy MMCV's view of it."""

    def _flip(self, results: dict) -> None:
        image = results['img']
        super()._flip(results)
        results['img'] = cv2.flip(image, FLIP_CODES[results['flip_direction']]).reshape(image.shape)
