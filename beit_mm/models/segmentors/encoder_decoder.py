"""EncoderDecoder whose sliding windows run together (MMSegmentation's runs them one by one)."""

import torch
from mmseg.models.segmentors import EncoderDecoder as HostEncoderDecoder
from torch import Tensor
from torch.nn import functional as F

from beit_mm.errors import UserError
from beit_mm.models.backbones.beit import BEiT
from beit_mm.models.backbones.layers import patch_grid
from beit_mm.registry import MODELS


@MODELS.register_module()
class EncoderDecoder(HostEncoderDecoder):
    """MMSegmentation's EncoderDecoder with the same result for less time and memory.

    In the mode 'slide', an image smaller than the window is padded to it with zeros, the mean of normalised images.
    `test_cfg` takes MMSegmentation's `crop_size` and `stride`, and `windows_per_batch`: how many windows run at once;
    by default 8 on a GPU, and one on a CPU, where more only take memory.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if (self.test_cfg or {}).get('mode') != 'slide':
            return
        window, stride = tuple(self.test_cfg['crop_size']), tuple(self.test_cfg['stride'])
        if any(step > side for step, side in zip(stride, window)):
            raise UserError(f'test_cfg.stride must not exceed crop_size {window}, or windows leave gaps, got {stride}')
        if isinstance(self.backbone, BEiT):
            patch_grid(window, self.backbone.patch_embed.patch_size, 'test_cfg.crop_size')

    def slide_inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Logits (B, num_classes, H, W) of normalised images (B, 3, H, W) of any size, averaged over windows."""
        window, stride = tuple(self.test_cfg['crop_size']), tuple(self.test_cfg['stride'])
        height, width = inputs.shape[2:]
        inputs = F.pad(inputs, (0, max(window[1] - width, 0), 0, max(window[0] - height, 0)))
        rows, columns = (window_starts(size, *sides) for size, sides in zip(inputs.shape[2:], zip(window, stride)))
        windows = [
            (image, slice(None), slice(top, top + window[0]), slice(left, left + window[1]))
            for top in rows
            for left in columns
            for image in range(len(inputs))
        ]
        batch_size = self.test_cfg.get('windows_per_batch', 8 if inputs.is_cuda else 1)
        logits = counts = inputs.new_zeros(0)
        for start in range(0, len(windows), batch_size):
            batch = windows[start : start + batch_size]
            crops = torch.stack([inputs[area] for area in batch])
            predicted = self.encode_decode(crops, [dict(img_shape=window, pad_shape=window)])
            if not start:
                logits = predicted.new_zeros(len(inputs), predicted.shape[1], *inputs.shape[2:])
                counts = predicted.new_zeros(len(inputs), 1, *inputs.shape[2:])
            for area, window_logits in zip(batch, predicted):
                logits[area] += window_logits
                counts[area] += 1
        return logits.div_(counts)[:, :, :height, :width]


def window_starts(size: int, window: int, stride: int) -> list[int]:
    """Starts of the windows along a side that is not smaller than a window: one per stride, the last at the end."""
    count = max(size - window + stride - 1, 0) // stride + 1
    return [min(index * stride, size - window) for index in range(count)]
