"""Colour jitter in two halves: a worker draws, the device computes (Pillow takes longer for it than for all else)."""

from collections.abc import Sequence

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from beit_mm.registry import TRANSFORMS

Strength = float | Sequence[float]


@TRANSFORMS.register_module()
class DrawColorJitter(BaseTransform):
    """Gives what `jitter_colors` takes: `jitter`, float32 (6,), and `mean_color` of the image, float32 (3,).

    It stands before the crop, since contrast is about the mean of the whole image (BEiT release).

    Args:
        brightness, contrast, saturation: factors are uniform in [1 - s, 1 + s] for a number s, or in the two given.
            0 leaves the property as it is.

    Raises:
        ValueError: If a range is negative or not ordered.
    """

    def __init__(self, brightness: Strength = 0.0, contrast: Strength = 0.0, saturation: Strength = 0.0):
        self.ranges = [
            _range(name, value)
            for name, value in (('brightness', brightness), ('contrast', contrast), ('saturation', saturation))
        ]

    def transform(self, results: dict) -> dict:
        factors = [low + (high - low) * part for (low, high), part in zip(self.ranges, np.random.random(3).tolist())]
        results['jitter'] = np.array([*factors, *np.random.permutation(3).tolist()], dtype=np.float32)
        # In the image's order of channels; every fourth row is enough.
        results['mean_color'] = np.array(cv2.mean(results['img'][::4])[:3], dtype=np.float32)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(brightness, contrast, saturation in {self.ranges})'


def _range(name: str, value: Strength) -> tuple[float, float]:
    low, high = (max(0.0, 1 - value), 1 + value) if isinstance(value, (int, float)) else value
    if not 0 <= low <= high:
        raise ValueError(f'{name} must be a number of 0 or more, or two in order, got {value}')
    return float(low), float(high)
