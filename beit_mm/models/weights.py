"""Fitting a state dict to the trunk that is about to load it, whoever loads it, and saying what was done."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from mmengine.logging import print_log
from torch import nn, Tensor
from torch.nn import functional as F

from beit_mm.errors import UserError
from beit_mm.models.backbones.relative_position import expand_bias, Grid, grid_of_index, infer_grid, nearest_grid

from .weight_layouts import INDEX, OPENMMLAB

SHARED_TABLE = 'rel_pos_bias.relative_position_bias_table'
BLOCK_TABLE = 'attn.relative_position_bias_table'
# What a trunk of the same model may hold for another task; leaving it out is no sign of a wrong file.
TASK_WEIGHTS = ('mask_token', 'norm.', 'fc_norm.', 'lm_head.', 'head.', 'cls_pt_layers.')
# How MMPretrain and MMSegmentation name what has another name here.
HOST_NAMES = ('layers.', 'patch_embed.projection.', 'ln1.', 'ln2.')
MIN_MATCHED_SHARE = 0.9


class WeightsMismatch(ValueError):
    """A checkpoint does not fit the model; who knows its path adds it."""


@contextmanager
def naming_checkpoint(init_cfg: dict | list[dict] | None) -> Iterator[None]:
    """Name the file of init_cfg's Pretrained entry where its weights do not fit.

    Raises:
        UserError: Instead of WeightsMismatch, and of MMEngine's AssertionError for a prefix that the file lacks.
    """
    try:
        yield
    except (AssertionError, WeightsMismatch) as error:
        entries = init_cfg if isinstance(init_cfg, list) else [init_cfg or {}]
        files = [entry['checkpoint'] for entry in entries if entry.get('type') == 'Pretrained']
        is_prefix = str(error).endswith('is not in the pretrained model')
        if not files or not (is_prefix or isinstance(error, WeightsMismatch)):
            raise
        raise UserError(f'{files[0]}: {error}') from error


def expand_shared_table(weights: dict[str, Tensor], depth: int) -> bool:
    """Copy a shared bias table (pre-training) to every block (afterwards), in place; True if there was one."""
    table = weights.pop(SHARED_TABLE, None)
    if table is None:
        return False
    for index in range(depth):
        weights.setdefault(f'blocks.{index}.{BLOCK_TABLE}', table.clone())
    return True


def resize_position_embedding(pos_embed: Tensor, target: Grid, source: Grid | None = None) -> Tensor:
    """Resize absolute position embeddings to another grid, bicubic as in the BEiT release.

    Args:
        pos_embed: (1, 1 + h * w, C), the class token's first.
        target: grid (h, w) wanted.
        source: grid of pos_embed; None for the target's own, else a square one, else the nearest in aspect.

    Raises:
        ValueError: If pos_embed does not fit the source grid.
    """
    num_patches = pos_embed.shape[1] - 1
    if source is None:
        grids = [(rows, num_patches // rows) for rows in range(1, num_patches + 1) if num_patches % rows == 0]
        source = tuple(target) if target in grids else nearest_grid(grids, target)
    if source[0] * source[1] != num_patches:
        raise ValueError(
            f'position embeddings for a grid of {source[0]} x {source[1]} patches must have '
            f'{source[0] * source[1] + 1} rows, got {num_patches + 1}'
        )
    if tuple(source) == tuple(target):
        return pos_embed
    patches = pos_embed[:, 1:].transpose(1, 2).reshape(1, -1, *source)
    patches = patches.to(torch.promote_types(patches.dtype, torch.float32))
    patches = F.interpolate(patches, size=tuple(target), mode='bicubic', align_corners=False)
    return torch.cat([pos_embed[:, :1], patches.flatten(2).transpose(1, 2).to(pos_embed.dtype)], dim=1)


def _resize_tables(weights: dict[str, Tensor], own: dict[str, Tensor], source: Grid | None, grid: Grid) -> list[str]:
    """Resize bias tables and position embeddings to the trunk's grid, in place; the kinds of resize done.

    Where the checkpoint does not tell its grid (source is None), it is inferred from the number of rows.
    """
    done = []
    for name, tensor in weights.items():
        if name in own and name.endswith('relative_position_bias_table'):
            start = source or infer_grid(len(tensor), grid)
            if start != grid:
                weights[name] = expand_bias(tensor, start, grid)
                done.append(f'bias tables {start[0]} x {start[1]} to {grid[0]} x {grid[1]}')
        elif name in own and name == 'pos_embed' and (source != grid or tensor.shape != own[name].shape):
            weights[name] = resize_position_embedding(tensor, grid, source)
            if weights[name] is not tensor:
                done.append(f'position embeddings to {grid[0]} x {grid[1]}')
    return sorted(set(done))


def fit_trunk_weights(trunk: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_) -> None:
    """Pre-load hook of the trunk: adapt what a state dict holds under the prefix, in place, and report it.

    A shared bias table is expanded to every block where the trunk has one per block; bias tables and position
    embeddings are resized to the trunk's grid; what belongs to another task is left out.

    Raises:
        WeightsMismatch: If under nine tenths of the trunk's tensors find their match, if over a tenth of the
            checkpoint's trunk finds no place, if a tensor has another shape, or if a whole block is missing or left
            over.
    """
    own = trunk.state_dict()
    grid_size = own.pop('grid_size')
    weights = _take_trunk(state_dict, prefix)
    source = weights.pop('grid_size', None)  # none in released files
    source = source if source is None else tuple(source.tolist())
    num_given = len(weights)
    adapted = []
    if trunk.rel_pos_bias is None and expand_shared_table(weights, len(trunk.blocks) if trunk.has_block_bias else 0):
        adapted.append(
            f'shared bias table to {len(trunk.blocks)} blocks' if trunk.has_block_bias else 'shared bias table dropped'
        )
    adapted += _resize_tables(weights, own, source, trunk.grid)

    matched = [name for name in own if name in weights and weights[name].shape == own[name].shape]
    missing = [name for name in own if name not in matched]
    unused = [name for name in weights if name not in own]
    strange = [name for name in unused if not name.startswith(TASK_WEIGHTS)]
    where = f'under "{prefix}" ' if prefix else ''
    if (
        len(matched) < MIN_MATCHED_SHARE * len(own)
        or len(strange) > (1 - MIN_MATCHED_SHARE) * max(num_given, 1)
        or any(name in weights for name in missing)
        or _blocks(own) != _blocks(weights)
    ):
        raise WeightsMismatch(
            f'the checkpoint does not fit this BEiT trunk: {len(matched)} of its {len(own)} tensors found a match '
            f"{where}(at least {MIN_MATCHED_SHARE:.0%} expected), {len(strange)} of the checkpoint's found no place"
            f'{_first_difference(own, weights, missing, strange)}'
        )
    state_dict.update({prefix + name: weights[name] for name in matched})
    state_dict[f'{prefix}grid_size'] = grid_size
    print_log(
        f'BEiT trunk: {len(matched)} of {len(own)} tensors loaded; adapted: {"; ".join(adapted) or "none"}; '
        f'missing: {_summary(missing)}; left out: {_summary(unused)}',
        logger='current',
    )


def _take_trunk(state_dict: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Take a trunk's weights out of a state dict, under our names without the prefix.

    A trunk that loads a whole model's weights finds its own under `backbone.`, one in a model that loads a trunk's
    weights without any prefix.
    """
    places = [place for place in (prefix, 'backbone.', '') if f'{place}cls_token' in state_dict]
    place = places[0] if places else prefix
    taken = {key[len(place) :]: state_dict.pop(key) for key in list(state_dict) if key.startswith(place)}
    weights = {}
    for name, tensor in taken.items():
        if name.endswith(INDEX):
            continue
        ours = OPENMMLAB.our_name(name, '') if name.startswith(HOST_NAMES) else None
        weights[ours.removeprefix('backbone.') if ours else name] = tensor
    index = next((tensor for name, tensor in taken.items() if name.endswith(INDEX)), None)
    grid = None if index is None else grid_of_index(index)
    if grid is not None:
        weights.setdefault('grid_size', grid)
    return weights


def _blocks(names: Iterable[str]) -> set[str]:
    return {name.split('.')[1] for name in names if name.startswith('blocks.')}


def _first_difference(
    own: dict[str, Tensor], weights: dict[str, Tensor], missing: list[str], strange: list[str]
) -> str:
    for name in missing:
        if name in weights:
            return f'; {name} must be {tuple(own[name].shape)}, got {tuple(weights[name].shape)}'
    if missing:
        return f'; {missing[0]} is missing'
    return f'; {strange[0]} is unknown' if strange else ''


def _summary(names: list[str]) -> str:
    """Names by their first part, such as `blocks (12), norm (2)`; 'none' if there are none."""
    counts: dict[str, int] = defaultdict(int)
    for name in names:
        counts[name.split('.')[0]] += 1
    return ', '.join(f'{part} ({count})' for part, count in counts.items()) or 'none'
