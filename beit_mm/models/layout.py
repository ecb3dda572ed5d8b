"""Layout: how an implementation names BEiT's weights, and how to rename them to ours and back."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from beit_mm.errors import UserError

Pairs = Sequence[tuple[str, str]]
Moves = list[tuple[str, str]]
INDEX = 'relative_position_index'  # a buffer that follows from the grid
# A weight that only models for this task have, in our names; every model has a trunk.
TASKS = dict(
    pretrain='lm_head.weight',
    segment='decode_head.conv_seg.weight',
    classify='head.fc.weight',
    trunk='backbone.cls_token',
)


MAX_NAMES = 5000  # of a state dict that may be a BEiT's: 300 blocks
# What wraps modules, anywhere in a name: torch.compile, data parallel, DeepSpeed, FSDP, Lightning, checkpointing.
_WRAPPERS = re.compile(
    r'(?:(?<=\.)|^)(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module|'
    r'_original_module)\.'
)


def drop_wrappers(name: str) -> str:
    return _WRAPPERS.sub('', name)


def first_words(names: Iterable[str]) -> list[str]:
    """The words before the first dot of names, such as `backbone.`, the most frequent first."""
    counts = Counter(name.split('.')[0] for name in sorted(names) if '.' in name)
    return [f'{word}.' for word, _ in counts.most_common()]


def task_of(names: Iterable[str]) -> str | None:
    """'pretrain', 'segment', 'classify' or 'trunk' (no head), by our names of the weights; None without a trunk."""
    names = set(names)
    if TASKS['trunk'] not in names:
        return None
    return next(task for task, name in TASKS.items() if name in names)


@dataclass(frozen=True)
class Layout:
    """How an implementation names BEiT's weights.

    Our names are those of the full model: `backbone.`, `lm_head.`, `head.fc.`, `neck.`, `decode_head.` and so on. If a
    layout has separate tensors for q, k and v, its pairs call them `attn.q.`, `attn.k.` and `attn.v.`.

    Args:
        name: the name that users see.
        pairs: (theirs, ours) beginnings of names; theirs start with `@` in the trunk's module.
        aliases: more pairs, which are read but never written.
        trunk_prefix: what `@` stands for in a larger model.
        without_prefix: tasks whose model is the trunk's module itself.
        tasks: tasks that the implementation has a model for, see `task_of`.
        wrapper: key of the state dict in a file; None if the file is the state dict.
        splits_qkv: whether q, k and v are separate tensors.
        transposes: whether linear weights are (in, out).
        keeps_index: whether the relative position index is among the weights.
    """

    name: str
    pairs: Pairs
    aliases: Pairs = ()
    trunk_prefix: str = ''
    without_prefix: tuple[str, ...] = ('trunk',)
    tasks: tuple[str, ...] = tuple(TASKS)
    wrapper: str | None = None
    splits_qkv: bool = False
    transposes: bool = False
    keeps_index: bool = False

    @cached_property
    def _rules(self) -> list[list[tuple[re.Pattern, str]]]:
        """To our names, and back to names in the trunk's module and outside of it."""
        inside, outside = ([(b, a) for a, b in self.pairs if a.startswith('@') == is_in] for is_in in (True, False))
        return [
            [(re.compile(re.escape(old).replace(r'\{\}', r'(\d+)')), new.replace('{}', r'\1')) for old, new in pairs]
            for pairs in ([*self.aliases, *self.pairs], inside, outside)
        ]

    def our_name(self, name: str, prefix: str) -> str | None:
        """Our name for one of theirs, in a file whose trunk has this prefix; None if unknown."""
        for start, mark in ((prefix, '@'), (re.sub(r'[^.]*\.$', '', prefix), '')):
            ours = _rename(mark + name[len(start) :], self._rules[0]) if name.startswith(start) else None
            if ours is not None:
                return ours
        return None

    def their_name(self, name: str, task: str) -> str | None:
        """Their name for one of ours; None if their model for the task has no such tensor."""
        inside, outside = (_rename(name, rules) for rules in self._rules[1:])
        if inside is not None:
            inside = inside.replace('@', '' if task in self.without_prefix else self.trunk_prefix)
        return (outside or inside) if task == 'pretrain' else (inside or outside)

    def to_ours(self, weights: dict[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], Moves, list[str]]:
        """Their weights under our names.

        Returns:
            the weights; (theirs, ours) of every tensor; unknown names, whose tensors are left out.

        Raises:
            ValueError: If two tensors get the same name, or q, k and v do not fit each other.
        """
        renamed, moves, unknown = {}, [], []
        for name, tensor in weights.items():
            if name.endswith(INDEX):
                continue
            ours = self.our_name(name, prefix)
            if ours is None:
                unknown.append(name)
                continue
            if ours in renamed:
                raise UserError(f'{name} and another weight of the file are both {ours}, expected one')
            renamed[ours] = self._transpose(ours, tensor)
            moves.append((name, _fused_name(ours) if self.splits_qkv else ours))
        return _fuse_qkv(renamed) if self.splits_qkv else renamed, moves, unknown

    def from_ours(self, weights: dict[str, Tensor], task: str) -> tuple[dict[str, Tensor], Moves, list[str]]:
        """Our weights under their names; returns the same three as `to_ours`."""
        renamed, moves, unknown = {}, [], []
        for name, tensor in weights.items():
            for part, value in (_split_qkv(name, tensor) if self.splits_qkv else {name: tensor}).items():
                theirs = self.their_name(part, task)
                if theirs is None:
                    unknown.append(name)
                else:
                    renamed[theirs] = self._transpose(part, value).contiguous()
                    moves.append((theirs, name))
        return renamed, moves, unknown

    def _transpose(self, name: str, tensor: Tensor) -> Tensor:
        is_linear = name.endswith('.weight') and tensor.ndim == 2
        return tensor.t().contiguous() if self.transposes and is_linear else tensor


def _rename(name: str, rules: list[tuple[re.Pattern, str]]) -> str | None:
    """The name with the first matching beginning replaced; None if there is none."""
    for pattern, new in rules:
        if match := pattern.match(name):
            return match.expand(new) + name[match.end() :]
    return None


def _fused_name(name: str) -> str:
    name = re.sub(r'attn\.[qkv]\.weight$', 'attn.qkv.weight', name)
    return re.sub(r'attn\.([qv])\.bias$', r'attn.\1_bias', name)


def _fuse_qkv(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    fused = {}
    for name, tensor in weights.items():
        if name.endswith('attn.q.weight'):
            names = [f'{name.removesuffix("q.weight")}{part}.weight' for part in 'qkv']
            parts = [weights[part] for part in names if part in weights]
            if len(parts) < 3 or any(part.shape != tensor.shape for part in parts):
                shapes = [tuple(part.shape) for part in parts]
                raise UserError(f'{name}: q, k and v must be three tensors of the same shape, got {shapes}')
            tensor = torch.cat(parts)
        if not name.endswith(('attn.k.weight', 'attn.v.weight')):
            fused[_fused_name(name)] = tensor
    return fused


def _split_qkv(name: str, tensor: Tensor) -> dict[str, Tensor]:
    if name.endswith('attn.qkv.weight'):
        return {name.replace('attn.qkv', f'attn.{part}'): value for part, value in zip('qkv', tensor.chunk(3))}
    return {re.sub(r'attn\.([qv])_bias$', r'attn.\1.bias', name): tensor}
