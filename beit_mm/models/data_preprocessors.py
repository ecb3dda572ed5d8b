"""Data preprocessors: from the loader's bytes to the models' inputs, on the device."""

from collections.abc import Sequence

import torch
from mmengine.model import BaseDataPreprocessor
from mmpretrain.models import ClsDataPreprocessor as HostClsDataPreprocessor
from mmseg.models import SegDataPreProcessor as HostSegDataPreProcessor
from torch import Tensor

from beit_mm.registry import MODELS

# Of ITU-R BT.601, as in Pillow's conversion to grey values.
RED, GREEN, BLUE = 0.299, 0.587, 0.114
BRIGHTNESS, CONTRAST, SATURATION = range(3)


@MODELS.register_module()
class TwoViewPreprocessor(BaseDataPreprocessor):
    """Applies the colour jitter that the loader drew, normalises the trunk's view and scales the tokenizer's to [0, 1].

    Args:
        mean, std: of the trunk's view, per channel in RGB, for values 0 to 255.
        to_rgb: whether the loader returns BGR, as MMCV's does.
        non_blocking: copy pinned batches to the device without waiting.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], to_rgb: bool = True, non_blocking: bool = True):
        super().__init__(non_blocking)
        self.to_rgb = to_rgb
        self.register_buffer('mean', torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, data: dict, training: bool = False) -> dict[str, torch.Tensor]:
        """A batch of PackTwoViews to `inputs` (B, 3, H, W), `views` (B, 3, 8h, 8w) and `mask` bool (B, h, w)."""
        data = self.cast_data(data)
        if self.to_rgb:
            data.update({key: data[key].flip(1) for key in ('inputs', 'views', 'mean_color') if key in data})
        inputs, views = data['inputs'].float(), data['views'].float()
        if 'jitter' in data:
            inputs, views = (jitter_colors(x, data['jitter'], data['mean_color']) for x in (inputs, views))
        return dict(inputs=(inputs - self.mean) / self.std, views=views / 255, mask=data['mask'])


class _NonBlocking:
    """Takes `non_blocking`, as the hosts' classes do not: whether copies of pinned batches return at once."""

    def __init__(self, non_blocking: bool = True, **kwargs):
        super().__init__(**kwargs)
        self._non_blocking = non_blocking


@MODELS.register_module()
class ClsDataPreprocessor(_NonBlocking, HostClsDataPreprocessor):
    """MMPretrain's ClsDataPreprocessor that copies pinned batches to the device without waiting for it."""


@MODELS.register_module()
class SegDataPreProcessor(_NonBlocking, HostSegDataPreProcessor):
    """MMSegmentation's SegDataPreProcessor that copies pinned batches to the device without waiting for it."""


def jitter_colors(images: Tensor, jitter: Tensor, mean_color: Tensor) -> Tensor:
    """Change brightness, contrast and saturation of every image, each image in its own order.

    Each step blends an image with black, with the mean grey value, or with its grey values, and clips to [0, 255], as
    torchvision's ColorJitter does, but without rounding. The mean follows the change of brightness, not the clipping.

    Args:
        images: float RGB (B, 3, H, W) in [0, 255].
        jitter: (B, 6): the factors of brightness, contrast and saturation, then the order in which they come.
        mean_color: RGB (B, 3) in [0, 255], of the whole image before the crop and any change.
    """
    factors, order = jitter[:, :3], jitter[:, 3:].long()
    mean = _gray(mean_color.to(images.dtype)[:, :, None, None])  # (B, 1, 1, 1)
    for step in range(3):
        change = order[:, step]
        factor = factors.gather(1, change[:, None]).to(images.dtype)[:, :, None, None]
        change = change[:, None, None, None]
        gray = _gray(images)  # (B, 1, H, W)
        other = torch.where(change == CONTRAST, mean, gray).masked_fill(change == BRIGHTNESS, 0.0)
        images = (factor * images + (1 - factor) * other).clamp(0, 255)
        mean = torch.where(change == BRIGHTNESS, factor * mean, mean)
    return images


def _gray(images: Tensor) -> Tensor:
    """RGB (B, 3, H, W) to grey values (B, 1, H, W)."""
    # Plain numbers, because a tensor of them would be copied to the device at every step, and this copy waits.
    red, green, blue = images.split(1, dim=1)
    return RED * red + GREEN * green + BLUE * blue
