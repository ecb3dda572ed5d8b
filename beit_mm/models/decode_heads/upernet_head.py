"""UperNetHead: MMSegmentation's UPerHead (arXiv 1807.10221) that convolves maps before it up-samples them.

A k x k convolution of a map x up-sampled by a linear U is the sum over its taps of shifted maps: conv(U x) =
sum_t S_t U (W_t x), with the 1 x 1 convolution W_t of the tap and its shift S_t (zeros beyond the border). Most of
the work is to mix channels, and W_t x does it at the resolution of x. Only rounding differs.
"""

from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads import UPerHead
from torch import nn, Tensor
from torch.nn import functional as F

from beit_mm.registry import MODELS


@MODELS.register_module()
class UperNetHead(UPerHead):
    """UPerHead with the same parameters and outputs for less time and memory; arguments: see MMSegmentation's."""

    def _join(self, module: ConvModule, levels: Sequence[Tensor]) -> Tensor:
        """Convolve the concatenation of all levels, up-sampled to the first; then norm and activation."""
        if type(module.conv) is not nn.Conv2d:  # another convolution of conv_cfg: the plain way
            return module(torch.cat([levels[0], *(self._upsample(level, levels[0]) for level in levels[1:])], dim=1))
        size, weight = levels[0].shape[2:], module.conv.weight
        parts = list(zip(weight.split([level.shape[1] for level in levels], dim=1), levels))
        weights, maps = zip(*(part for part in parts if part[1].shape[2:] == size))
        padding = weight.shape[2] // 2
        joined = F.conv2d(torch.cat(maps, dim=1), torch.cat(weights, dim=1), module.conv.bias, padding=padding)
        for part, level in parts:
            if level.shape[2:] != size:
                joined = joined + conv_of_upsampled(part, level, size, self.align_corners)
        joined = module.norm(joined) if module.with_norm else joined
        return module.activate(joined) if module.with_activation else joined

    def _upsample(self, level: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(level, size=like.shape[2:], mode='bilinear', align_corners=self.align_corners)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Levels (B, C_i, h_i, w_i), finest first, to logits (B, num_classes, h_0, w_0)."""
        *fine, coarsest = self._transform_inputs(inputs)
        pooled = [branch(coarsest) for branch in self.psp_modules]  # not up-sampled, as PPM's forward does
        top = self._join(self.bottleneck, [coarsest, *pooled])
        levels: list[Tensor] = [top]
        for lateral_conv, level in zip(reversed(self.lateral_convs), reversed(fine)):
            lateral = lateral_conv(level)
            levels.insert(0, lateral + self._upsample(levels[0], lateral))
        levels = [conv(level) for conv, level in zip(self.fpn_convs, levels)] + [top]
        return self.cls_seg(self._join(self.fpn_bottleneck, levels))


def _shifted_upsampling(source: int, target: int, kernel_size: int, align_corners: bool, like: Tensor) -> Tensor:
    """Bilinear up-sampling along one axis, then the shift of each tap, (kernel_size * source, target)."""
    identity = torch.eye(source, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)
    upsampling = F.interpolate(identity[None], size=target, mode='linear', align_corners=align_corners)[0]
    padded = F.pad(upsampling, (kernel_size // 2, kernel_size // 2))
    return torch.cat([padded[:, tap : tap + target] for tap in range(kernel_size)]).to(like.dtype)


def conv_of_upsampled(weight: Tensor, level: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """`conv2d(interpolate(level, size, mode='bilinear'), weight, padding=k // 2)`, (B, C_out, H, W).

    Args:
        weight: (C_out, C_in, k, k), k odd.
        level: (B, C_in, h, w).
        size: (H, W) after up-sampling.
        align_corners: of the up-sampling.
    """
    num_out, _, kernel_size, _ = weight.shape
    batch, _, height, width = level.shape
    taps = weight.permute(2, 3, 0, 1).reshape(-1, weight.shape[1], 1, 1)  # (k * k * C_out, C_in, 1, 1), rows first
    mixed = F.conv2d(level, taps).view(batch, kernel_size, kernel_size, num_out, height, width)
    rows, columns = (
        _shifted_upsampling(source, target, kernel_size, align_corners, mixed)
        for source, target in zip((height, width), size)
    )
    mixed = mixed.permute(0, 3, 1, 4, 2, 5).reshape(batch, num_out, kernel_size * height, kernel_size * width)
    return rows.t() @ (mixed @ columns)
