"""Layers of the trunk, with the released checkpoints' parameter names."""

import math
import operator
from collections import OrderedDict
from collections.abc import Sequence

import torch
from mmcv.cnn.bricks import DropPath
from torch import nn, Tensor
from torch.nn import functional as F

from beit_mm.errors import hint_at_bands, UserError

from .relative_position import Grid, num_table_rows, Positions, read_bias

IMAGE_SIZE = (
    'image height and width (img_size of the trunk, scale or crop_size of the pipeline, or size_divisor of '
    'data_preprocessor.test_cfg, which pads)'
)


def patch_grid(image_size: Sequence[int], patch_size: int, name: str = IMAGE_SIZE) -> Grid:
    """Grid (h, w) of an image size (H, W) in pixels; UserError, with its name, if the patch does not divide it."""
    height, width = (operator.index(side) for side in image_size)  # torch.compile makes numbers of symbolic sizes here
    if height % patch_size or width % patch_size or not height or not width:
        raise UserError(f'{name} must be multiples of the patch size {patch_size}, got {height} x {width}')
    return height // patch_size, width // patch_size


class PatchEmbed(nn.Module):
    """Embeds patches of patch_size x patch_size pixels with a strided convolution."""

    def __init__(self, patch_size: int, in_channels: int, embed_dim: int):
        super().__init__()
        self.patch_size, self.in_channels = patch_size, in_channels
        self.proj = nn.Conv2d(in_channels, embed_dim, patch_size, patch_size)

    def forward(self, images: Tensor) -> tuple[Tensor, Grid]:
        """Images (B, in_channels, H, W) to patches (B, h * w, embed_dim) and their grid (h, w)."""
        if images.shape[1] != self.in_channels:
            what = f'images must have {self.in_channels} channels (in_channels of the trunk), got {images.shape[1]}'
            raise UserError(f'{what}; {hint_at_bands(self.in_channels)}')
        grid = patch_grid(images.shape[-2:], self.patch_size)
        if images.is_floating_point():
            images = images.to(self.proj.weight.dtype)  # of models in half precision, too
        return self.proj(images).flatten(2).transpose(1, 2), grid


class Attention(nn.Module):
    """Multi-head self-attention with biases on queries and values, none on keys (released code).

    `qkv` has no bias of its own: `q_bias` and `v_bias` are added to its output, so that `qkv` is a plain linear layer
    that can be hooked, wrapped or replaced.

    `bias_grid` is the grid (h, w) of the block's relative position bias table; None for no table.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        qkv_bias: bool = True,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        bias_grid: Grid | None = None,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.attn_drop_rate = attn_drop_rate
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(embed_dim)) if qkv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(embed_dim)) if qkv_bias else None
        # The released names have no module between `attn` and the table.
        self.relative_position_bias_table = None
        if bias_grid is not None:
            self.relative_position_bias_table = nn.Parameter(torch.zeros(num_table_rows(bias_grid), num_heads))
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.proj_drop = nn.Dropout(proj_drop_rate)

    def forward(self, x: Tensor, positions: Positions | None = None, shared_bias: Tensor | None = None) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C).

        Args:
            x: tokens.
            positions: of the tokens, for the block's own table.
            shared_bias: also added to the logits, (1, num_heads, N, N'), see `read_bias`.
        """
        q, k, v, bias = self._project(x, positions, shared_bias)
        drop_rate = self.attn_drop_rate if self.training else 0.0
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=drop_rate)
        return self.proj_drop(self.proj(heads.transpose(1, 2).reshape(x.shape)))

    def probabilities(
        self,
        x: Tensor,
        positions: Positions | None = None,
        shared_bias: Tensor | None = None,
        queries: Tensor | None = None,
    ) -> Tensor:
        """softmax(q k^T / sqrt(C / num_heads) + bias) over the keys, without dropout, (B, num_heads, Q, N), float32 or
        wider. `queries`, int64 (Q,), are the tokens whose rows are computed; None for all N.
        """
        q, k, _, bias = self._project(x, positions, shared_bias)
        if queries is not None:
            q, bias = q[:, :, queries], None if bias is None else bias[:, :, queries]
        dtype = torch.promote_types(q.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            logits = q.to(dtype) @ k.to(dtype).transpose(2, 3) / math.sqrt(q.shape[3])
            return (logits if bias is None else logits + bias).softmax(dim=3)

    def _project(
        self, x: Tensor, positions: Positions | None, shared_bias: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Queries, keys, values (B, num_heads, N, C / num_heads) and the bias (1, num_heads, N, N), if any."""
        batch, num_tokens, _ = x.shape
        q, k, v = self.qkv(x).view(batch, num_tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind()
        if self.q_bias is not None:
            q_bias, v_bias = (bias.to(q.dtype).view(self.num_heads, 1, -1) for bias in (self.q_bias, self.v_bias))
            q, v = q + q_bias, v + v_bias
        bias = shared_bias
        if self.relative_position_bias_table is not None:
            assert positions is not None, 'a block with a bias table needs positions'
            own_bias = read_bias(self.relative_position_bias_table, positions)
            bias = own_bias if bias is None else own_bias + bias
        # The queries' dtype, because cuDNN's kernel is silently wrong for a float32 bias with bfloat16 queries. Cast
        # before slicing, so that the rows stay aligned.
        return q, k, v, None if bias is None else bias.to(q.dtype)[..., :num_tokens]


class Block(nn.Module):
    """Pre-norm transformer block with LayerScale (gamma_1, gamma_2) and stochastic depth; for arguments see BEiT."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        drop_path_rate: float = 0.0,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        layer_scale_init_value: float | None = 0.1,
        norm_eps: float = 1e-6,
        bias_grid: Grid | None = None,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=norm_eps)
        self.attn = Attention(embed_dim, num_heads, qkv_bias, attn_drop_rate, drop_rate, bias_grid)
        self.norm2 = nn.LayerNorm(embed_dim, eps=norm_eps)
        fc1 = nn.Linear(embed_dim, int(embed_dim * mlp_ratio))
        fc2 = nn.Linear(fc1.out_features, embed_dim)
        # Dropout after the second layer only, as in the released code.
        self.mlp = nn.Sequential(OrderedDict(fc1=fc1, act=nn.GELU(), fc2=fc2, drop=nn.Dropout(drop_rate)))
        self.drop_path = DropPath(drop_path_rate)
        self.gamma_1 = self.gamma_2 = None
        if layer_scale_init_value:
            self.gamma_1 = nn.Parameter(torch.full((embed_dim,), float(layer_scale_init_value)))
            self.gamma_2 = nn.Parameter(torch.full((embed_dim,), float(layer_scale_init_value)))

    def forward(self, x: Tensor, positions: Positions | None = None, shared_bias: Tensor | None = None) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C); other arguments: see Attention."""
        branch = self.attn(self.norm1(x), positions, shared_bias)
        x = x + self.drop_path(branch if self.gamma_1 is None else self.gamma_1 * branch)
        branch = self.mlp(self.norm2(x))
        return x + self.drop_path(branch if self.gamma_2 is None else self.gamma_2 * branch)
