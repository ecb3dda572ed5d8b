"""Converts weights from any layout that can be read to a file or folder in another."""

import json
import math
import pickle
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from beit_mm.errors import UserError
from beit_mm.files import atomic_write
from beit_mm.models.backbones.relative_position import Grid, relative_position_index
from beit_mm.models.layout import INDEX, Layout, Moves, task_of
from beit_mm.models.weight_layouts import LAYOUTS, NECKS_NORM
from beit_mm.models.weights import BLOCK_TABLE, grid_of_table, read_grid, SHARED_TABLE
from beit_mm.text import show_start

from .image_processor import image_processor
from .mapping import find_beit
from .sources import read_from_anywhere

TABLE = 'relative_position_bias_table'
# Of transformers.
CLASSES = dict(
    pretrain='BeitForMaskedImageModeling',
    classify='BeitForImageClassification',
    segment='BeitForSemanticSegmentation',
    trunk='BeitModel',
)
OUT_INDICES = {12: (3, 5, 7, 11), 24: (7, 11, 15, 23)}  # of the release's segmentors
HEAD_WIDTH = 64  # of every released model; used if there is no bias table to read the number of heads from


def convert(source: str, target: str, layout: str, out_indices: list[int] | None = None) -> Iterator[str]:
    """Convert the weights of a file and report every renaming.

    Args:
        source: a file, folder or address in any layout that can be read.
        target: for `transformers` a folder, for `passl` a .pdparams file, else a .safetensors file or, under any other
            suffix, a file of torch.save. Nothing is overwritten.
        layout: one of LAYOUTS.
        out_indices: blocks, from 0, whose outputs a segmentor reads; None for the release's. Only transformers'
            configuration holds them.

    Yields:
        Lines for the user: `theirs -> ours` names, with `*` for numbers, and the count of tensors.

    Raises:
        UserError: If the file holds no BEiT, or the layout has no such model.
        FileExistsError: If the target exists.
    """
    path = Path(target)
    if layout not in LAYOUTS:
        raise UserError(f'a layout must be one of {", ".join(LAYOUTS)}, got {layout!r}')
    if path.exists():
        raise FileExistsError(f'{target} exists and is not overwritten')
    if (layout == 'passl') != (path.suffix == '.pdparams'):
        raise UserError(f'weights for passl, and no others, are written to a .pdparams file, got {target}')
    content = read_from_anywhere(str(source))
    found = find_beit(content)
    if found is None:
        names = ', '.join(show_start(name) for name in islice(content, 3)) + (' ...' if len(content) > 3 else '')
        raise UserError(f'{source} must hold the weights of a BEiT, got {names or "an empty dict"}')
    weights, moves, unknown = found.to_ours(source)
    task = task_of(weights) or 'trunk'
    yield f'{source}: {task} weights, layout {found.layout.name}' + (f', prefix {found.prefix}' if found.prefix else '')
    yield from _lines(moves, unknown)
    meta = content.get('meta')
    data = (meta.get('dataset_meta') if isinstance(meta, dict) else None) or {}
    config = images = None
    try:
        _check_shapes(weights)
        grid = _grid_of(weights, content)
        theirs, moves, unknown = to_layout(weights, LAYOUTS[layout], task, grid)
        if layout == 'transformers' and grid:
            config = transformers_config(weights, task, grid, out_indices, data.get('classes'))
            images, whose = image_processor(config, meta)
    except (ValueError, RuntimeError) as error:
        raise UserError(f'{source}: {error}') from error
    with atomic_write(path) as temporary:
        _write(temporary, theirs, LAYOUTS[layout], task, config, images, dict(dataset_meta=data) if data else {})
    yield f'{target}: {task} weights, layout {layout}'
    if images:
        yield f'  mean and standard deviation in preprocessor_config.json: {whose}'
    yield from _lines([(ours, name) for name, ours in moves], unknown)


