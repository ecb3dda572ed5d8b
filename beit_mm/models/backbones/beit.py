"""BEiT: the trunk of pre-training, classification and segmentation (arXiv 2106.08254)."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import nn, Tensor
from torch.utils.checkpoint import checkpoint

from beit_mm.errors import UserError
from beit_mm.models.weights import fit_trunk_weights, naming_checkpoint, resize_position_embedding
from beit_mm.registry import MODELS

from .layers import Block, patch_grid, PatchEmbed
from .relative_position import expand_bias, Grid, locate, RelativePositionBias

OUT_TYPES = ('raw', 'cls_token', 'avg_featmap', 'featmap')
POOLINGS = ('mean', 'cls_token', 'patches')


def resolve_blocks(blocks: int | Sequence[int], depth: int) -> tuple[int, ...]:
    """Indices of blocks from 0 on; they may be given as one or several, also counted back from -1, the last.

    Raises:
        UserError: If `blocks` is empty or names a block that the trunk does not have.
    """
    indices = [blocks] if isinstance(blocks, int) else list(blocks)
    if not indices or any(not isinstance(index, int) or not -depth <= index < depth for index in indices):
        raise UserError(f'blocks must be 0 to {depth - 1} (or -{depth} to -1) for depth {depth}, got {blocks}')
    return tuple(index % depth for index in indices)


@MODELS.register_module()
class BEiT(BaseModule):
    """Vision transformer with relative position bias and LayerScale.

    Image sides may be any multiples of the patch size; at another size than img_size every call resizes the tables.

    Args:
        img_size: training size in pixels, one number or (height, width); sets the grid of the position tables.
        patch_size: side of a patch in pixels.
        in_channels: image channels.
        embed_dim, depth, num_heads, mlp_ratio: size of the model.
        qkv_bias: whether queries and values have a bias.
        use_abs_pos_emb: learned absolute position embeddings.
        use_rel_pos_bias, use_shared_rel_pos_bias: a bias table per block (fine-tuning), or for all (pre-training).
        use_mask_token: for pre-training.
        layer_scale_init_value: initial LayerScale; 0 or None leaves it out.
        drop_rate, attn_drop_rate: dropout after projections and on attention weights.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0 at the first.
        out_type: 'raw': all tokens after `norm`, (B, 1 + h * w, C), the class token first; 'cls_token': the class
            token after `norm`, (B, C); 'avg_featmap': mean of the patch tokens, then `fc_norm`, (B, C); 'featmap':
            patch tokens without a norm, (B, C, h, w).
        out_indices: blocks whose outputs are returned, -1 the last. Only the last block's is normalised.
        norm_eps: epsilon of the layer norms.
        frozen_stages: what does not learn and stays in evaluation mode. -1: nothing. 0: the patch embedding, the class
            token and the position embeddings. n: also the first n blocks and a shared table. depth: also the last norm.
        with_cp: activation checkpointing, which saves memory and costs a third more time.
        compile_blocks: run every block through torch.compile. Names of weights stay.
        init_cfg: MMEngine's, for example `dict(type='Pretrained', checkpoint=PATH, prefix='backbone.')`.

    Attributes:
        grid: patches (h, w) of the position tables; `set_grid` changes it.
    """

    def __init__(
        self,
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        use_abs_pos_emb: bool = False,
        use_rel_pos_bias: bool = True,
        use_shared_rel_pos_bias: bool = False,
        use_mask_token: bool = False,
        layer_scale_init_value: float | None = 0.1,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        out_type: str = 'avg_featmap',
        out_indices: int | Sequence[int] = -1,
        norm_eps: float = 1e-6,
        frozen_stages: int = -1,
        with_cp: bool = False,
        compile_blocks: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ):
        super().__init__(init_cfg)
        if embed_dim % num_heads:
            raise UserError(f'num_heads must divide embed_dim, got {num_heads} and {embed_dim}')
        if out_type not in OUT_TYPES:
            raise UserError(f'out_type must be one of {", ".join(OUT_TYPES)}, got {out_type!r}')
        if not -1 <= frozen_stages <= depth:
            raise UserError(f'frozen_stages must be -1 to {depth}, the depth of the trunk, got {frozen_stages}')
        self.embed_dim = embed_dim
        self.out_type = out_type
        self.out_indices = resolve_blocks(out_indices, depth)
        self.grid = patch_grid((img_size, img_size) if isinstance(img_size, int) else tuple(img_size), patch_size)
        self.has_block_bias = use_rel_pos_bias
        # Saved with the weights: the rows of a bias table alone do not tell 14 x 10 patches from 10 x 14.
        self.register_buffer('grid_size', torch.tensor(self.grid))

        self.patch_embed = PatchEmbed(patch_size, in_channels, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if use_mask_token else None
        num_tokens = 1 + math.prod(self.grid)
        self.pos_embed = nn.Parameter(torch.zeros(1, num_tokens, embed_dim)) if use_abs_pos_emb else None
        self.pos_drop = nn.Dropout(drop_rate)
        self.rel_pos_bias = RelativePositionBias(self.grid, num_heads) if use_shared_rel_pos_bias else None
        self._block_options: dict[str, Any] = dict(
            embed_dim=embed_dim,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            drop_rate=drop_rate,
            attn_drop_rate=attn_drop_rate,
            layer_scale_init_value=layer_scale_init_value,
            norm_eps=norm_eps,
            bias_grid=self.grid if use_rel_pos_bias else None,
        )
        self.drop_path_rate, self.compile_blocks = drop_path_rate, compile_blocks
        rates = torch.linspace(0, drop_path_rate, depth, device='cpu').tolist()
        self.blocks = nn.ModuleList(self.new_block(rate) for rate in rates)
        # Released names: `fc_norm` comes after the mean, `norm` before any pooling.
        if out_type == 'avg_featmap':
            self.fc_norm = nn.LayerNorm(embed_dim, eps=norm_eps)
        elif out_type != 'featmap':
            self.norm = nn.LayerNorm(embed_dim, eps=norm_eps)
        self._initialise()
        self.frozen_stages = frozen_stages
        for frozen in self._frozen():
            frozen.requires_grad_(False)
        self.with_cp = with_cp
        self.register_load_state_dict_pre_hook(fit_trunk_weights)

    def new_block(self, drop_path_rate: float) -> Block:
        """A block like the trunk's own."""
        block = Block(drop_path_rate=drop_path_rate, **self._block_options)
        if self.compile_blocks:
            block.compile()  # equal blocks share one graph
        return block

    def _frozen(self) -> list[nn.Module | nn.Parameter]:
        if self.frozen_stages < 0:
            return []
        parts = [self.patch_embed, self.pos_drop, self.cls_token, self.pos_embed, *self.blocks[: self.frozen_stages]]
        if self.frozen_stages > 0:
            parts.append(self.rel_pos_bias)
        if self.frozen_stages == len(self.blocks):
            parts += [getattr(self, 'norm', None), getattr(self, 'fc_norm', None)]
        return [part for part in parts if part is not None]

    def train(self, mode: bool = True) -> 'BEiT':
        """Keep frozen modules in evaluation mode: no dropout, no drop path."""
        super().train(mode)
        for frozen in self._frozen():
            if isinstance(frozen, nn.Module):
                frozen.eval()
        return self

    @torch.no_grad()
    def _initialise(self, std: float = 0.02) -> None:
        """Truncated normal as in the release: pre-training truncates at one standard deviation and includes the patch
        convolution; fine-tuning truncates at +-2 and keeps PyTorch's default for the patch convolution.
        """
        cut, drawn = (2.0, nn.Linear) if self.mask_token is None else (std, (nn.Linear, nn.Conv2d))
        layers = [module for module in self.modules() if isinstance(module, drawn)]
        for layer in layers:
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        for weight in (*(layer.weight for layer in layers), self.cls_token, self.mask_token, self.pos_embed):
            if weight is not None:
                nn.init.trunc_normal_(weight, std=std, a=-cut, b=cut)
        for index, block in enumerate(self.blocks, start=1):
            block.attn.proj.weight.div_(math.sqrt(2.0 * index))
            block.mlp.fc2.weight.div_(math.sqrt(2.0 * index))

    def init_weights(self) -> None:
        """Load the checkpoint of init_cfg; a UserError names the file if it does not fit."""
        with naming_checkpoint(self):
            super().init_weights()

    def forward(self, images: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """Features of the blocks in out_indices, in the form of out_type.

        Args:
            images: normalised, (B, in_channels, H, W); H and W multiples of the patch size, else UserError.
            mask: bool (B, h, w) or (B, h * w), True where the mask token replaces the patch; None for no mask.
        """
        tokens, grid = self.read_blocks(images, self.out_indices, mask)
        return tuple(self._output(x, grid, index) for index, x in zip(self.out_indices, tokens))

    def read_blocks(
        self, images: Tensor, blocks: Sequence[int], mask: Tensor | None = None
    ) -> tuple[list[Tensor], Grid]:
        """Outputs (B, 1 + h * w, C) of blocks, counted from 0, without a norm; and the grid (h, w) of the images."""
        x, grid = self.patch_embed(images)  # (B, h * w, C)
        if mask is not None:
            x = self._put_mask_tokens(x, mask, grid)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1).to(x.dtype), x], dim=1)  # (B, 1 + h * w, C)
        if self.pos_embed is not None:
            x = x + resize_position_embedding(self.pos_embed, grid, self.grid)
        x = self.pos_drop(x)
        return self.run(self.blocks, x, grid, blocks), grid

    def run(self, blocks: Iterable[nn.Module], x: Tensor, grid: Grid, kept: Sequence[int]) -> list[Tensor]:
        """Run tokens (B, 1 + h * w, C) of a grid (h, w) through blocks, the trunk's or like them, with its biases.

        Returns:
            the outputs of the blocks with the indices `kept`, in their order.
        """
        positions = shared_bias = None
        if self.has_block_bias or self.rel_pos_bias is not None:
            positions = locate(self.grid, grid, self.cls_token.dtype, x.device)  # once for all blocks
        if self.rel_pos_bias is not None:
            shared_bias = self.rel_pos_bias(positions)
        outputs = {}
        for index, block in enumerate(blocks):
            if self.with_cp and self.training:
                x = checkpoint(block, x, positions, shared_bias, use_reentrant=False)
            else:
                x = block(x, positions, shared_bias)
            if index in kept:
                outputs[index] = x
        return [outputs[index] for index in kept]

    def _put_mask_tokens(self, patches: Tensor, mask: Tensor, grid: Grid) -> Tensor:
        if self.mask_token is None:
            raise UserError('a mask needs a trunk with use_mask_token=True, got use_mask_token=False')
        expected = (len(patches), *grid)
        if mask.shape not in (expected, patches.shape[:2]):
            raise UserError(f'mask must be {expected} to fit the images, got {tuple(mask.shape)}')
        return torch.where(mask.flatten(1)[..., None].bool(), self.mask_token.to(patches.dtype), patches)

    @staticmethod
    def pool(tokens: Tensor, kind: str) -> Tensor:
        """From tokens (B, 1 + N, C): 'mean' of the patch tokens or 'cls_token', (B, C), or all 'patches' (B, N, C)."""
        if kind == 'mean':
            return tokens[:, 1:].mean(dim=1)
        if kind == 'cls_token':
            return tokens[:, 0]
        if kind == 'patches':
            return tokens[:, 1:]
        raise UserError(f'kind of pooling must be one of {", ".join(POOLINGS)}, got {kind!r}')

    def _output(self, x: Tensor, grid: Grid, block: int) -> Tensor:
        is_last = block == len(self.blocks) - 1
        if self.out_type == 'featmap':
            return self.pool(x, 'patches').transpose(1, 2).unflatten(2, grid)  # (B, C, h, w)
        if self.out_type == 'avg_featmap':
            x = self.pool(x, 'mean')
            return self.fc_norm(x) if is_last else x
        x = self.norm(x) if is_last else x
        return x if self.out_type == 'raw' else self.pool(x, 'cls_token')

    @torch.no_grad()
    def set_grid(self, grid: Grid) -> None:
        """Resize bias tables and position embeddings once to a patch grid (h, w); `forward` does so at every call.

        Another grid than the trunk's creates new parameters, so call it before an optimizer is built.
        """
        grid = (grid[0], grid[1])
        if grid == self.grid:
            return
        for module in (*(block.attn for block in self.blocks), self.rel_pos_bias):
            table = getattr(module, 'relative_position_bias_table', None)
            if table is not None:
                resized = expand_bias(table, self.grid, grid)
                module.relative_position_bias_table = nn.Parameter(resized, table.requires_grad)
        if self.pos_embed is not None:
            resized = resize_position_embedding(self.pos_embed, grid, self.grid)
            self.pos_embed = nn.Parameter(resized, self.pos_embed.requires_grad)
        self.grid = grid
        self.grid_size.copy_(torch.tensor(grid))

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Layer of a parameter for layer-wise learning rate decay, and the number of layers (MMPretrain's contract).

        Layer 0: embeddings; i + 1: block i; the last: everything else, also outside of the trunk's prefix.
        """
        num_layers = len(self.blocks) + 2
        name = param_name[len(prefix) :] if param_name.startswith(prefix) else ''
        if name.startswith(('cls_token', 'mask_token', 'pos_embed', 'patch_embed')):
            return 0, num_layers
        if name.startswith('blocks.'):
            return int(name.split('.')[1]) + 1, num_layers
        return num_layers - 1, num_layers
