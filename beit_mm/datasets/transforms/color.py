"""Colour changes: jitter that a worker draws and the device computes, and MMSegmentation's distortion by tables."""

from collections.abc import Sequence

import cv2
import mmseg.datasets.transforms as mmseg_transforms
import numpy as np
from mmcv.transforms import BaseTransform

from beit_mm.registry import TRANSFORMS

VALUES = np.arange(256, dtype=np.uint8)
NUM_HUES = 180  # of OpenCV's uint8 images in HSV


@TRANSFORMS.register_module()
class DrawColorJitter(BaseTransform):
    """Draw what `jitter_colors` needs: `jitter`, float32 (6,), and `mean_color` of the image, float32 (3,).

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
                raise ValueError(f'{name} must be a number of 0 or more, or two numbers in order, got {value}')
            self.ranges.append((float(low), float(high)))

    def transform(self, results: dict) -> dict:
        factors = [low + (high - low) * share for (low, high), share in zip(self.ranges, np.random.random(3).tolist())]
        results['jitter'] = np.array([*factors, *np.random.permutation(3).tolist()], dtype=np.float32)
        # Channels in the image's order. Every fourth row is enough.
        results['mean_color'] = np.array(cv2.mean(results['img'][::4])[:3], dtype=np.float32)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(brightness, contrast, saturation in {self.ranges})'


@TRANSFORMS.register_module()
class PhotoMetricDistortion(mmseg_transforms.PhotoMetricDistortion):
    """MMSegmentation's PhotoMetricDistortion: the same draws, by tables, with one conversion to HSV and back.

    Equal in every pixel unless saturation and hue both change: then one rounding between them is left out.
    """

    def transform(self, results: dict) -> dict:
        image = results['img']
        table = self.brightness(VALUES)
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
        if saturations is not VALUES or hues is not VALUES:
            hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV))
            image = cv2.merge([_look_up(hue, hues), _look_up(saturation, saturations), value])
            image = cv2.cvtColor(image, cv2.COLOR_HSV2BGR)
        if not contrast_comes_first:
            image = _look_up(image, self.contrast(VALUES))
        results['img'] = image
        return results


def _look_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    return image if table is VALUES else cv2.LUT(image, table)
