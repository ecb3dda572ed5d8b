"""Files of weights converted from layout to layout, and what is reported."""

import json

import pytest
import torch
from safetensors.torch import load_file
from support.weights import assert_equal, GRID, INDEX, TABLE, weights_of, WIDTH
from transformers import BeitForImageClassification, BeitImageProcessor

from beit_mm.checkpoint.converting import convert, to_layout
from beit_mm.checkpoint.mapping import find_beit
from beit_mm.checkpoint.reading import read_checkpoint
from beit_mm.errors import UserError
from beit_mm.models import BEiT
from beit_mm.models.backbones.relative_position import expand_bias, relative_position_index
from beit_mm.models.weight_layouts import LAYOUTS

OURS = {name: tensor for name, tensor in weights_of().items() if name != GRID}


@pytest.fixture
def source(tmp_path):
    """Writes weights to a file."""

    def save(weights: dict) -> str:
        torch.save(dict(state_dict=weights, meta={}), tmp_path / 'ours.pth')
        return str(tmp_path / 'ours.pth')

    return save


@pytest.mark.parametrize('img_size', [(32, 64), (64, 32)])
@pytest.mark.parametrize('layout, name', [('release', 'a.pth'), ('mmpretrain', 'a.pth'), ('passl', 'a.pdparams')])
def test_grids_that_are_not_square_and_bfloat16_are_kept(layout, name, img_size, source, tmp_path):
    weights = weights_of('classify', img_size)
    weights.update({key: tensor.bfloat16() for key, tensor in weights.items() if 'block' in key})
    list(convert(source(weights), tmp_path / name, layout))
    found = find_beit(read_checkpoint(tmp_path / name))
    index = next(tensor for name, tensor in found.weights.items() if name.endswith(INDEX))
    assert index.tolist() == relative_position_index((img_size[0] // 16, img_size[1] // 16)).tolist()
    assert_equal(found.to_ours()[0], weights)


def test_pre_training_weights_become_a_classifier_s_trunk_for_timm(source, tmp_path):
    weights = weights_of('pretrain')
    lines = list(convert(source(weights), tmp_path / 'timm.safetensors', 'timm'))
    theirs = load_file(tmp_path / 'timm.safetensors')
    table = weights['backbone.rel_pos_bias.relative_position_bias_table']
    assert all(torch.equal(theirs[f'blocks.{index}.{TABLE}'], table) for index in range(3))
    assert 'mask_token' not in theirs
    assert {'  backbone.mask_token left out', '  lm_head.weight left out'} <= set(lines)


def test_every_renaming_is_reported_and_the_configuration_of_transformers_describes_the_weights(source, tmp_path):
    lines = list(convert(source(weights_of()), tmp_path / 'folder', 'transformers'))
    assert lines[0] == f'{tmp_path / "ours.pth"}: classify weights, layout release, prefix backbone.'
    assert f'{tmp_path / "folder"}: classify weights, layout transformers' in lines
    block = 'beit.encoder.layer.*.'
    for part in ('query', 'key', 'value'):
        assert f'  backbone.blocks.*.attn.qkv.weight -> {block}attention.attention.{part}.weight (3)' in lines
    assert f'  backbone.blocks.*.mlp.fc1.bias -> {block}intermediate.dense.bias (3)' in lines
    assert '  head.fc.weight -> classifier.weight' in lines

    expected = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=128, image_size=48)
    expected.update(architectures=['BeitForImageClassification'], patch_size=16, layer_norm_eps=1e-6)
    expected.update(use_relative_position_bias=True, use_shared_relative_position_bias=False)
    expected.update(use_mask_token=False, use_mean_pooling=True)
    config = json.loads((tmp_path / 'folder' / 'config.json').read_text())
    assert {key: config[key] for key in expected} == expected
    assert config['id2label'] == {str(index): f'LABEL_{index}' for index in range(5)}

    classes, ours = ['猫', 'ox', 'ä', 'd', 'e'], tmp_path / 'again.pth'
    torch.save(dict(state_dict=weights_of(), meta=dict(dataset_meta=dict(classes=classes))), tmp_path / 'named.pth')
    list(convert(tmp_path / 'named.pth', tmp_path / 'named', 'transformers'))
    theirs = BeitForImageClassification.from_pretrained(tmp_path / 'named')
    assert theirs.config.id2label == dict(enumerate(classes)) and theirs.config.label2id['ox'] == 1
    images = BeitImageProcessor.from_pretrained(tmp_path / 'named')
    pixels = images(torch.full((3, 60, 80), 255, dtype=torch.uint8), return_tensors='pt')['pixel_values']
    assert pixels.shape == (1, 3, 48, 48) and (pixels == 1).all()
    list(convert(tmp_path / 'named', ours, 'beit_mm'))
    assert read_checkpoint(ours)['meta']['dataset_meta']['classes'] == classes


@pytest.mark.parametrize(
    'layout, name, message',
    [
        ('mmsegmentation', 'out.pth', 'segment and trunk weights, got classify'),
        ('passl', 'out.pth', '.pdparams'),
        ('timm', 'out.pdparams', '.pdparams'),
        ('caffe', 'out.pth', 'a layout must be one of beit_mm, release'),
        ('transformers', 'out', 'square grid, got 2 x 4 patches'),
    ],
)
def test_what_cannot_be_written_is_named(layout, name, message, source, tmp_path):
    with pytest.raises(ValueError, match=message):
        list(convert(source(weights_of(img_size=(32, 64))), tmp_path / name, layout))
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    'name, tensor, message',
    [
        ('backbone.patch_embed.proj.weight', None, 'must be a tensor of 4 dimensions, got none'),
        ('backbone.patch_embed.proj.weight', torch.ones(3), r'of 4 dimensions, got the shape \(3,\)'),
        ('head.fc.weight', torch.tensor(1.0), r'head.fc.weight must be a tensor of 2 dimensions, got the shape \(\)'),
        (f'backbone.blocks.1.{TABLE}', torch.ones(52), 'must be a tensor of 2 dimensions'),
        (f'backbone.blocks.0.{TABLE}', torch.ones(7, 2), r'bias tables must have one shape, got \(7, 2\) and'),
        (GRID, torch.tensor(3), 'grid_size must be two numbers of patches'),
        (GRID, torch.tensor([10**9, 10**9]), 'grid_size must be two numbers of patches'),
    ],
)
def test_tensors_that_contradict_each_other_end_a_conversion_in_one_sentence(name, tensor, message, source, tmp_path):
    weights = {key: value for key, value in weights_of().items() if key not in (name, GRID)}
    path = source({**weights, **({} if tensor is None else {name: tensor})})
    with pytest.raises(UserError, match=f'^{path}: .*{message}'):
        list(convert(path, tmp_path / 'out', 'transformers'))
    assert not (tmp_path / 'out').exists()