def to_layout(
    weights: dict[str, Tensor], layout: Layout, task: str, grid: Grid | None
) -> tuple[dict[str, Tensor], Moves, list[str]]:
    """Our weights in another layout.

    timm has only classifiers: a shared bias table is copied to every block, and of a segmentor only the trunk remains.

    Returns:
        The weights, (theirs, ours) of every tensor, and our names that the layout does not have.

    Raises:
        UserError: If the layout has no such model, or needs a grid that is unknown.
    """
    if grid is None and (layout.keeps_index or layout.name == 'transformers'):
        raise UserError(
            f'the layout {layout.name} needs the grid, which the file does not hold: its tables and '
            f'position embeddings fit no square grid'
        )
    if task not in layout.tasks:
        raise UserError(f'the layout {layout.name} holds {" and ".join(layout.tasks)} weights, got {task}')
    weights = {name: tensor for name, tensor in weights.items() if name != 'backbone.grid_size'}
    if layout.name == 'beit_mm' and grid is not None:
        weights['backbone.grid_size'] = torch.tensor(grid)
    if layout.name == 'timm' and (table := weights.pop(f'backbone.{SHARED_TABLE}', None)) is not None:
        blocks = {name.split('.')[2] for name in weights if name.startswith('backbone.blocks.')}
        weights.update({f'backbone.blocks.{index}.{BLOCK_TABLE}': table.clone() for index in blocks})
    if layout.name == 'mmpretrain' and any(name.startswith('bottleneck.') for name in weights):
        layout = replace(layout, pairs=[*NECKS_NORM, *layout.pairs])
    theirs, moves, unknown = layout.from_ours(weights, task)
    if layout.keeps_index and grid is not None:
        for name in [name for name in theirs if name.endswith(TABLE)]:
            theirs[name.replace(TABLE, INDEX)] = relative_position_index(grid).clone()
    if layout.name == 'transformers' and task == 'segment':
        # One more block, of zeros, passes its input on: for an index i, transformers takes the input of block i - 1,
        # counted from 0, so the output of the last block would have no index.
        depth = _depth(weights)
        last, added = (f'encoder.layer.{index}.' for index in (depth - 1, depth))
        zeros = {name.replace(last, added): torch.zeros_like(theirs[name]) for name in theirs if last in name}
        theirs.update(zeros)
    return theirs, moves, unknown


def _check_shapes(weights: dict[str, Tensor]) -> None:
    """ValueError if the tensors that the others follow from are missing, or have other dimensions."""
    first = {'backbone.patch_embed.proj.weight': 4, 'backbone.blocks.0.mlp.fc1.weight': 2}
    dimensions = {**first, 'backbone.pos_embed': 3, 'head.fc.weight': 2, 'lm_head.weight': 2}
    dimensions.update({'decode_head.conv_seg.weight': 4, 'auxiliary_head.conv_seg.weight': 4})
    dimensions.update({name: 2 for name in weights if name.endswith(TABLE)})
    for name, number in dimensions.items():
        if name in weights and weights[name].ndim != number or name in first and name not in weights:
            shape = f'the shape {tuple(weights[name].shape)}' if name in weights else 'none'
            raise ValueError(f'{name} must be a tensor of {number} dimensions, got {shape}')
    shapes = {tuple(tensor.shape) for name, tensor in weights.items() if name.endswith(TABLE)}
    if len(shapes) > 1:
        raise ValueError(f'bias tables must have one shape, got {" and ".join(map(str, sorted(shapes)[:3]))}')


def _depth(weights: dict[str, Tensor]) -> int:
    return 1 + max(int(name.split('.')[2]) for name in weights if name.startswith('backbone.blocks.'))


