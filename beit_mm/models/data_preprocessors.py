"""Data preprocessors: from the loader's bytes to the models' inputs, on the device."""

from collections.abc import Sequence

import torch
from mmengine.model import BaseDataPreprocessor
from mmpretrain.models import ClsDataPreprocessor as HostClsDataPreprocessor
from mmseg.models import SegDataPreProcessor as HostSegDataPreProcessor
from torch import Tensor

from beit_mm.errors import hint_at_bands, UserError
from beit_mm.registry import MODELS

# Of ITU-R BT.601, as in Pillow's conversion to grey values.
RED, GREEN, BLUE = 0.299, 0.587, 0.114
BRIGHTNESS, CONTRAST, SATURATION = range(3)


class _Normalising(BaseDataPreprocessor):
    """Normalises any number of channels, and copies pinned batches to the device without waiting for it.

    The hosts' classes take 1 or 3 channels, and one number may stand for all channels.
    """

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        non_blocking: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._non_blocking = non_blocking
        if mean is None and std is None:
            return
        if mean is None or std is None or len(mean) != len(std) or not all(number > 0 for number in std):
            raise UserError(f'mean and std must be as many numbers, those of std over 0, got {mean} and {std}')
        self._enable_normalize = True  # of the hosts
        for name, values in (('mean', mean), ('std', std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def _apply(self, fn, *args, **kwargs):
        """Keep the dtype of mean and std when the model is cast to half precision."""
        exact = dict(self._buffers)
        super()._apply(fn, *args, **kwargs)
        for name, buffer in exact.items():
            if buffer.dtype != self._buffers[name].dtype:
                self._buffers[name] = buffer.to(self._buffers[name].device)
        return self

    def check_channels(self, images: Tensor | Sequence[Tensor]) -> None:
        """UserError if images (B, C, H, W), or each (C, H, W), have another number of channels than mean and std."""
        channels, numbers = images[0].shape[0], len(getattr(self, 'mean', (1,)))
        if numbers not in (1, channels):
            raise UserError(
                f'mean and std of data_preprocessor must have {channels} numbers, one for each channel of the images, '
                f'got {numbers}; {hint_at_bands(numbers)}'
            )

    def forward(self, data: dict, training: bool = False) -> dict:
        self.check_channels(data['inputs'])
        return super().forward(data, training)


@MODELS.register_module()
class TwoViewPreprocessor(_Normalising):
    """Applies the colour jitter that the loader drew, normalises the trunk's view and scales the tokenizer's to [0, 1].

    Args:
        mean, std: of the trunk's view, per channel in RGB, for values 0 to 255, or 0 to 65535 of images of 16 bits.
        to_rgb: whether the loader returns BGR, as MMCV's does; images of another number of channels stay as they are.
        non_blocking: copy pinned batches to the device without waiting.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], to_rgb: bool = True, non_blocking: bool = True):
        super().__init__(mean, std, non_blocking)
        self.to_rgb = to_rgb

    def forward(self, data: dict, training: bool = False) -> dict[str, Tensor]:
        """A batch of PackTwoViews to `inputs` (B, C, H, W), `views` (B, C, 8h, 8w) and `mask` bool (B, h, w)."""
        self.check_channels(data['inputs'])
        data = self.cast_data(data)
        if self.to_rgb and data['inputs'].shape[1] == 3:
            data.update({key: data[key].flip(1) for key in ('inputs', 'views', 'mean_color') if key in data})
        highest = 65535 if data['inputs'].dtype == torch.uint16 else 255
        inputs, views = data['inputs'].float(), data['views'].float()
        if 'jitter' in data:
            inputs, views = (jitter_colors(x, data['jitter'], data['mean_color'], highest) for x in (inputs, views))
        return dict(inputs=(inputs - self.mean) / self.std, views=views / highest, mask=data['mask'])


@MODELS.register_module()
class ClsDataPreprocessor(_Normalising, HostClsDataPreprocessor):
    """MMPretrain's ClsDataPreprocessor for any number of channels, which copies without waiting.

    `to_rgb` turns BGR, as the loaders give it, to RGB; images of another number of channels stay as they are.
    """


@MODELS.register_module()
class SegDataPreProcessor(_Normalising, HostSegDataPreProcessor):
    """MMSegmentation's SegDataPreProcessor for any number of channels; see ClsDataPreprocessor for its `bgr_to_rgb`."""


def jitter_colors(images: Tensor, jitter: Tensor, mean_color: Tensor, highest: int = 255) -> Tensor:
    """Change brightness, contrast and saturation of every image, each image in its own order.

    Each step blends an image with black, with the mean grey value, or with its grey values, and clips to its range, as
    torchvision's ColorJitter does, but without rounding. The mean follows the change of brightness, not the clipping.

    Args:
        images: float (B, C, H, W) in [0, highest]. The grey value of another number of channels than RGB is their mean.
        jitter: (B, 6): the factors of brightness, contrast and saturation, then the order in which they come.
        mean_color: (B, C) in [0, highest], of the whole image before the crop and any change.
    """
    factors, order = jitter[:, :3], jitter[:, 3:].long()
    mean = _gray(mean_color.to(images.dtype)[:, :, None, None])  # (B, 1, 1, 1)
    for step in range(3):
        change = order[:, step]
        factor = factors.gather(1, change[:, None]).to(images.dtype)[:, :, None, None]
        change = change[:, None, None, None]
        gray = _gray(images)  # (B, 1, H, W)
        other = torch.where(change == CONTRAST, mean, gray).masked_fill(change == BRIGHTNESS, 0.0)
        images = (factor * images + (1 - factor) * other).clamp(0, highest)
        mean = torch.where(change == BRIGHTNESS, factor * mean, mean)
    return images


def _gray(images: Tensor) -> Tensor:
    """RGB (B, 3, H, W), or another number of channels, to grey values (B, 1, H, W)."""
    if images.shape[1] != 3:
        return images.mean(dim=1, keepdim=True)
    # Plain numbers, because a tensor of them would be copied to the device at every step, and this copy waits.
    red, green, blue = images.split(1, dim=1)
    return RED * red + GREEN * green + BLUE * blue
