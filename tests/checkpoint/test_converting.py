"""Files converted from layout to layout, and what is said meanwhile."""

import json

import pytest
import torch
from safetensors.torch import load_file

from beit_mm.checkpoint.converting import convert, to_layout
from beit_mm.checkpoint.mapping import find_beit
from beit_mm.checkpoint.reading import read_checkpoint
from beit_mm.models import BEiT
from beit_mm.models.backbones.relative_position import expand_bias, relative_position_index
from beit_mm.models.weight_layouts import LAYOUTS

WIDTH = dict(embed_dim=32, depth=3, num_heads=2)
SUFFIXES = {'transformers': '', 'passl': '.pdparams'}


def classifier_weights(img_size=48) -> dict:
    torch.manual_seed(0)
    weights = {
        f'backbone.{name}': torch.randn_like(tensor) if tensor.is_floating_point() else tensor
        for name, tensor in BEiT(img_size=img_size, **WIDTH).state_dict().items()
    }
    return {**weights, 'head.fc.weight': torch.randn(5, 32), 'head.fc.bias': torch.randn(5)}


def pre_training_weights() -> dict:
    torch.manual_seed(0)
    trunk = BEiT(
        img_size=48, **WIDTH, use_rel_pos_bias=False, use_shared_rel_pos_bias=True, use_mask_token=True, out_type='raw'
    )
    weights = {
        f'backbone.{name}': torch.randn_like(tensor) if tensor.is_floating_point() else tensor
        for name, tensor in trunk.state_dict().items()
    }
    return {**weights, 'lm_head.weight': torch.randn(16, 32), 'lm_head.bias': torch.randn(16)}


def save(path, weights) -> str:
    torch.save(dict(state_dict=weights, meta={}), path)
    return str(path)


def assert_equal(actual: dict, expected: dict) -> None:
    assert set(actual) == set(expected)
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype and torch.equal(actual[name], tensor), name


def read_weights(path) -> dict:
    return find_beit(read_checkpoint(path)).to_ours()[0]


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize(
    'layout, draw',
    [
        *((layout, classifier_weights) for layout in LAYOUTS if layout != 'mmsegmentation'),
        *((layout, pre_training_weights) for layout in LAYOUTS if layout not in ('mmsegmentation', 'timm')),
    ],
)
def test_files_there_and_back(layout, draw, suffix, tmp_path):
    weights = draw()
    source = save(tmp_path / 'ours.pth', weights)
    target = tmp_path / f'theirs{SUFFIXES.get(layout, suffix)}'
    assert list(convert(source, target, layout))
    back = tmp_path / 'back.pth'
    assert list(convert(target, back, 'beit_mm'))
    assert_equal(torch.load(back)['state_dict'], weights)


