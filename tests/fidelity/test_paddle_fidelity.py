"""PASSL's files, written here as PaddlePaddle's paddle.save would: pickled arrays, linear weights (in, out)."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from support.fidelity import (
    assert_same,
    classifier,
    compare,
    convert_to,
    draw,
    images,
    load,
    masks,
    pre_training_logits,
    pre_training_model,
    save,
    SMALL,
)
from timm.models.beit import gen_relative_position_index

from beit_mm.models import DiscreteVAE

PIXELS, MASK = images(64), masks(4)
MODELS = dict(classify=lambda: classifier(num_classes=10, **SMALL), pretrain=lambda: pre_training_model(32, **SMALL))
TABLE, INDEX = 'relative_position_bias_table', 'relative_position_index'


def theirs(model: torch.nn.Module) -> dict:
    """Arrays under PASSL's names: the trunk's module holds lm_head, a head beside it holds fc_cls."""
    arrays = {}
    for name, tensor in model.state_dict().items():
        if name == 'backbone.grid_size':
            continue
        array = tensor.numpy()
        if tensor.ndim == 2 and name.endswith('.weight'):
            array = np.ascontiguousarray(array.T)
        name = name.replace('head.fc.', 'head.fc_cls.').replace('lm_head.', 'backbone.lm_head.')
        arrays[name] = array
        if name.endswith(TABLE):
            arrays[name.replace(TABLE, INDEX)] = gen_relative_position_index((4, 4)).numpy()
    return arrays


def paddle_save(path: Path, arrays: dict, way: str) -> Path:
    """`table`: with the table of parameter names at the end; `pairs`: arrays with the names of their parameters."""
    content = dict(arrays)
    if way == 'table':
        content['StructuredToParameterName@@'] = {name: f'linear_{index}.w_0' for index, name in enumerate(arrays)}
    elif way == 'pairs':
        content = {name: (f'linear_{index}.w_0', array) for index, (name, array) in enumerate(arrays.items())}
    elif way == 'run':
        content = dict(state_dict=content, epoch=3)
    path.write_bytes(pickle.dumps(content, protocol=2 if way == 'protocol 2' else 4))
    return path


def logits_of(kind: str, model: torch.nn.Module) -> torch.Tensor:
    return pre_training_logits(model, PIXELS, MASK) if kind == 'pretrain' else model(PIXELS)


@torch.no_grad()
@pytest.mark.parametrize('way', ['table', 'pairs', 'run', 'protocol 2'])
@pytest.mark.parametrize('kind', MODELS)
def test_weights_of_passl(kind, way, folder):
    model = draw(MODELS[kind]())
    path = paddle_save(folder / 'passl.pdparams', theirs(model), way)
    loaded = load(MODELS[kind](), path)
    compare('passl', kind, way, logits_of(kind, loaded), logits_of(kind, model))
    assert_same(loaded.state_dict(), model.state_dict())

    ours = convert_to('beit_mm', path, folder / 'ours.safetensors')
    assert_equal(convert_to('passl', ours, folder / 'back.pdparams'), theirs(model))


def assert_equal(path: Path, expected: dict) -> None:
    arrays = pickle.loads(path.read_bytes())
    assert set(arrays) == set(expected)
    for name, array in expected.items():
        assert arrays[name].dtype == array.dtype and np.array_equal(arrays[name], array), name
        assert arrays[name].flags['C_CONTIGUOUS'], name


@torch.no_grad()
def test_a_pre_training_run_of_passl(folder):
    """The tokenizer is a part of its model, and the index of a shared bias may be float32."""
    model = draw(MODELS['pretrain']())
    arrays = {name: array.astype(np.float32) for name, array in theirs(model).items()}
    for name, tensor in DiscreteVAE(vocab_size=32, n_hid=8, n_init=8).state_dict().items():
        arrays[f'd_vae.{name[:-1]}{dict(w="weight", b="bias")[name[-1]]}'] = tensor.numpy()
    path = paddle_save(folder / 'passl.pdparams', arrays, 'run')
    loaded = load(MODELS['pretrain'](), path, strict=False)
    expected = logits_of('pretrain', model)
    compare('passl', 'pretrain', 'a run, with its tokenizer', logits_of('pretrain', loaded), expected)


@pytest.mark.parametrize('kind', MODELS)
def test_our_weights_in_passls_names_and_back(kind, folder):
    model = draw(MODELS[kind]())
    path = convert_to('passl', save(folder / 'ours.pth', model), folder / 'passl.pdparams')
    assert_equal(path, theirs(model))
    back = convert_to('beit_mm', path, folder / 'back.pth')
    assert_same(torch.load(back, weights_only=True)['state_dict'], model.state_dict())
