"""Layers of the trunk: patch embedding, attention, MLP, and the block made of them.

Parameter names are those of the released checkpoints.
"""

import math
import operator
from collections.abc import Sequence

import torch
from mmcv.cnn.bricks import DropPath
from torch import nn, Tensor
from torch.nn import functional as F

from beit_mm.errors import UserError

from .relative_position import Grid, NUM_CLASS_ROWS, num_offsets, Positions, read_bias

IMAGE_SIZE = 'image height and width (img_size of the trunk, scale or crop_size of the pipeline)'


class PatchEmbed(nn.Module):
    """Embeds patches with a strided convolution.

    Args:
        patch_size: side of a patch in pixels.
        in_channels, embed_dim: channels before and after.
    """

    def __init__(self, patch_size: int, in_channels: int, embed_dim: int):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, embed_dim, patch_size, patch_size)

    def forward(self, images: Tensor) -> tuple[Tensor, Grid]:
        """Images (B, in_channels, H, W) to patches (B, h * w, embed_dim) and their grid (h, w).

        Raises:
            UserError: If the patch size does not divide H and W.
        """
        grid = patch_grid(images.shape[-2:], self.patch_size)
        return self.proj(images).flatten(2).transpose(1, 2), grid


def patch_grid(image_size: Sequence[int], patch_size: int, name: str = IMAGE_SIZE) -> Grid:
    """Grid (h, w) of an image size (H, W).

    Args:
        image_size, patch_size: in pixels.
        name: of the size, for the message.

    Raises:
        UserError: If the patch size does not divide both sides.
    """
    height, width = (operator.index(side) for side in image_size)  # torch.compile makes numbers of symbolic sizes here
    if height % patch_size or width % patch_size or not height or not width:
        raise UserError(f'{name} must be multiples of the patch size {patch_size}, got {height} x {width}')
    return height // patch_size, width // patch_size


class Attention(nn.Module):
    """Multi-head self-attention with biases on queries and values, none on keys (released code).

    `qkv` has no bias of its own: `q_bias` and `v_bias` are added to its output, so that `qkv` is a plain linear layer
    that can be hooked, wrapped or replaced.

    Args:
        embed_dim, num_heads: width and number of heads; heads must divide the width.
        qkv_bias: whether queries and values have a bias.
        attn_drop_rate, proj_drop_rate: dropout on the attention weights and after the projection.
        bias_grid: grid (h, w) of the block's relative position bias table; None for no table.
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
            self.relative_position_bias_table = nn.Parameter(
                torch.zeros(num_offsets(bias_grid) + NUM_CLASS_ROWS, num_heads)
            )
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.proj_drop = nn.Dropout(proj_drop_rate)

    def forward(self, x: Tensor, positions: Positions | None = None, shared_bias: Tensor | None = None) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C).

        Args:
            x: tokens.
            positions: of the tokens, for the block's own table; None if it has none.
            shared_bias: a bias that all blocks share, also added to the logits, (1, num_heads, N, N'), see `read_bias`.
        """
        q, k, v = self._project(x)
        bias = self._bias(positions, shared_bias, q)
        heads = F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, dropout_p=self.attn_drop_rate if self.training else 0.0
        )
        return self.proj_drop(self.proj(heads.transpose(1, 2).reshape(x.shape)))

    def probabilities(
        self,
        x: Tensor,
        positions: Positions | None = None,
        shared_bias: Tensor | None = None,
        queries: Tensor | None = None,
    ) -> Tensor:
        """Attention weights, without dropout.

        Args:
            x, positions, shared_bias: as in forward.
            queries: int64 (Q,), tokens whose rows are computed; None for all N.

        Returns:
            (B, num_heads, Q, N), float32 or wider: softmax(q k^T / sqrt(C / num_heads) + bias) over the last axis, the
            keys.
        """
        q, k, _ = self._project(x)
        bias = self._bias(positions, shared_bias, q)
        if queries is not None:
            q, bias = q[:, :, queries], None if bias is None else bias[:, :, queries]
        dtype = torch.promote_types(q.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            logits = q.to(dtype) @ k.to(dtype).transpose(2, 3) / math.sqrt(q.shape[3])
            return (logits if bias is None else logits + bias).softmax(dim=3)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of tokens (B, N, C), each (B, num_heads, N, C / num_heads)."""
        batch, num_tokens, _ = x.shape
        qkv = self.qkv(x).view(batch, num_tokens, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()
        if self.q_bias is not None:
            q_bias, v_bias = (bias.to(q.dtype).view(self.num_heads, 1, -1) for bias in (self.q_bias, self.v_bias))
            q, v = q + q_bias, v + v_bias
        return q, k, v

    def _bias(self, positions: Positions | None, shared_bias: Tensor | None, queries: Tensor) -> Tensor | None:
        """Sum of the block's own bias and the shared one, (1, num_heads, N, N); None if there is neither.

        It has the queries' dtype: a float32 bias with bfloat16 queries is silently wrong in cuDNN's kernel.
        """
        bias = shared_bias
        if self.relative_position_bias_table is not None:
            assert positions is not None, 'a block with a bias table needs positions'
            own_bias = read_bias(self.relative_position_bias_table, positions)
            bias = own_bias if bias is None else own_bias + bias
        # Cast before slicing, so that the rows stay aligned.
        return None if bias is None else bias.to(queries.dtype)[..., : queries.shape[2]]


class Mlp(nn.Module):
    """Two linear layers with GELU between; dropout after the second only (released code)."""

    def __init__(self, embed_dim: int, hidden_dim: int, drop_rate: float = 0.0):
        super().__init__()
        self.fc1 = nn.Linear(embed_dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, embed_dim)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.act(self.fc1(x))))


class Block(nn.Module):
    """Pre-norm transformer block with LayerScale (gamma_1, gamma_2) and stochastic depth.

    Args:
        layer_scale_init_value: initial LayerScale; None or 0 leaves it out.
        drop_path_rate: probability that a sample skips a branch.
        Others as in Attention; mlp_ratio is the hidden width over the embedding's.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        mlp_ratio: float,
        qkv_bias: bool,
        drop_rate: float,
        attn_drop_rate: float,
        drop_path_rate: float,
        layer_scale_init_value: float | None,
        norm_eps: float,
        bias_grid: Grid | None,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=norm_eps)
        self.attn = Attention(embed_dim, num_heads, qkv_bias, attn_drop_rate, drop_rate, bias_grid)
        self.norm2 = nn.LayerNorm(embed_dim, eps=norm_eps)
        self.mlp = Mlp(embed_dim, int(embed_dim * mlp_ratio), drop_rate)
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()
        self.gamma_1 = self.gamma_2 = None
        if layer_scale_init_value:
            self.gamma_1 = nn.Parameter(torch.full((embed_dim,), float(layer_scale_init_value)))
            self.gamma_2 = nn.Parameter(torch.full((embed_dim,), float(layer_scale_init_value)))

    def forward(self, x: Tensor, positions: Positions | None = None, shared_bias: Tensor | None = None) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C); positions and shared_bias as in Attention."""
        branch = self.attn(self.norm1(x), positions, shared_bias)
        x = x + self.drop_path(branch if self.gamma_1 is None else self.gamma_1 * branch)
        branch = self.mlp(self.norm2(x))
        return x + self.drop_path(branch if self.gamma_2 is None else self.gamma_2 * branch)
