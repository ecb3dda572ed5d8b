"""The dVAE against OpenAI's, from its own pickled files: tokenizer_forward.npz."""

import gzip
import shutil
from pathlib import Path

import pytest
import torch

from beit_mm.checkpoint import read_checkpoint
from beit_mm.models import DiscreteVAE

DATA = Path(__file__).parent / 'data'


@pytest.fixture
def pickles(tmp_path):
    for name in ('encoder', 'decoder'):
        with gzip.open(DATA / f'dalle_{name}.pkl.gz') as source, open(tmp_path / f'{name}.pkl', 'wb') as target:
            shutil.copyfileobj(source, target)
    return tmp_path


def build(config: dict, **kwargs) -> DiscreteVAE:
    return DiscreteVAE(
        vocab_size=config['vocab_size'],
        n_hid=config['n_hid'],
        n_init=config['n_init'],
        blocks_per_group=config['blocks_per_group'],
        **kwargs,
    ).eval()


@torch.no_grad()
def test_tokens_logits_and_reconstruction(reference, relative_error, pickles):
    file = reference('tokenizer_forward.npz')
    model = build(file.config)
    state = {}
    for name in ('encoder', 'decoder'):
        state.update(read_checkpoint(str(pickles / f'{name}.pkl'))['state_dict'])
    model.load_state_dict(state, strict=True)

    logits = model.encode_logits(file['image'])
    assert relative_error(logits[:, :, 0, 0], file['logits_first_position']) < 1e-5
    tokens = model.encode(file['image'])
    assert torch.equal(tokens, file['token_ids'])
    assert (model.decode(tokens) - file['reconstruction']).abs().max() < 1e-4


def test_encoder_alone_is_enough_to_encode(reference, pickles):
    """`init_cfg` takes the path of OpenAI's encoder.pkl."""
    file = reference('tokenizer_forward.npz')
    model = build(file.config, init_cfg=dict(type='Pretrained', checkpoint=str(pickles / 'encoder.pkl')))
    model.init_weights()
    assert torch.equal(model.encode(file['image']), file['token_ids'])
