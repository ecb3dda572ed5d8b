"""Reading the numbers that the released implementations printed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

DATA = Path(__file__).parent / 'data'


class Reference:
    """Arrays of one file as tensors; `weights(prefix)` those of its `weight/` names."""

    def __init__(self, name: str):
        self.arrays = np.load(DATA / name, allow_pickle=False)
        if 'config' in self.arrays.files:
            self.config = json.loads(str(self.arrays['config']))

    def __getitem__(self, name: str) -> torch.Tensor:
        return torch.from_numpy(np.asarray(self.arrays[name]))

    def names(self, prefix: str) -> list:
        return [name[len(prefix) :] for name in self.arrays.files if name.startswith(prefix)]

    def weights(self, prefix: str = '') -> dict:
        prefix = f'weight/{prefix}'
        return {name: self[prefix + name] for name in self.names(prefix)}


@pytest.fixture
def reference():
    return Reference


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the expected array's largest magnitude."""
    return float((actual.detach() - expected).abs().max() / expected.abs().max())


@pytest.fixture(name='relative_error')
def relative_error_fixture():
    return relative_error


@pytest.fixture
def mim_model():
    """Build the pre-training model of mim_forward.npz, with a tokenizer that gives the tokens it is told."""
    from beit_mm.models import BEiT, MaskedImageModel, VisualTokens

    class GivenTokens(torch.nn.Module):
        vocab_size = 96

        def encode(self, views: torch.Tensor) -> torch.Tensor:
            return views

    def build():
        file = Reference('mim_forward.npz')
        config = file.config
        backbone = BEiT(
            img_size=config['img_size'],
            patch_size=config['patch_size'],
            embed_dim=config['embed_dim'],
            depth=config['depth'],
            num_heads=config['num_heads'],
            layer_scale_init_value=config['init_values'],
            use_rel_pos_bias=False,
            use_shared_rel_pos_bias=True,
            use_mask_token=True,
            out_type='raw',
        )
        model = MaskedImageModel(backbone, VisualTokens(GivenTokens()))
        model.load_state_dict(
            {
                name if name.startswith('lm_head') else f'backbone.{name}': tensor
                for name, tensor in file.weights().items()
            },
            strict=True,
        )
        return model, file

    return build