@pytest.mark.parametrize('img_size', [(32, 64), (64, 32)])
@pytest.mark.parametrize('layout', ['release', 'mmpretrain', 'passl'])
def test_a_grid_that_is_no_square_is_kept_by_the_index(layout, img_size, tmp_path):
    weights = classifier_weights(img_size)
    target = tmp_path / f'theirs{SUFFIXES.get(layout, ".pth")}'
    list(convert(save(tmp_path / 'ours.pth', weights), target, layout))
    theirs = find_beit(read_checkpoint(target)).weights
    index = next(tensor for name, tensor in theirs.items() if name.endswith('relative_position_index'))
    assert index.tolist() == relative_position_index((img_size[0] // 16, img_size[1] // 16)).tolist()
    assert_equal(read_weights(target), weights)


def test_transformers_refuses_grids_that_are_no_square(tmp_path):
    source = save(tmp_path / 'ours.pth', classifier_weights((32, 64)))
    with pytest.raises(ValueError, match='square'):
        list(convert(source, tmp_path / 'folder', 'transformers'))
    assert not (tmp_path / 'folder').exists()


def test_pre_training_weights_become_a_classifier_s_trunk_for_timm(tmp_path):
    weights = pre_training_weights()
    target = tmp_path / 'timm.safetensors'
    said = '\n'.join(convert(save(tmp_path / 'ours.pth', weights), target, 'timm'))
    theirs = load_file(target)
    table = weights['backbone.rel_pos_bias.relative_position_bias_table']
    assert all(torch.equal(theirs[f'blocks.{index}.attn.relative_position_bias_table'], table) for index in range(3))
    assert 'mask_token' not in theirs and 'backbone.mask_token left out' in said
    assert 'lm_head.weight left out' in said


def test_what_went_where_is_said(tmp_path):
    lines = list(convert(save(tmp_path / 'ours.pth', classifier_weights()), tmp_path / 'folder', 'transformers'))
    assert lines[0] == f'{tmp_path / "ours.pth"}: classify weights, layout release, prefix backbone.'
    assert f'{tmp_path / "folder"}: classify weights, layout transformers' in lines
    block = 'beit.encoder.layer.*.'
    for part in ('query', 'key', 'value'):
        assert f'  backbone.blocks.*.attn.qkv.weight -> {block}attention.attention.{part}.weight (3)' in lines
    assert f'  backbone.blocks.*.mlp.fc1.bias -> {block}intermediate.dense.bias (3)' in lines
    assert '  head.fc.weight -> classifier.weight' in lines


def test_the_configuration_of_transformers_describes_the_weights(tmp_path):
    list(convert(save(tmp_path / 'ours.pth', classifier_weights()), tmp_path / 'folder', 'transformers'))
    config = json.loads((tmp_path / 'folder' / 'config.json').read_text())
    expected = dict(
        architectures=['BeitForImageClassification'],
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=128,
        image_size=48,
        patch_size=16,
        layer_norm_eps=1e-6,
        use_relative_position_bias=True,
        use_shared_relative_position_bias=False,
        use_mask_token=False,
        use_mean_pooling=True,
    )
    assert {key: config[key] for key in expected} == expected
    assert len(config['id2label']) == 5


def test_nothing_is_overwritten(tmp_path):
    source, target = save(tmp_path / 'ours.pth', classifier_weights()), tmp_path / 'theirs.pth'
    target.write_text('mine')
    with pytest.raises(FileExistsError, match='not overwritten'):
        list(convert(source, target, 'timm'))
    assert target.read_text() == 'mine'


@pytest.mark.parametrize('content, message', [({}, 'an empty dict'), ({'conv1.weight': torch.ones(2)}, 'conv1.weight')])
def test_a_file_without_a_beit_is_refused(content, message, tmp_path):
    torch.save(content, tmp_path / 'other.pth')
    with pytest.raises(ValueError, match=f'must hold the weights of a BEiT, got .*{message}'):
        list(convert(tmp_path / 'other.pth', tmp_path / 'out.pth', 'timm'))


@pytest.mark.parametrize(
    'layout, name, message',
    [
        ('mmsegmentation', 'out.pth', 'segment and trunk weights, got classify'),
        ('passl', 'out.pth', '.pdparams'),
        ('timm', 'out.pdparams', '.pdparams'),
        ('caffe', 'out.pth', 'a layout must be one of beit_mm, release'),
    ],
)
def test_what_cannot_be_written_is_said(layout, name, message, tmp_path):
    source = save(tmp_path / 'ours.pth', classifier_weights())
    with pytest.raises(ValueError, match=message):
        list(convert(source, tmp_path / name, layout))
    assert not (tmp_path / name).exists()


def test_bfloat16_survives_paddle(tmp_path):
    weights = {
        name: tensor.bfloat16() if tensor.is_floating_point() else tensor
        for name, tensor in classifier_weights().items()
    }
    list(convert(save(tmp_path / 'ours.pth', weights), tmp_path / 'theirs.pdparams', 'passl'))
    assert_equal(read_weights(tmp_path / 'theirs.pdparams'), weights)


def test_weights_converted_to_a_host_are_read_by_our_models_at_another_size(tmp_path):
    weights = classifier_weights()
    theirs, _, _ = to_layout(weights, LAYOUTS['mmpretrain'], 'classify', (3, 3))
    trunk = BEiT(img_size=64, **WIDTH)
    trunk.load_state_dict(theirs, strict=False)
    for index in range(3):
        name = f'blocks.{index}.attn.relative_position_bias_table'
        assert torch.equal(trunk.state_dict()[name], expand_bias(weights[f'backbone.{name}'], (3, 3), (4, 4)))
    assert torch.equal(trunk.blocks[2].mlp.fc2.weight, weights['backbone.blocks.2.mlp.fc2.weight'])
