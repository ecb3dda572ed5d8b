"""From the loader's bytes to what the models take, on the device."""
from typing import Dict, Sequence

import torch
from mmengine.model import BaseDataPreprocessor
from mmpretrain.models import ClsDataPreprocessor as HostClsDataPreprocessor
from mmseg.models import SegDataPreProcessor as HostSegDataPreProcessor

from ..registry import MODELS
from .color_jitter import jitter_colors


@MODELS.register_module()
class TwoViewPreprocessor(BaseDataPreprocessor):
    """Normalises the trunk's view and brings the tokenizer's to [0, 1], both after the colour jitter that was drawn.

    Args:
        mean, std: of the trunk's view, per channel in RGB, for values 0 to 255.
        to_rgb: whether the loader gives BGR, as MMCV's does.
        non_blocking: copy pinned batches to the device without waiting.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], to_rgb: bool = True,
                 non_blocking: bool = True):
        super().__init__(non_blocking)
        self.to_rgb = to_rgb
        self.register_buffer('mean', torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, data: dict, training: bool = False) -> Dict[str, torch.Tensor]:
        """A collated batch of PackTwoViews to `inputs` float (B, 3, H, W), `views` float (B, 3, 8h, 8w) in [0, 1]
        and `mask` bool (B, h, w)."""
        data = self.cast_data(data)
        inputs, views = data['inputs'], data['views']
        if self.to_rgb:
            inputs, views = inputs.flip(1), views.flip(1)
        inputs, views = inputs.float(), views.float()
        if 'jitter' in data:
            mean_color = data['mean_color'].flip(1) if self.to_rgb else data['mean_color']
            inputs, views = (jitter_colors(images, data['jitter'], mean_color) for images in (inputs, views))
        return dict(inputs=(inputs - self.mean) / self.std, views=views / 255, mask=data['mask'])


@MODELS.register_module()
class ClsDataPreprocessor(HostClsDataPreprocessor):
    """MMPretrain's, but the copy of a pinned batch to the device does not wait for what the device is at.

    Args:
        non_blocking: whether copies return at once.
        **kwargs: of MMPretrain's ClsDataPreprocessor.
    """

    def __init__(self, non_blocking: bool = True, **kwargs):
        super().__init__(**kwargs)
        self._non_blocking = non_blocking


@MODELS.register_module()
class SegDataPreProcessor(HostSegDataPreProcessor):
    """MMSegmentation's, but the copy of a pinned batch to the device does not wait for what the device is at.

    Args:
        non_blocking: whether copies return at once.
        **kwargs: of MMSegmentation's SegDataPreProcessor.
    """

    def __init__(self, non_blocking: bool = True, **kwargs):
        super().__init__(**kwargs)
        self._non_blocking = non_blocking