def test_files_without_a_beit_are_refused_and_nothing_is_overwritten(source, tmp_path):
    for content, message in (({}, 'an empty dict'), ({'conv1.weight': torch.ones(2)}, 'conv1.weight')):
        torch.save(content, tmp_path / 'other.pth')
        with pytest.raises(ValueError, match=f'must hold the weights of a BEiT, got .*{message}'):
            list(convert(tmp_path / 'other.pth', tmp_path / 'out.pth', 'timm'))
    (tmp_path / 'out.pth').write_text('mine')
    with pytest.raises(FileExistsError, match='not overwritten'):
        list(convert(source(weights_of()), tmp_path / 'out.pth', 'timm'))
    assert (tmp_path / 'out.pth').read_text() == 'mine'


def test_weights_converted_to_a_host_are_read_by_our_models_at_another_size():
    theirs, _, _ = to_layout(OURS, LAYOUTS['mmpretrain'], 'classify', (3, 3))
    trunk = BEiT(img_size=64, **WIDTH)
    trunk.load_state_dict(theirs, strict=False)
    for name in (f'blocks.{index}.{TABLE}' for index in range(3)):
        assert torch.equal(trunk.state_dict()[name], expand_bias(OURS[f'backbone.{name}'], (3, 3), (4, 4)))
    assert torch.equal(trunk.blocks[2].mlp.fc2.weight, OURS['backbone.blocks.2.mlp.fc2.weight'])
