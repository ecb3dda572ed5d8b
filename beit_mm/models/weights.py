"""Fit a state dict to the trunk that loads it, and log what was changed."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from torch import Tensor
from torch.nn import functional as F

from beit_mm.errors import UserError
from beit_mm.models.backbones.relative_position import expand_bias, Grid, grid_of_index, infer_grid, nearest_grid
from beit_mm.text import show_start

from .layout import drop_wrappers, first_words, INDEX, MAX_NAMES
from .weight_layouts import find_layouts, OPENMMLAB

SHARED_TABLE = 'rel_pos_bias.relative_position_bias_table'
PATCH_EMBED, RGB = 'patch_embed.proj.weight', 3
BLOCK_TABLE = 'attn.relative_position_bias_table'
# Weights that the same trunk may have for another task. A file may hold them or not.
TASK_WEIGHTS = ('mask_token', 'norm.', 'fc_norm.', 'lm_head.', 'head.', 'cls_pt_')
CODES = 'quantize.embedding.weight'  # only the tokenizer of BEiT v2 has this weight
MIN_MATCHED_SHARE = 0.9
MAX_SIDE, MAX_PATCHES = 1024, 1 << 16  # of the grid in a file, for which matrices are made


class WeightsMismatch(UserError):
    """A checkpoint does not fit the model. `naming_checkpoint` adds the name of the file."""


@contextmanager
def naming_checkpoint(module: Any) -> Iterator[None]:
    """Name the file of a module's init_cfg in errors about its weights; for a prefix that it lacks, those that it has.

    An empty name, as in MMPretrain's configs, is no start, and the log says so.
    """
    init_cfg = module.init_cfg
    entries = init_cfg if isinstance(init_cfg, list) else [init_cfg or {}]
    files = [entry['checkpoint'] for entry in entries if entry.get('type') == 'Pretrained' and 'checkpoint' in entry]
    if files and not files[0]:
        print_log(f'{type(module).__name__}: init_cfg names no checkpoint, so training starts anew', logger='current')
        module.init_cfg = [entry for entry in entries if entry.get('type') != 'Pretrained'] or None
    try:
        yield
    except (AssertionError, WeightsMismatch) as error:
        is_prefix = str(error).endswith('is not in the pretrained model')
        if not files or not (is_prefix or isinstance(error, WeightsMismatch)):
            raise
        if is_prefix:
            content = CheckpointLoader.load_checkpoint(files[0], 'cpu')
            held = ', '.join(map(show_start, first_words(content.get('state_dict', content))[:4])) or 'no prefix'
            prefix = str(error).partition(' ')[0]
            raise UserError(
                f'{files[0]}: no name begins with the prefix {prefix} of init_cfg, it has {held}'
            ) from error
        raise UserError(f'{files[0]}: {error}') from error


def resize_position_embedding(pos_embed: Tensor, target: Grid, source: Grid | None = None) -> Tensor:
    """Resize absolute position embeddings to another grid, bicubic as in the BEiT release.

    Args:
        pos_embed: (1, 1 + h * w, C), the class token's first.
        target: grid (h, w) to resize to.
        source: grid of pos_embed. None: the target if it fits, else a square, else the nearest aspect ratio.

    Raises:
        ValueError: If pos_embed does not fit the source grid.
    """
    num_patches = pos_embed.shape[1] - 1
    if not 0 < num_patches <= MAX_PATCHES:
        raise ValueError(f'position embeddings must be of 1 to {MAX_PATCHES:,} patches, got {num_patches:,}')
    if source is None:
        grids = [(rows, num_patches // rows) for rows in range(1, num_patches + 1) if num_patches % rows == 0]
        source = nearest_grid(grids, target)
    if source[0] * source[1] != num_patches:
        raise UserError(
            f'position embeddings for a grid of {source[0]} x {source[1]} patches must have '
            f'{source[0] * source[1] + 1} rows, got {num_patches + 1}'
        )
    if tuple(source) == tuple(target):
        return pos_embed
    patches = pos_embed[:, 1:].transpose(1, 2).unflatten(2, tuple(source))
    patches = patches.to(torch.promote_types(patches.dtype, torch.float32))
    patches = F.interpolate(patches, size=tuple(target), mode='bicubic', align_corners=False)
    return torch.cat([pos_embed[:, :1], patches.flatten(2).transpose(1, 2).to(pos_embed.dtype)], dim=1)


def _adapt_channels(kernel: Tensor, channels: int) -> Tensor:
    """Patch kernels (C, 3, p, p) for another number of channels, with about the same output (as in timm)."""
    wide = kernel.to(torch.promote_types(kernel.dtype, torch.float32))
    if channels == 1:
        return wide.sum(dim=1, keepdim=True).to(kernel.dtype)
    repeated = wide.repeat(1, -(-channels // RGB), 1, 1)[:, :channels]
    return (repeated * (RGB / channels)).to(kernel.dtype)


def read_grid(grid_size: Tensor) -> Grid:
    """The grid that a file names; ValueError if it is none."""
    grid = tuple(grid_size.tolist()) if grid_size.shape == (2,) and not grid_size.is_meta else ()
    if not grid or not all(type(side) in (int, float) and 0 < side <= MAX_SIDE and side == int(side) for side in grid):
        shown = grid or f'a tensor of shape {tuple(grid_size.shape)} on {grid_size.device}'
        raise ValueError(f'grid_size must be two numbers of patches up to {MAX_SIDE}, got {shown}')
    return int(grid[0]), int(grid[1])  # of a file whose tensors have all been cast to float16


def grid_of_table(table: Tensor, target: Grid) -> Grid:
    if len(table) <= 4 * MAX_PATCHES:
        grid = infer_grid(len(table), target)
        if max(grid) <= MAX_SIDE:
            return grid
    raise ValueError(f'bias tables must be of at most {MAX_SIDE} x {MAX_SIDE} patches, got {len(table):,} rows')


def _adapt(trunk: Any, weights: dict[str, Tensor], own: dict[str, Tensor]) -> list[str]:
    """Fit channels, bias tables and position embeddings to the trunk, in place, and describe what was changed.

    If the checkpoint does not name its grid, the grid is inferred from the number of rows.
    """
    done = []
    if PATCH_EMBED in own and PATCH_EMBED in weights and weights[PATCH_EMBED].ndim == 4:
        channels, of_file = (tensors[PATCH_EMBED].shape[1] for tensors in (own, weights))
        if of_file == RGB != channels:
            weights[PATCH_EMBED] = _adapt_channels(weights[PATCH_EMBED], channels)
            how = 'summed' if channels == 1 else f'repeated, times {RGB}/{channels}'
            done.append(f'patch embedding of {RGB} channels to {channels} ({how})')
    grid, grid_of_file = trunk.grid, weights.pop('grid_size', None)  # none in released files
    source = None if grid_of_file is None else read_grid(grid_of_file)
    if trunk.rel_pos_bias is None and SHARED_TABLE in weights:
        table = weights.pop(SHARED_TABLE)
        names = [f'blocks.{index}.{BLOCK_TABLE}' for index in range(len(trunk.blocks) if trunk.has_block_bias else 0)]
        weights.update({name: weights.get(name, table.clone()) for name in names})
        done.append(f'shared bias table to {len(names)} blocks' if names else 'shared bias table dropped')
    resized = set()
    for name in [name for name in weights if name in own]:
        tensor = weights[name]
        if tensor.ndim != own[name].ndim or tensor.shape[-1] != own[name].shape[-1]:
            continue
        if name.endswith('relative_position_bias_table'):
            start = source or grid_of_table(tensor, grid)
            if start != grid:
                weights[name] = expand_bias(tensor, start, grid)
                resized.add(f'bias tables {start[0]} x {start[1]} to {grid[0]} x {grid[1]}')
        elif name == 'pos_embed':
            weights[name] = resize_position_embedding(tensor, grid, source)
            if weights[name] is not tensor:
                resized.add(f'position embeddings to {grid[0]} x {grid[1]}')
    return done + sorted(resized)


def fit_trunk_weights(trunk: Any, state_dict: dict[str, Tensor], prefix: str, *_) -> None:
    """Pre-load hook of the trunk: adapt the weights under the prefix, in place, and log what was done.

    A shared bias table is copied to every block of a trunk with one table per block. Bias tables and position
    embeddings are resized to the trunk's grid. A patch embedding for RGB is adapted to another number of channels.
    Weights of another task are ignored.

    Raises:
        WeightsMismatch: If less than 90 % of the trunk's tensors are in the checkpoint, more than 10 % of the
            checkpoint's are not in the trunk, a tensor has another shape, or the blocks differ.
    """
    if CODES in state_dict and f'{prefix}cls_token' not in state_dict:
        raise WeightsMismatch('the checkpoint does not fit this BEiT trunk: it holds the tokenizer of BEiT v2')
    trunk_state = trunk.state_dict()
    names = {drop_wrappers(name): name for name in trunk_state}
    own = {name: trunk_state[names[name]] for name in names}
    grid_size = own.pop('grid_size')
    weights = _take_trunk(state_dict, prefix)
    num_in_file = len(weights.keys() - {'grid_size'})
    differences = [
        f'; {show_start(name)} must be a dense tensor of real numbers, got {describe(weights.pop(name), own.get(name))}'
        for name in [name for name, value in weights.items() if not is_plain(value, own.get(name))]
    ]
    try:
        adapted = _adapt(trunk, weights, own)
    except ValueError as error:
        raise WeightsMismatch(f'the checkpoint does not fit this BEiT trunk: {error}') from error
    matched = [name for name in own if name in weights and weights[name].shape == own[name].shape]
    missing = [name for name in own if name not in matched]
    unused = [name for name in weights if name not in own]
    unknown = [name for name in unused if not name.startswith(TASK_WEIGHTS)]
    differences += [
        f'; {name} must be {tuple(own[name].shape)}, got {tuple(weights[name].shape)}'
        for name in missing
        if name in weights
    ]
    blocks = [{name.split('.')[1] for name in names if name.startswith('blocks.')} for names in (own, weights)]
    if (
        len(matched) < MIN_MATCHED_SHARE * len(own)
        or len(unknown) > (1 - MIN_MATCHED_SHARE) * max(num_in_file, 1)
        or differences
        or blocks[0] != blocks[1]
    ):
        differences += [f'; {name} is missing' for name in missing]
        differences += [f'; {show_start(name)} is unknown' for name in unknown]
        where = f'under "{prefix}" ' if prefix else ''
        raise WeightsMismatch(
            f'the checkpoint does not fit this BEiT trunk: {len(matched)} of its {len(own)} tensors match '
            f"{where}(at least {MIN_MATCHED_SHARE:.0%} expected), {len(unknown)} of the checkpoint's are unknown"
            + (differences[0] if differences else '')
        )
    state_dict.update({prefix + names[name]: weights[name] for name in matched})
    state_dict[prefix + names['grid_size']] = grid_size
    print_log(
        f'BEiT trunk: {len(matched)} of {len(own)} tensors loaded; adapted: {"; ".join(adapted) or "none"}; '
        f'missing: {_summary(missing)}; left out: {_summary(unused)}',
        logger='current',
    )


def _take_trunk(state_dict: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Take a trunk's weights out of a state dict, under our names without the prefix.

    A trunk may load a whole model, where its weights are under `backbone.`; a model may load a trunk's weights, which
    have no prefix.
    """
    candidates = (prefix, 'backbone.', '')
    prefix = next((candidate for candidate in candidates if f'{candidate}cls_token' in state_dict), prefix)
    taken = {
        drop_wrappers(key[len(prefix) :]): state_dict.pop(key) for key in list(state_dict) if key.startswith(prefix)
    }
    of_host = len(taken) <= MAX_NAMES and any(layout is OPENMMLAB for layout, *_ in find_layouts(taken))
    weights = {}
    for name, tensor in taken.items():
        if not name.endswith(INDEX) or not isinstance(tensor, Tensor):
            ours = OPENMMLAB.our_name(name, '') if of_host else None
            weights[ours.removeprefix('backbone.') if ours else name] = tensor
        elif 'grid_size' not in weights and (grid := grid_of_index(tensor)) is not None:
            weights['grid_size'] = grid
    return weights


