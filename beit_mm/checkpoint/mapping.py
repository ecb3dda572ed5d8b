"""Finds BEiT's weights in what a file holds, in any layout, under any prefix and wrapper, and gives them our names.

Files of MMPretrain and MMSegmentation keep their names: their own BEiT loads them in the same process, and our models
rename them while loading. Files of other models pass unchanged.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from mmengine.logging import print_log
from torch import Tensor

from beit_mm.models.backbones.relative_position import grid_of_index
from beit_mm.models.weight_layouts import INDEX, Layout, LAYOUTS, OPENMMLAB, READABLE

# Weights that were averaged over the training stand beside the last ones, which the release evaluates.
_WRAPPERS = ('state_dict', 'model', 'module', 'model_state_dict')
_AVERAGED = ('state_dict_ema', 'ema_state_dict', 'model_ema', 'ema')
MAX_UNKNOWN_SHARE = 0.1


class Found(NamedTuple):
    """BEiT's weights in a file: the keys that lead to them, their layout, the prefix of the trunk, the tensors."""

    wrappers: tuple[str, ...]
    layout: Layout
    prefix: str
    weights: dict[str, Tensor]


def find_beit(content: dict) -> Found | None:
    """The first state dict of a BEiT in what a file holds; None if there is none."""
    for wrappers, weights in _state_dicts(content):
        for prefix, layout in _trunks(weights):
            if _is_beit(weights, layout, prefix):
                return Found(wrappers, layout, prefix, weights)
    return None


def _state_dicts(content: dict, wrappers: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict]]:
    yield (
        wrappers,
        {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)},
    )
    for key in (*_WRAPPERS, *_AVERAGED):
        if isinstance(content.get(key), dict) and len(wrappers) < 3:
            yield from _state_dicts(content[key], (*wrappers, key))


def _trunks(weights: dict[str, Tensor]) -> Iterator[tuple[str, Layout]]:
    for name, tensor in weights.items():
        for ending, layout in READABLE.items():
            if name == ending or name.endswith(f'.{ending}'):
                if tensor.ndim == 2 and layout.name == 'release' and tensor.shape[1] == 3 * tensor.shape[0]:
                    layout = LAYOUTS['passl']  # the same names
                yield name[: -len(ending)], layout


def _is_beit(weights: dict[str, Tensor], layout: Layout, prefix: str) -> bool:
    """Whether the names are a BEiT's: a bias on queries and none on keys, or relative positions with a class token.

    EVA-02's may be the same, but its MLP is gated: half as many channels enter its second layer as leave the first.
    """
    if any(name.startswith(prefix) and name.endswith(layout.foreign_endings) for name in weights):
        return False
    names = {name: layout.our_name(name, prefix) for name in weights}
    ours = {names[name] or name: tensor for name, tensor in weights.items()}
    unknown = sum(found is None and not name.startswith(layout.ignored) for name, found in names.items())
    first, second = (ours.get(f'backbone.blocks.0.mlp.{name}') for name in ('fc1.bias', 'fc2.weight'))
    if first is not None and second is not None and first.shape[0] not in second.shape:
        return False
    endings = ('attn.q_bias', 'attn.q.bias', 'relative_position_bias_table')
    return (
        'backbone.cls_token' in ours
        and any(name.endswith(endings) for name in ours)
        and unknown <= MAX_UNKNOWN_SHARE * len(weights)
    )


def to_our_names(found: Found) -> tuple[dict[str, Tensor], list[tuple[str, str]], list[str]]:
    """All of the found weights under our names, with what moved and what is unknown, as Layout.to_ours gives them.

    The grid is read off a relative position index, if there is one.
    """
    weights, moves, unknown = found.layout.to_ours(found.weights, found.prefix)
    index = next((tensor for name, tensor in found.weights.items() if name.endswith(INDEX)), None)
    grid = None if index is None else grid_of_index(index)
    if grid is not None:
        weights.setdefault('backbone.grid_size', grid)
    _drop_padding(weights)
    return weights, moves, unknown


def _drop_padding(weights: dict[str, Tensor]) -> None:
    """Drop last blocks of nothing but zeros, which stand in transformers' segmentor for its way of counting."""
    blocks = sorted({int(name.split('.')[2]) for name in weights if name.startswith('backbone.blocks.')}, reverse=True)
    for index in blocks[:-1]:
        names = [name for name in weights if name.startswith(f'backbone.blocks.{index}.')]
        if any(weights[name].any() for name in names):
            return
        for name in names:
            del weights[name]


def adopt(content: dict, origin: object) -> dict:
    """What a file holds, with BEiT's weights under our names in `state_dict`; see the module for what stays as it is.

    Args:
        content: what was read.
        origin: the file's path, for the log.

    Raises:
        ValueError: If tensors of a BEiT contradict each other; names the file.
    """
    found = find_beit(content)
    if found is None:
        return content
    root = re.sub(r'[^.]*\.$', '', found.prefix)
    is_host = found.layout is OPENMMLAB
    if is_host:
        weights = {name.removeprefix(root): tensor for name, tensor in found.weights.items()}
    else:
        try:
            weights, _, unknown = to_our_names(found)
        except ValueError as error:
            raise ValueError(f'{origin}: {error}') from error
        weights.update({name: found.weights[name] for name in unknown})
    if found.wrappers in ((), ('state_dict',)) and list(weights) == list(found.weights):
        if 'meta' in content:
            return content  # already ours, or a host's own
        # MMSegmentation's init_model asks every file for it.
        return {**(content if found.wrappers else {}), 'state_dict': weights, 'meta': {}}
    if not is_host:
        others = [key for key in (*_WRAPPERS, *_AVERAGED) if key in content and key not in found.wrappers]
        print_log(
            f'{origin}: {len(weights)} tensors in the layout "{found.layout.name}" renamed'
            + (f'; taken from {".".join(found.wrappers)}, not from {", ".join(others)}' if others else ''),
            logger='current',
        )
    if found.wrappers == ('state_dict',):  # a run's checkpoint keeps what resuming needs
        return {**content, 'state_dict': weights}
    meta = content.get('meta')
    return dict(state_dict=weights, meta=meta if isinstance(meta, dict) else {})
