"""Compare checkpoints."""

from pathlib import Path

import torch


def content(checkpoint: Path) -> dict:
    """What of a checkpoint must be the same."""
    loaded = torch.load(checkpoint, weights_only=False)
    return {key: loaded.get(key) for key in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers')}


def differences(left, right, name: str = '') -> list:
    """Names of what differs between two trees of dicts, lists, tensors and numbers."""
    if isinstance(left, dict):
        keys = {*left, *right}
        return [found for key in keys for found in differences(left.get(key), right.get(key), f'{name}.{key}')]
    if isinstance(left, (list, tuple)):
        return (
            [name]
            if len(left) != len(right)
            else [
                found for place, pair in enumerate(zip(left, right)) for found in differences(*pair, f'{name}.{place}')
            ]
        )
    same = torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right
    return [] if same else [name]
