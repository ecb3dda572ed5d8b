"""BEiT: the one trunk, for pre-training, classification and segmentation (arXiv 2106.08254)."""

import math
from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import nn, Tensor
from torch.utils.checkpoint import checkpoint

from beit_mm.models.weights import fit_trunk_weights, resize_position_embedding, WeightsMismatch
from beit_mm.registry import MODELS

from .layers import Block, patch_grid, PatchEmbed
from .relative_position import Grid, RelativePositionBias

OUT_TYPES = ('raw', 'cls_token', 'avg_featmap', 'featmap')


@MODELS.register_module()
class BEiT(BaseModule):
    """Vision transformer with relative position bias and LayerScale.

    Any image size that the patch size divides is accepted, square or not, whatever size the trunk was built or its
    weights were trained for.

    Args:
        img_size: training size in pixels, one number or (height, width); sets the grid of the position tables.
        patch_size: side of a patch in pixels.
        in_channels: image channels.
        embed_dim, depth, num_heads, mlp_ratio: size of the model.
        qkv_bias: whether queries and values have a bias.
        use_abs_pos_emb: learned absolute position embeddings.
        use_rel_pos_bias: one bias table per block (fine-tuning).
        use_shared_rel_pos_bias: one bias table for all blocks (pre-training).
        use_mask_token: whether there is a mask token, for pre-training.
        layer_scale_init_value: initial LayerScale; 0 or None leaves it out.
        drop_rate, attn_drop_rate: dropout after projections and on attention weights.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0 at the first.
        out_type: 'raw': all tokens after `norm`, (B, 1 + h * w, C), the class token first; 'cls_token': that one,
            (B, C); 'avg_featmap': mean of the patch tokens after `fc_norm`, (B, C); 'featmap': patch tokens without a
            norm, (B, C, h, w).
        out_indices: blocks, counted from 0 or back from -1, whose outputs are returned; the norm goes with the last.
        norm_eps: epsilon of the layer norms.
        with_cp: compute the inside of blocks again in the backward pass instead of keeping it: less memory, a third
            more work.
        compile_blocks: run every block through torch.compile; names of weights stay.
        init_cfg: MMEngine's, for example `dict(type='Pretrained', checkpoint=PATH, prefix='backbone.')`.

    Raises:
        ValueError: If sizes do not fit each other or out_type is unknown.
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
        with_cp: bool = False,
        compile_blocks: bool = False,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        if embed_dim % num_heads:
            raise ValueError(f'num_heads must divide embed_dim, got {num_heads} and {embed_dim}')
        if out_type not in OUT_TYPES:
            raise ValueError(f'out_type must be one of {", ".join(OUT_TYPES)}, got {out_type!r}')
        self.embed_dim = embed_dim
        self.out_type = out_type
        self.out_indices = self._resolve_indices(out_indices, depth)
        self.grid = patch_grid((img_size, img_size) if isinstance(img_size, int) else tuple(img_size), patch_size)
        self.has_block_bias = use_rel_pos_bias
        # Travels with the weights: the rows of a bias table alone do not tell 14 x 10 patches from 10 x 14.
        self.register_buffer('grid_size', torch.tensor(self.grid))

        self.patch_embed = PatchEmbed(patch_size, in_channels, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if use_mask_token else None
        num_positions = 1 + self.grid[0] * self.grid[1]
        self.pos_embed = nn.Parameter(torch.zeros(1, num_positions, embed_dim)) if use_abs_pos_emb else None
        self.pos_drop = nn.Dropout(drop_rate)
        self.rel_pos_bias = RelativePositionBias(self.grid, num_heads) if use_shared_rel_pos_bias else None
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads,
                mlp_ratio,
                qkv_bias,
                drop_rate,
                attn_drop_rate,
                rate,
                layer_scale_init_value,
                norm_eps,
                self.grid if use_rel_pos_bias else None,
            )
            for rate in torch.linspace(0, drop_path_rate, depth, device='cpu').tolist()
        )
        # The release names the norm after the mean `fc_norm`, the one before any pooling `norm`.
        if out_type == 'avg_featmap':
            self.fc_norm = nn.LayerNorm(embed_dim, eps=norm_eps)
        elif out_type != 'featmap':
            self.norm = nn.LayerNorm(embed_dim, eps=norm_eps)
        self._initialise()
        self.with_cp = with_cp
        if compile_blocks:  # equal blocks share one graph
            for block in self.blocks:
                block.compile()
        self.register_load_state_dict_pre_hook(fit_trunk_weights)

    @staticmethod
    def _resolve_indices(out_indices: int | Sequence[int], depth: int) -> tuple[int, ...]:
        indices = [out_indices] if isinstance(out_indices, int) else list(out_indices)
        if not indices or any(not -depth <= index < depth for index in indices):
            raise ValueError(f'out_indices must name blocks of a trunk of depth {depth}, got {out_indices}')
        return tuple(index % depth for index in indices)

    @torch.no_grad()
    def _initialise(self, std: float = 0.02) -> None:
        """Truncated normal as in the release: pre-training cuts at one deviation and includes the patch convolution,
        fine-tuning cuts at +-2 and leaves that convolution at PyTorch's default.
        """
        pre_training = self.mask_token is not None
        cut = std if pre_training else 2.0
        for module in self.modules():
            if isinstance(module, nn.Linear) or (pre_training and isinstance(module, nn.Conv2d)):
                nn.init.trunc_normal_(module.weight, std=std, a=-cut, b=cut)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for token in (self.cls_token, self.mask_token, self.pos_embed):
            if token is not None:
                nn.init.trunc_normal_(token, std=std, a=-cut, b=cut)
        for index, block in enumerate(self.blocks, start=1):
            block.attn.proj.weight.div_(math.sqrt(2.0 * index))
            block.mlp.fc2.weight.div_(math.sqrt(2.0 * index))

    def init_weights(self) -> None:
        """Load what init_cfg names; the rest was initialised when built.

        Raises:
            ValueError: If the checkpoint does not fit, or holds nothing under the prefix asked for; names the file.
        """
        try:
            super().init_weights()
        except (AssertionError, WeightsMismatch) as error:  # MMEngine's and ours, neither knows the file
            raise ValueError(f'{self.init_cfg["checkpoint"]}: {error}') from error

    def forward(self, images: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """Features of the blocks in out_indices.

        Args:
            images: normalised, (B, in_channels, H, W); H and W multiples of the patch size.
            mask: bool (B, h, w) or (B, h * w), True where the mask token stands for the patch; None for no mask.

        Returns:
            One tensor per out_index, in the form of out_type.

        Raises:
            ValueError: If the patch size does not divide the image, or the mask does not fit its grid.
        """
        x, grid = self.patch_embed(images)  # (B, h * w, C)
        if mask is not None:
            x = self._put_mask_tokens(x, mask, grid)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1).to(x.dtype), x], dim=1)  # (B, 1 + h * w, C)
        if self.pos_embed is not None:
            x = x + resize_position_embedding(self.pos_embed, grid, self.grid)
        x = self.pos_drop(x)
        dtype = self._query_dtype(x)
        shared_bias = None if self.rel_pos_bias is None else self.rel_pos_bias(grid, dtype)
        outputs = {}
        for index, block in enumerate(self.blocks):
            bias = block.attn.bias(grid, dtype)  # outside of the block, which may be compiled
            if shared_bias is not None:
                bias = shared_bias if bias is None else bias + shared_bias
            x = self._run(block, x, bias)
            if index in self.out_indices:
                outputs[index] = self._output(x, grid, is_last=index == len(self.blocks) - 1)
        return tuple(outputs[index] for index in self.out_indices)

    def _run(self, block: Block, x: Tensor, bias: Tensor | None) -> Tensor:
        if self.with_cp and self.training and torch.is_grad_enabled():
            return checkpoint(block, x, bias, use_reentrant=False)
        return block(x, bias)

    def _put_mask_tokens(self, patches: Tensor, mask: Tensor, grid: Grid) -> Tensor:
        if self.mask_token is None:
            raise ValueError('a mask needs a trunk with use_mask_token=True, got use_mask_token=False')
        batch, num_patches, _ = patches.shape
        if mask.shape not in ((batch, *grid), (batch, num_patches)):
            raise ValueError(
                f'mask must be {(batch, *grid)} to fit images of {grid[0]} x {grid[1]} patches, got {tuple(mask.shape)}'
            )
        return torch.where(mask.reshape(batch, num_patches, 1).bool(), self.mask_token.to(patches.dtype), patches)

    @staticmethod
    def _query_dtype(x: Tensor) -> torch.dtype:
        device = x.device.type
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            return torch.get_autocast_dtype(device)
        return x.dtype

    def _output(self, x: Tensor, grid: Grid, is_last: bool) -> Tensor:
        if self.out_type == 'featmap':
            return x[:, 1:].transpose(1, 2).unflatten(2, grid)  # (B, C, h, w)
        if self.out_type == 'avg_featmap':
            x = x[:, 1:].mean(dim=1)
            return self.fc_norm(x) if is_last else x
        x = self.norm(x) if is_last else x
        return x if self.out_type == 'raw' else x[:, 0]

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Layer of a parameter for layer-wise learning rate decay (released code; MMPretrain's contract).

        Args:
            param_name: its name in the whole model.
            prefix: where the trunk stands in that model, such as 'backbone.'.

        Returns:
            (layer, number of layers): 0 for embeddings, i + 1 for block i, the last for all else.
        """
        num_layers = len(self.blocks) + 2
        if not param_name.startswith(prefix):
            return num_layers - 1, num_layers
        name = param_name[len(prefix) :]
        if name.startswith(('cls_token', 'mask_token', 'pos_embed', 'patch_embed')):
            return 0, num_layers
        if name.startswith('blocks.'):
            return int(name.split('.')[1]) + 1, num_layers
        return num_layers - 1, num_layers
