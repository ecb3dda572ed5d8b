"""Finds BEiT's weights in the content of a file, in any layout, under any prefix and key, and gives them our names.

Files of MMPretrain and MMSegmentation keep their names, because their own BEiT may load them in the same process; our
models rename them while loading. Files of other models pass unchanged.
"""

import re
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from mmengine.logging import print_log
from torch import Tensor

from beit_mm.errors import UserError
from beit_mm.models.backbones.relative_position import grid_of_index
from beit_mm.models.layout import drop_wrappers, INDEX, Layout, MAX_NAMES, Moves
from beit_mm.models.weight_layouts import find_layouts, LAYOUTS, OPENMMLAB
from beit_mm.models.weights import CODES
from beit_mm.text import show_start

# A file may also have weights averaged over the training; those of the last step come first, as in the release.
_KEYS = ('state_dict', 'model', 'module', 'model_state_dict')
AVERAGED = ('state_dict_ema', 'ema_state_dict', 'model_ema', 'ema')
_OTHERS_TRUNK = ('attn.qkv.bias', 'attention.key.bias', 'k_proj.bias')  # endings of names that BEiT does not have
_TOKENIZER = 'd_vae.'  # of PASSL; it has no counterpart here
MAX_UNKNOWN_SHARE = 0.1
MAX_TRUNKS = 16  # of a state dict that are looked at


class FoundWeights(NamedTuple):
    """BEiT's weights in a file: the keys that lead to them, their layout, the trunk's prefix, and the tensors under
    their own names.
    """

    keys: tuple[str, ...]
    layout: Layout
    prefix: str
    weights: dict[str, Tensor]

    def to_ours(self, origin: object = 'weights') -> tuple[dict[str, Tensor], Moves, list[str]]:
        """See Layout.to_ours. The grid is read off a relative position index, if there is one.

        Raises:
            UserError: If tensors contradict each other; names their origin.
        """
        try:
            weights, moves, unknown = self.layout.to_ours(self.weights, self.prefix)
            index = next((tensor for name, tensor in self.weights.items() if name.endswith(INDEX)), None)
            grid = None if index is None else grid_of_index(index)
            if grid is not None:
                weights.setdefault('backbone.grid_size', grid)
            _drop_padding(weights)
        except (ValueError, RuntimeError) as error:
            raise UserError(f'{origin}: {show_start(error)}') from error
        return weights, moves, unknown


def find_beit(content: dict) -> FoundWeights | None:
    """The first state dict of a BEiT in the content of a file; None if there is none.

    The tokenizer of BEiT v2 is none, though its encoder and decoder are.
    """
    for keys, weights in _state_dicts(content):
        if CODES in weights:
            return None
        trunks = find_layouts(weights) if len(weights) <= MAX_NAMES else ()
        for layout, prefix, name in islice(trunks, MAX_TRUNKS):
            shape = weights[name].shape
            if layout is LAYOUTS['release'] and len(shape) == 2 and shape[1] == 3 * shape[0]:
                layout = LAYOUTS['passl']  # the same names, (in, out)
            if _is_beit(weights, layout, prefix):
                return FoundWeights(keys, layout, prefix, weights)
    return None


def _state_dicts(content: dict, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    weights = {k: value for k, value in content.items() if isinstance(k, str) and isinstance(value, Tensor)}
    plain = {drop_wrappers(name): tensor for name, tensor in weights.items()}
    yield keys, plain if len(plain) == len(weights) else weights
    for key in (*_KEYS, *AVERAGED):
        if isinstance(content.get(key), dict) and len(keys) < 3:
            yield from _state_dicts(content[key], (*keys, key))


def _is_beit(weights: dict[str, Tensor], layout: Layout, prefix: str) -> bool:
    """Whether the names are a BEiT's: a bias on queries and none on keys, or relative positions with a class token.

    EVA-02's may be the same, but its MLP is gated: half as many channels enter its second layer as leave the first.
    """
    if not {f'{prefix}cls_token', f'{prefix}embeddings.cls_token'} & weights.keys():
        return False
    if any(name.startswith(prefix) and name.endswith(_OTHERS_TRUNK) for name in weights):
        return False
    names = {name: layout.our_name(name, prefix) for name in weights}
    ours = {names[name] or name: tensor for name, tensor in weights.items()}
    unknown = sum(our_name is None and not name.startswith(_TOKENIZER) for name, our_name in names.items())
    first, second = (ours.get(f'backbone.blocks.0.mlp.{name}') for name in ('fc1.bias', 'fc2.weight'))
    if first is not None and second is not None and first.numel() not in second.shape:
        return False
    endings = ('attn.q_bias', 'attn.q.bias', 'relative_position_bias_table')
    has_trunk = 'backbone.cls_token' in ours and any(name.endswith(endings) for name in ours)
    return has_trunk and unknown <= MAX_UNKNOWN_SHARE * len(weights)


def _drop_padding(weights: dict[str, Tensor]) -> None:
    """Drop last blocks of nothing but zeros, which transformers' segmentors need."""
    blocks: dict[int, list[str]] = {}
    for name in weights:
        if name.startswith('backbone.blocks.'):
            blocks.setdefault(int(name.split('.')[2]), []).append(name)
    for index in sorted(blocks, reverse=True)[:-1]:
        if any(weights[name].any() for name in blocks[index]):
            return
        for name in blocks[index]:
            del weights[name]


def rename_beit_weights(content: dict, origin: object) -> dict:
    """The content of a file with BEiT's weights under our names in `state_dict`; others are returned as they are.

    Weights of the tokenizer of BEiT v2, which keep their names, are in `state_dict`, too.

    Args:
        content: what was read.
        origin: the file's path, for the log.

    Raises:
        UserError: If tensors of a BEiT contradict each other; names the file.
    """
    tokenizer = next(((keys, weights) for keys, weights in _state_dicts(content) if CODES in weights), None)
    if tokenizer is not None:
        return _put_into_state_dict(content, *tokenizer)
    found = find_beit(content)
    if found is None:
        return content
    is_host = found.layout is OPENMMLAB
    if is_host:
        root = re.sub(r'[^.]*\.$', '', found.prefix)
        weights = {name.removeprefix(root): tensor for name, tensor in found.weights.items()}
    else:
        weights, _, unknown = found.to_ours(origin)
        weights.update({name: found.weights[name] for name in unknown})
    given = content if found.keys == () else content.get('state_dict', {})
    is_same = found.keys in ((), ('state_dict',)) and weights.keys() == found.weights.keys() <= given.keys()
    if is_same and 'meta' in content:
        return content
    if not is_same and not is_host:
        others = [key for key in (*_KEYS, *AVERAGED) if key in content and key not in found.keys]
        print_log(
            f'{origin}: {len(weights)} tensors in the layout "{found.layout.name}" renamed'
            + (f'; taken from {".".join(found.keys)}, not from {", ".join(others)}' if others else ''),
            logger='current',
        )
    return _put_into_state_dict(content, found.keys, weights)


def _put_into_state_dict(content: dict, keys: tuple[str, ...], weights: dict[str, Tensor]) -> dict:
    run = content if keys == ('state_dict',) else {}  # it may be resumed
    # MMSegmentation's init_model needs one.
    meta = content['meta'] if isinstance(content.get('meta'), dict) else {}
    return {**run, 'state_dict': weights, 'meta': meta}
