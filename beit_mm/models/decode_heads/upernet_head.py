"""UperNetHead: unified perceptual parsing over a four-level pyramid (arXiv 1807.10221)."""

from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.decode_heads.psp_head import PPM
from torch import nn, Tensor
from torch.nn import functional as F

from beit_mm.registry import MODELS

from .upsampled_conv import conv_of_joined


@MODELS.register_module()
class UperNetHead(BaseDecodeHead):
    """Pyramid pooling on the coarsest level, top-down sums, and a classifier on the concatenation of all levels.

    Parameters have the names of MMSegmentation's UPerHead, so each loads the other's weights.

    Args:
        pool_scales: cells per side of the pooled maps.
        **kwargs: of MMSegmentation's BaseDecodeHead: `in_channels` and `in_index` of the levels, finest first,
            `channels`, `num_classes`, `dropout_ratio`, `norm_cfg`, `align_corners`, `loss_decode`.
    """

    def __init__(self, pool_scales: Sequence[int] = (1, 2, 3, 6), **kwargs):
        super().__init__(input_transform='multiple_select', **kwargs)
        self.psp_modules = PPM(
            pool_scales,
            self.in_channels[-1],
            self.channels,
            conv_cfg=self.conv_cfg,
            norm_cfg=self.norm_cfg,
            act_cfg=self.act_cfg,
            align_corners=self.align_corners,
        )
        self.bottleneck = self._conv(self.in_channels[-1] + len(pool_scales) * self.channels, 3)
        self.lateral_convs = nn.ModuleList(self._conv(width, 1) for width in self.in_channels[:-1])
        self.fpn_convs = nn.ModuleList(self._conv(self.channels, 3) for _ in self.in_channels[:-1])
        self.fpn_bottleneck = self._conv(len(self.in_channels) * self.channels, 3)

    def _conv(self, num_in: int, kernel_size: int) -> ConvModule:
        return ConvModule(
            num_in,
            self.channels,
            kernel_size,
            padding=kernel_size // 2,
            conv_cfg=self.conv_cfg,
            norm_cfg=self.norm_cfg,
            act_cfg=self.act_cfg,
            inplace=False,
        )

    def _upsample(self, level: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(level, size=like.shape[2:], mode='bilinear', align_corners=self.align_corners)

    def _pooled(self, coarsest: Tensor) -> list[Tensor]:
        """Pooled maps (B, channels, scale, scale), not up-sampled as PPM's forward does."""
        return [branch(coarsest) for branch in self.psp_modules]

    def _join(self, module: ConvModule, levels: Sequence[Tensor]) -> Tensor:
        """Convolve the concatenation of all levels, up-sampled to the first; then norm and activation."""
        if type(module.conv) is not nn.Conv2d:  # another convolution of conv_cfg: the plain way
            return module(torch.cat([levels[0], *(self._upsample(level, levels[0]) for level in levels[1:])], dim=1))
        joined = conv_of_joined(module.conv.weight, levels, self.align_corners)
        if module.conv.bias is not None:
            joined = joined + module.conv.bias.to(joined.dtype)[:, None, None]
        joined = module.norm(joined) if module.with_norm else joined
        return module.activate(joined) if module.with_activation else joined

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Levels (B, C_i, h_i, w_i), finest first, to logits (B, num_classes, h_0, w_0)."""
        *fine, coarsest = self._transform_inputs(inputs)
        top = self._join(self.bottleneck, [coarsest, *self._pooled(coarsest)])
        levels: list[Tensor] = [top]
        for lateral_conv, level in zip(reversed(self.lateral_convs), reversed(fine)):
            lateral = lateral_conv(level)
            levels.insert(0, lateral + self._upsample(levels[0], lateral))
        levels = [conv(level) for conv, level in zip(self.fpn_convs, levels)] + [top]
        return self.cls_seg(self._join(self.fpn_bottleneck, levels))