def _grid_of(weights: dict[str, Tensor], content: dict) -> Grid | None:
    """The grid from the weights' own record, transformers' configuration, or, if it is square, the number of rows."""
    if 'backbone.grid_size' in weights:
        return read_grid(weights['backbone.grid_size'])
    meta = content.get('meta')
    config = meta.get('hf_config') if isinstance(meta, dict) else None
    if isinstance(config, dict) and {'image_size', 'patch_size'} <= set(config):
        sizes = [config[name] for name in ('image_size', 'patch_size')]
        pairs = [size if isinstance(size, list) else [size, size] for size in sizes]
        if not all(len(pair) == 2 and all(type(side) is int and side > 0 for side in pair) for pair in pairs):
            raise ValueError(f'image_size and patch_size of config.json must be numbers of pixels, got {sizes}')
        return read_grid(torch.tensor(pairs[0]) // torch.tensor(pairs[1]))
    table = next((tensor for name, tensor in weights.items() if name.endswith(TABLE)), None)
    if table is not None:
        grid = grid_of_table(table, (1, 1))
    else:
        patches = weights['backbone.pos_embed'].shape[1] - 1 if 'backbone.pos_embed' in weights else 14 * 14
        grid = (math.isqrt(patches), patches // math.isqrt(patches))
    return grid if grid[0] == grid[1] else None


def _write(
    path: Path,
    weights: dict[str, Tensor],
    layout: Layout,
    task: str,
    config: dict | None,
    images: dict | None,
    meta: dict,
) -> None:
    if config is not None:
        path.mkdir()
        for name, content in (('config', config), ('preprocessor_config', images)):
            (path / f'{name}.json').write_text(json.dumps(content, indent=2) + '\n')
        save_file(weights, path / 'model.safetensors', metadata=dict(format='pt'))
    elif path.suffix == '.safetensors':
        save_file(weights, path, metadata=dict(format='pt', layout=layout.name, kind=task))
    elif path.suffix == '.pdparams':
        path.write_bytes(pickle.dumps({name: _to_paddle(tensor) for name, tensor in weights.items()}, 4))
    else:
        key = 'state_dict' if task == 'segment' and layout.wrapper else layout.wrapper
        torch.save({key: weights, 'meta': meta} if key == 'state_dict' else {key: weights} if key else weights, path)


def _to_paddle(tensor: Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:  # which Paddle keeps as uint16
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()


def _lines(moves: Moves, unknown: list[str]) -> Iterator[str]:
    """One line for all modules of a list, with `*` for their numbers."""
    texts = [f'{old} -> {new}' for old, new in moves] + [f'{name} left out' for name in unknown]
    number = r'((?:blocks|layers?|convs|psp_modules)\.)\d+(?=\.)(?!\.(?:0\.)?(?:weight|bias)\b)'
    for text, count in Counter(re.sub(number, r'\1*', text) for text in texts).items():
        yield f'  {text}' + (f' ({count})' if count > 1 else '')


def transformers_config(
    weights: dict[str, Tensor], task: str, grid: Grid, out_indices: list[int] | None, classes: Sequence[str] | None
) -> dict:
    """The content of transformers' config.json, for weights under our names; other arguments as in `convert`.

    Raises:
        UserError: If transformers has no such model.
    """
    patch = weights['backbone.patch_embed.proj.weight']
    width, channels, patch_size = patch.shape[:3]
    depth = _depth(weights)
    table = next((tensor for name, tensor in weights.items() if name.endswith(TABLE)), None)
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
        use_relative_position_bias=f'backbone.blocks.0.{BLOCK_TABLE}' in weights,
        use_shared_relative_position_bias=f'backbone.{SHARED_TABLE}' in weights,
        layer_scale_init_value=0.1 if 'backbone.blocks.0.gamma_1' in weights else 0.0,
        use_mean_pooling=task == 'pretrain' or 'backbone.norm.weight' not in weights,
        drop_path_rate=0.1,
        dtype=str(patch.dtype).removeprefix('torch.'),
    )
    if task == 'pretrain':
        config['vocab_size'] = len(weights['lm_head.weight'])
    elif task in ('classify', 'segment'):
        head = weights['head.fc.weight' if task == 'classify' else 'decode_head.conv_seg.weight']
        names = classes if classes and len(classes) == len(head) else [f'LABEL_{index}' for index in range(len(head))]
        config['id2label'] = {str(index): name for index, name in enumerate(names)}
        config['label2id'] = {name: index for index, name in enumerate(names)}
    if task == 'segment':
        config.update(_segmentor_config(weights, depth, width, out_indices))
    return config


def _segmentor_config(weights: dict[str, Tensor], depth: int, width: int, out_indices: list[int] | None) -> dict:
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
        num_hidden_layers=depth + 1,  # see `to_layout`
        out_indices=[index + 2 for index in out_indices or OUT_INDICES[depth]],
        pool_scales=[1, 2, 3, 6],
        use_auxiliary_head=auxiliary is not None,
        auxiliary_channels=256 if auxiliary is None else auxiliary.shape[1],
        auxiliary_num_convs=convolutions or 1,
        auxiliary_concat_input='auxiliary_head.conv_cat.conv.weight' in weights,
    )
