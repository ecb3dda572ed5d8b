"""The configuration of transformers' BEiT."""

import re

import torch
from torch import Tensor

from beit_mm.errors import UserError

CLASSES = dict(
    pretrain='BeitForMaskedImageModeling',
    classify='BeitForImageClassification',
    segment='BeitForSemanticSegmentation',
    trunk='BeitModel',
)
OUT_INDICES = {12: (3, 5, 7, 11), 24: (7, 11, 15, 23)}  # of the release's segmentors
HEAD_WIDTH = 64  # of every released model; used if there is no bias table to read the number of heads from


def build(weights: dict[str, Tensor], task: str, grid: tuple[int, int], out_indices: list[int] | None = None) -> dict:
    """The content of config.json.

    Args:
        weights: under our names.
        task: 'pretrain', 'classify', 'segment' or 'trunk'.
        grid: patches (h, w).
        out_indices: blocks that a segmentor reads, from 0; None for the release's.

    Raises:
        UserError: If transformers has no such model.
    """
    patch = weights['backbone.patch_embed.proj.weight']
    width, channels, patch_size = patch.shape[:3]
    depth = 1 + max(int(name.split('.')[2]) for name in weights if name.startswith('backbone.blocks.'))
    table = next((tensor for name, tensor in weights.items() if name.endswith('relative_position_bias_table')), None)
    if grid[0] != grid[1] and table is not None:
        raise UserError(
            f'transformers swaps the sides of a bias table, so it must have a square grid, '
            f'got {grid[0]} x {grid[1]} patches'
        )
    config = dict(
        architectures=[CLASSES[task]],
        model_type='beit',
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=max(width // HEAD_WIDTH, 1) if table is None else table.shape[1],
        intermediate_size=weights['backbone.blocks.0.mlp.fc1.weight'].shape[0],
        hidden_act='gelu',
        layer_norm_eps=1e-6,
        image_size=grid[0] * patch_size if grid[0] == grid[1] else [side * patch_size for side in grid],
        patch_size=patch_size,
        num_channels=channels,
        use_mask_token='backbone.mask_token' in weights,
        use_absolute_position_embeddings='backbone.pos_embed' in weights,
        use_relative_position_bias='backbone.blocks.0.attn.relative_position_bias_table' in weights,
        use_shared_relative_position_bias='backbone.rel_pos_bias.relative_position_bias_table' in weights,
        layer_scale_init_value=0.1 if 'backbone.blocks.0.gamma_1' in weights else 0.0,
        use_mean_pooling=task == 'pretrain' or 'backbone.norm.weight' not in weights,
        drop_path_rate=0.1,
        dtype=str(patch.dtype).removeprefix('torch.'),
    )
    if task == 'pretrain':
        config['vocab_size'] = len(weights['lm_head.weight'])
    elif task in ('classify', 'segment'):
        head = weights['head.fc.weight' if task == 'classify' else 'decode_head.conv_seg.weight']
        config['id2label'] = {str(index): f'LABEL_{index}' for index in range(len(head))}
        config['label2id'] = {f'LABEL_{index}': index for index in range(len(head))}
    if task == 'segment':
        config.update(_segmentor(weights, depth, width, out_indices))
    return config


def _segmentor(weights: dict[str, Tensor], depth: int, width: int, out_indices: list[int] | None) -> dict:
    channels = weights['decode_head.conv_seg.weight'].shape[1]
    pools, convolutions = (
        sum(re.fullmatch(pattern, name) is not None for name in weights)
        for pattern in (r'decode_head\.psp_modules\.\d+\.1\.conv\.weight', r'auxiliary_head\.convs\.\d+\.conv\.weight')
    )
    if channels != width or pools != 4:
        raise UserError(
            f'transformers has UperNet with as many channels as the trunk, {width}, and four pooled maps, '
            f'got {channels} channels and {pools} maps'
        )
    if out_indices is None and depth not in OUT_INDICES:
        raise UserError(f'a trunk of {depth} blocks needs --out-indices, the blocks that the segmentor reads, got none')
    auxiliary = weights.get('auxiliary_head.conv_seg.weight')
    return dict(
        # For an index i, transformers takes the input of block i - 1, counted from 0. So the output of the last block
        # has no index, see `padding`.
        num_hidden_layers=depth + 1,
        out_indices=[index + 2 for index in out_indices or OUT_INDICES[depth]],
        pool_scales=[1, 2, 3, 6],
        use_auxiliary_head=auxiliary is not None,
        auxiliary_channels=256 if auxiliary is None else auxiliary.shape[1],
        auxiliary_num_convs=convolutions or 1,
        auxiliary_concat_input='auxiliary_head.conv_cat.conv.weight' in weights,
    )


def padding(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """One more block of zeros, under transformers' names.

    It passes its input on, so that this input, which is the output of the last block, has an index.
    """
    blocks = [match for name in weights if (match := re.match(r'(.*encoder\.layer\.)(\d+)(\..*)', name))]
    last = max(int(match[2]) for match in blocks)
    return {
        f'{match[1]}{last + 1}{match[3]}': torch.zeros_like(weights[match[0]])
        for match in blocks
        if int(match[2]) == last
    }
