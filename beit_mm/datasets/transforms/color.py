"""Colour changes: jitter that a worker draws and the device computes, and MMSegmentation's distortion by tables."""

import math
from collections.abc import Sequence

import cv2
import mmseg.datasets.transforms as mmseg_transforms
import numpy as np
from mmcv.transforms import BaseTransform

from beit_mm.errors import UserError
from beit_mm.registry import TRANSFORMS

VALUES = np.arange(256, dtype=np.uint8)
NUM_HUES = 180  # of OpenCV's uint8 images in HSV


@TRANSFORMS.register_module()
class DrawColorJitter(BaseTransform):
    """Draw what `jitter_colors` needs: `jitter`, float32 (6,), and `mean_color` of the image, float32 (C,).

    Put it before the crop: contrast is about the mean of the whole image (BEiT release).

    Args:
        brightness, contrast, saturation: factors are uniform in [1 - s, 1 + s] for a number s, or in a pair (low,
            high), which must be in order and not negative. 0 changes nothing.
    """

    def __init__(
        self,
        brightness: float | Sequence[float] = 0.0,
        contrast: float | Sequence[float] = 0.0,
        saturation: float | Sequence[float] = 0.0,
    ):
        self.ranges = []
        for name, value in dict(brightness=brightness, contrast=contrast, saturation=saturation).items():
            low, high = (max(0.0, 1 - value), 1 + value) if isinstance(value, (int, float)) else value
            if not 0 <= low <= high:
                raise UserError(f'{name} must be a number of 0 or more, or two numbers in order, got {value}')
            self.ranges.append((float(low), float(high)))

    def transform(self, results: dict) -> dict:
        factors = [low + (high - low) * share for (low, high), share in zip(self.ranges, np.random.random(3).tolist())]
        results['jitter'] = np.array([*factors, *np.random.permutation(3).tolist()], dtype=np.float32)
        # Channels in the image's order. Every fourth row is enough.
        image = results['img'][::4]
        bands = math.prod(image.shape[2:])
        mean = cv2.mean(image)[:bands] if bands <= 4 else image.mean(axis=(0, 1))  # OpenCV takes 4 bands
        results['mean_color'] = np.array(mean, dtype=np.float32)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(brightness, contrast, saturation in {self.ranges})'


@TRANSFORMS.register_module()
class PhotoMetricDistortion(mmseg_transforms.PhotoMetricDistortion):
    """MMSegmentation's PhotoMetricDistortion: the same draws, by tables, with one conversion to HSV and back.

    Equal in every pixel unless saturation and hue both change: then one rounding between them is left out. Images of
    another number of bands than three, or of 16 bits, keep their hue and saturation.
    """

    def convert(self, img: np.ndarray, alpha: float = 1, beta: float = 0) -> np.ndarray:
        """See MMSegmentation's, also for uint16, whose range is 257 times as large."""
        if img.dtype == np.uint8:
            return super().convert(img, alpha, beta)
        return (img.astype(np.float32) * alpha + beta * 257).clip(0, 65535).astype(np.uint16)

    def transform(self, results: dict) -> dict:
        image = results['img']
        if image.dtype not in (np.uint8, np.uint16):
            raise UserError(f'PhotoMetricDistortion takes images of 8 or 16 bits, got {image.dtype}; leave it out')
        values = VALUES if image.dtype == np.uint8 else np.arange(65536, dtype=np.uint16)
        is_picture = image.dtype == np.uint8 and image.shape[2:] == (3,)
        table = self.brightness(values)
        contrast_comes_first = np.random.randint(2)
        if contrast_comes_first:
            table = self.contrast(table)
        image = _look_up(image, table)
        saturations = hues = VALUES
        if np.random.randint(2):
            saturations = self.convert(VALUES, alpha=np.random.uniform(self.saturation_lower, self.saturation_upper))
        if np.random.randint(2):
            shift = np.random.randint(-self.hue_delta, self.hue_delta)
            hues = ((VALUES.astype(int) + shift) % NUM_HUES).astype(np.uint8)
        if is_picture and (saturations is not VALUES or hues is not VALUES):
            hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV))
            image = cv2.merge([_look_up(hue, hues), _look_up(saturation, saturations), value])
            image = cv2.cvtColor(image, cv2.COLOR_HSV2BGR)
        if not contrast_comes_first:
            image = _look_up(image, self.contrast(values))
        results['img'] = image
        return results


def _look_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    if table is VALUES:
        return image
    return cv2.LUT(image, table).reshape(image.shape) if image.dtype == np.uint8 else table[image]
