"""What a layout is: pairs of name beginnings, and what is done to tensors on the way."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

Pairs = Sequence[tuple[str, str]]
Moves = list[tuple[str, str]]
INDEX = 'relative_position_index'  # a buffer that follows from the grid
KINDS = dict(pretrain='lm_head.weight', segment='decode_head.conv_seg.weight', classify='head.fc.weight',
             trunk='backbone.cls_token')  # yapf: disable


def kind_of(names: Iterable[str]) -> str | None:
    """'pretrain', 'segment', 'classify' or 'trunk', by our names of the weights; None if there is no trunk."""
    names = set(names)
    if KINDS['trunk'] not in names:
        return None
    return next(kind for kind, name in KINDS.items() if name in names)


class _Renaming:
    """Replaces the first beginning that matches; `{}` in a pair stands for a number."""

    def __init__(self, pairs: Pairs):
        self.rules = [
            (re.compile(re.escape(old).replace(r'\{\}', r'(\d+)')), re.sub(r'\{\}', r'\\g<1>', new))
            for old, new in pairs
        ]

    def __call__(self, name: str) -> str | None:
        for pattern, new in self.rules:
            match = pattern.match(name)
            if match:
                return match.expand(new) + name[match.end() :]
        return None


@dataclass(frozen=True)
class Layout:
    """Where an implementation keeps BEiT's weights.

    Our names are those of the full model: `backbone.`, `lm_head.`, `head.fc.`, `neck.`, `decode_head.` and so on. Where
    q, k and v are apart in a layout, its pairs name them `attn.q.`, `attn.k.` and `attn.v.`.

    Args:
        name: what users call it.
        trunk: (theirs, ours) beginnings of names inside the trunk's module; theirs without that module's prefix.
        beside: the same for what lies beside the trunk's module.
        home: prefix of the trunk's module in a model that is more than it.
        bare: kinds of model that are the trunk's module themselves.
        trunk_aliases, beside_aliases: further names that are read and never written.
        kinds: what the implementation has a model for, see `kind_of`.
        wrapper: key of the state dict in a file; None for a file that is the state dict.
        splits_qkv: whether q, k and v have tensors of their own.
        transposes: whether linear weights are (in, out).
        keeps_index: whether the relative position index is among the weights.
        absent: endings of names in the trunk that tell a model of another kind.
        ignored: beginnings of names beside the trunk that such files hold and nothing here has a place for.
    """

    name: str
    trunk: Pairs
    beside: Pairs = ()
    home: str = ''
    bare: tuple[str, ...] = ('trunk',)
    trunk_aliases: Pairs = ()
    beside_aliases: Pairs = ()
    kinds: tuple[str, ...] = tuple(KINDS)
    wrapper: str | None = None
    splits_qkv: bool = False
    transposes: bool = False
    keeps_index: bool = False
    absent: tuple[str, ...] = ('attn.qkv.bias',)
    ignored: tuple[str, ...] = ()

    @cached_property
    def _renamings(self) -> dict[str, _Renaming]:
        def reverse(pairs):
            return _Renaming([(ours, theirs) for theirs, ours in pairs])

        return dict(
            trunk=_Renaming([*self.trunk_aliases, *self.trunk]),
            beside=_Renaming([*self.beside_aliases, *self.beside]),
            trunk_back=reverse(self.trunk),
            beside_back=reverse(self.beside),
        )

    def our_name(self, name: str, prefix: str) -> str | None:
        """Ours for one of their names in a file whose trunk lies under the prefix; None if unknown."""
        found = None
        if name.startswith(prefix):
            found = self._renamings['trunk'](name[len(prefix) :])
        root = re.sub(r'[^.]*\.$', '', prefix)
        if found is None and name.startswith(root):
            found = self._renamings['beside'](name[len(root) :])
        return found

    def their_name(self, name: str, kind: str) -> str | None:
        """Theirs for one of our names; None if their model of that kind has no such tensor."""
        home = '' if kind in self.bare else self.home
        inside, outside = self._renamings['trunk_back'](name), self._renamings['beside_back'](name)
        inside = inside if inside is None else home + inside
        return (outside or inside) if kind == 'pretrain' else (inside or outside)

    def to_ours(self, weights: dict[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], Moves, list[str]]:
        """Their weights under our names.

        Returns:
            the weights; (theirs, ours) of every tensor; names that are not known, whose tensors are not among them.

        Raises:
            ValueError: If two tensors have one name of ours, or q, k and v do not belong together.
        """
        renamed, moves, unknown = {}, [], []
        for name, tensor in weights.items():
            ours = self.our_name(name, prefix)
            if name.endswith(INDEX):
                continue
            if ours is None:
                unknown.append(name)
                continue
            if ours in renamed:
                raise ValueError(f'{name} and another weight of the file both stand for {ours}, one was expected')
            renamed[ours] = tensor.t().contiguous() if self.transposes and _is_linear(ours, tensor) else tensor
            moves.append((name, ours))
        if self.splits_qkv:
            moves = [(theirs, _fused_name(ours)) for theirs, ours in moves]
            renamed = _fuse_qkv(renamed)
        return renamed, moves, unknown

    def from_ours(self, weights: dict[str, Tensor], kind: str) -> tuple[dict[str, Tensor], Moves, list[str]]:
        """Our weights under their names; what `to_ours` returns, with (theirs, ours) of every tensor."""
        renamed, moves, unknown = {}, [], []
        for name, tensor in weights.items():
            parts = _split_qkv(name, tensor) if self.splits_qkv else {name: tensor}
            for part, value in parts.items():
                theirs = self.their_name(part, kind)
                if theirs is None:
                    unknown.append(name)
                    continue
                value = value.t() if self.transposes and _is_linear(part, value) else value
                renamed[theirs] = value.contiguous()
                moves.append((theirs, name))
        return renamed, moves, unknown


def _is_linear(name: str, tensor: Tensor) -> bool:
    return name.endswith('.weight') and tensor.ndim == 2


def _fused_name(name: str) -> str:
    name = re.sub(r'attn\.[qkv]\.weight$', 'attn.qkv.weight', name)
    return re.sub(r'attn\.([qv])\.bias$', r'attn.\1_bias', name)


def _fuse_qkv(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    fused = {}
    for name, tensor in weights.items():
        if name.endswith('attn.q.weight'):
            parts = [weights.get(f'{name[: -len("q.weight")]}{part}.weight') for part in 'qkv']
            if any(part is None or part.shape != tensor.shape for part in parts):
                raise ValueError(
                    f'q, k and v of one shape were expected beside {name}, got '
                    f'{[None if part is None else tuple(part.shape) for part in parts]}'
                )
            fused[_fused_name(name)] = torch.cat(parts)
        elif not name.endswith(('attn.k.weight', 'attn.v.weight')):
            fused[_fused_name(name)] = tensor
    return fused


def _split_qkv(name: str, tensor: Tensor) -> dict[str, Tensor]:
    if name.endswith('attn.qkv.weight'):
        return {name.replace('attn.qkv', f'attn.{part}'): value for part, value in zip('qkv', tensor.chunk(3))}
    return {re.sub(r'attn\.([qv])_bias$', r'attn.\1.bias', name): tensor}
