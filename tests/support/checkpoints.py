"""Compare checkpoints."""

from pathlib import Path

import torch


def content(checkpoint: Path) -> dict:
    """The parts of a checkpoint that must be equal after a resume."""
    loaded = torch.load(checkpoint, weights_only=False)
    return {key: loaded.get(key) for key in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers')}


def differences(left, right, name: str = '') -> list[str]:
    """Names of entries that differ between two trees of dicts, lists, tensors and numbers."""
    if isinstance(left, dict):
        entries = [(key, left.get(key), right.get(key)) for key in {*left, *right}]
    elif isinstance(left, (list, tuple)) and len(left) == len(right):
        entries = [(index, *pair) for index, pair in enumerate(zip(left, right))]
    else:
        same = torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right
        return [] if same else [name]
    return [path for key, *pair in entries for path in differences(*pair, f'{name}.{key}')]