def is_plain(value: Any, own: Tensor | None) -> bool:
    """Whether a value is a tensor whose numbers can be copied into the model's own without a change of meaning."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized or value.is_nested:
        return False
    if is_scaled(value):
        return False
    return own is None or value.is_floating_point() == own.is_floating_point() and (own.is_meta or not value.is_meta)


def is_scaled(value: Tensor) -> bool:
    """Whether a tensor has numbers of 8 bits or fewer, such as float8, whose scale is stored elsewhere, if at all."""
    return value.is_floating_point() and value.dtype.itemsize == 1


def describe(value: Any, own: Tensor | None = None) -> str:
    """What came instead of a tensor like the model's own."""
    if value is None or is_plain(value, own):
        return 'nothing' if value is None else str(tuple(value.shape))
    if not isinstance(value, Tensor):
        return f'a {type(value).__name__}'
    return f'{str(value.dtype).removeprefix("torch.")}, {str(value.layout).removeprefix("torch.")}, on {value.device}'


def has_tokenizer(state_dict: dict[str, Tensor], prefix: str) -> bool:
    """Whether a checkpoint has weights under the prefix of a tokenizer; if not, the log says so."""
    is_there = not prefix or any(name.startswith(prefix) for name in state_dict)
    if not is_there:
        print_log('tokenizer: the checkpoint has none, its weights stay as they are', logger='current')
    return is_there


def require_tokenizer_weights(
    own: dict[str, Tensor], state_dict: dict[str, Tensor], prefix: str, sizes: str = ''
) -> None:
    """Refuse partial matches with a tokenizer's own tensors: loaded in part, it returns meaningless tokens.

    `sizes` are the options that the shapes follow from, for the message.

    Raises:
        WeightsMismatch: If a tensor is missing, has another shape, or is no dense tensor of real numbers.
    """
    for name, tensor in own.items():
        loaded = state_dict.get(prefix + name)
        if not (is_plain(loaded, tensor) and loaded.shape == tensor.shape):
            raise WeightsMismatch(
                f'the checkpoint does not fit this tokenizer: {name} must be {tuple(tensor.shape)}{sizes}, '
                f'got {describe(loaded, tensor)}'
            )


def _summary(names: list[str]) -> str:
    """Names by their first part, such as `blocks (12), norm (2)`; 'none' if there are none."""
    counts = Counter(name.split('.')[0] for name in names)
    return ', '.join(f'{part} ({count})' for part, count in counts.items()) or 'none'
