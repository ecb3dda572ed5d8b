"""Colour jitter in two halves: a worker draws, the device computes (Pillow takes longer for it than for all else)."""
from typing import Sequence, Tuple, Union

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
    """Draws what `jitter_colors` applies: `jitter`, float32 (6,).

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
        factors = [np.random.uniform(low, high) for low, high in self.ranges]
        results['jitter'] = np.array([*factors, *np.random.permutation(3)], dtype=np.float32)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(brightness, contrast, saturation in {self.ranges})'


def _range(name: str, value: Strength) -> Tuple[float, float]:
    low, high = (max(0.0, 1 - value), 1 + value) if isinstance(value, (int, float)) else value
    if not 0 <= low <= high:
        raise ValueError(f'{name} must be a number of 0 or more, or two in order, got {value}')
    return float(low), float(high)


def jitter_colors(images: Tensor, jitter: Tensor) -> Tensor:
    """Change brightness, contrast and saturation of every image, in its own order.

    Each step blends an image with black, with its mean grey value, or with its grey values, and cuts to [0, 255], as
    torchvision's ColorJitter; without its rounding to whole numbers after each step.

    Args:
        images: float RGB (B, 3, H, W) in [0, 255].
        jitter: (B, 6): the factors of brightness, contrast and saturation, then the order in which they come.

    Returns:
        The same shape.
    """
    factors, order = jitter[:, :3], jitter[:, 3:].long()
    weights = images.new_tensor([RED, GREEN, BLUE]).view(1, 3, 1, 1)
    for step in range(3):
        kind = order[:, step]
        factor = factors.gather(1, kind[:, None]).to(images.dtype)[:, :, None, None]
        gray = (images * weights).sum(dim=1, keepdim=True)  # (B, 1, H, W)
        kind = kind[:, None, None, None]
        other = torch.where(kind == CONTRAST, gray.mean(dim=(2, 3), keepdim=True), gray)
        other = other.masked_fill(kind == BRIGHTNESS, 0.0)
        images = (factor * images + (1 - factor) * other).clamp(0, 255)
    return images
