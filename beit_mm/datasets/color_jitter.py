"""Colour jitter in two halves: a worker draws, the device computes (Pillow takes longer for it than for all else)."""
from typing import Sequence, Tuple, Union

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from torch import Tensor

from ..registry import TRANSFORMS

# Of ITU-R BT.601, as in Pillow's conversion to grey values.
RED, GREEN, BLUE = 0.299, 0.587, 0.114
BRIGHTNESS, CONTRAST, SATURATION = range(3)
Strength = Union[float, Sequence[float]]


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
        self.ranges = [_range(name, value) for name, value in
                       (('brightness', brightness), ('contrast', contrast), ('saturation', saturation))]

    def transform(self, results: dict) -> dict:
        factors = [low + (high - low) * part for (low, high), part in zip(self.ranges, np.random.random(3).tolist())]
        results['jitter'] = np.array([*factors, *np.random.permutation(3).tolist()], dtype=np.float32)
        # In the image's order of channels; every fourth row is enough.
        results['mean_color'] = np.array(cv2.mean(results['img'][::4])[:3], dtype=np.float32)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(brightness, contrast, saturation in {self.ranges})'


def _range(name: str, value: Strength) -> Tuple[float, float]:
    low, high = (max(0.0, 1 - value), 1 + value) if isinstance(value, (int, float)) else value
    if not 0 <= low <= high:
        raise ValueError(f'{name} must be a number of 0 or more, or two in order, got {value}')
    return float(low), float(high)


def jitter_colors(images: Tensor, jitter: Tensor, mean_color: Tensor) -> Tensor:
    """Change brightness, contrast and saturation of every image, in its own order.

    Each step blends an image with black, with the mean grey value, or with its grey values, and cuts to [0, 255], as
    torchvision's ColorJitter; without its rounding to whole numbers after each step. The mean is that of the image
    from which this one was cut, made brighter with it; how the cutting to [0, 255] moves it is left out.

    Args:
        images: float RGB (B, 3, H, W) in [0, 255].
        jitter: (B, 6): the factors of brightness, contrast and saturation, then the order in which they come.
        mean_color: RGB (B, 3) in [0, 255], of the whole image before any change.

    Returns:
        The same shape.
    """
    factors, order = jitter[:, :3], jitter[:, 3:].long()
    mean = _gray(mean_color.to(images.dtype)[:, :, None, None])  # (B, 1, 1, 1)
    for step in range(3):
        kind = order[:, step]
        factor = factors.gather(1, kind[:, None]).to(images.dtype)[:, :, None, None]
        kind = kind[:, None, None, None]
        gray = _gray(images)  # (B, 1, H, W)
        other = torch.where(kind == CONTRAST, mean, gray).masked_fill(kind == BRIGHTNESS, 0.0)
        images = (factor * images + (1 - factor) * other).clamp(0, 255)
        mean = torch.where(kind == BRIGHTNESS, factor * mean, mean)
    return images


def _gray(images: Tensor) -> Tensor:
    """RGB (B, 3, H, W) to grey values (B, 1, H, W)."""
    # By numbers: a tensor of them would be copied to the device at every step, and waited for.
    red, green, blue = images.split(1, dim=1)
    return RED * red + GREEN * green + BLUE * blue
