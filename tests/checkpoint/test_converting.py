"""Weights converted from layout to layout, and what is reported."""

import json

import pytest
import torch
from safetensors.torch import load_file

from beit_mm.checkpoint.converting import convert, to_layout
from beit_mm.checkpoint.mapping import find_beit
from beit_mm.checkpoint.reading import read_checkpoint
from beit_mm.models import BEiT
from beit_mm.models.backbones.relative_position import expand_bias, relative_position_index
from beit_mm.models.layout import task_of
from beit_mm.models.weight_layouts import find_layouts, LAYOUTS

WIDTH = dict(embed_dim=32, depth=3, num_heads=2)
SUFFIXES = {'transformers': '', 'passl': '.pdparams'}
SHARED = dict(use_mask_token=True, use_rel_pos_bias=False, use_shared_rel_pos_bias=True, out_type='raw')
HEADS = {
    'pretrain': {'lm_head.weight': (16, 32), 'lm_head.bias': (16,)},
    'classify': {'head.fc.weight': (5, 32), 'head.fc.bias': (5,)},
    'segment': {
        'neck.upsample_4x.0.weight': (32, 32, 2, 2),
        'neck.upsample_4x.1.running_mean': (32,),
        'neck.upsample_2x.0.bias': (32,),
        'decode_head.psp_modules.2.1.conv.weight': (32, 32, 1, 1),
        'decode_head.lateral_convs.1.bn.weight': (32,),
        'decode_head.conv_seg.weight': (4, 32, 1, 1),
        'auxiliary_head.convs.0.conv.weight': (8, 32, 3, 3),
        'auxiliary_head.conv_seg.bias': (4,),
    },
    'trunk': {},
}


def weights_of(task: str = 'classify', img_size=48) -> dict:
    """Seeded weights of a whole model under our names."""
    torch.manual_seed(0)
    trunk = BEiT(img_size=img_size, **WIDTH, **(SHARED if task == 'pretrain' else {}))
    if task == 'segment':
        del trunk.fc_norm
    weights = {
        f'backbone.{name}': torch.randn_like(tensor) if tensor.is_floating_point() else tensor
        for name, tensor in trunk.state_dict().items()
    }
    return {**weights, **{name: torch.randn(shape) for name, shape in HEADS[task].items()}}


def without_grid(weights: dict) -> dict:
    return {name: tensor for name, tensor in weights.items() if name != 'backbone.grid_size'}


def save(path, weights) -> str:
    torch.save(dict(state_dict=weights, meta={}), path)
    return str(path)


def assert_equal(actual: dict, expected: dict) -> None:
    assert set(actual) == set(expected)
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype and torch.equal(actual[name], tensor), name


def read_weights(path) -> dict:
    return find_beit(read_checkpoint(path)).to_ours()[0]


# Names


CASES = [
    (layout, task)
    for layout in LAYOUTS.values()
    for task in layout.tasks
    if layout.name != 'timm' or task in ('classify', 'trunk')
]


@pytest.mark.parametrize('module', ['', 'module.'])
@pytest.mark.parametrize('layout, task', CASES, ids=lambda value: getattr(value, 'name', value))
def test_names_there_and_back_under_any_prefix(layout, task, module):
    weights = without_grid(weights_of(task))
    assert task_of(weights) == task
    theirs, moves, unknown = layout.from_ours(weights, task)
    assert not unknown
    assert {ours for _, ours in moves} == set(weights) and {name for name, _ in moves} == set(theirs)
    prefix = module + ('' if task in layout.without_prefix else layout.trunk_prefix)
    back, moves, unknown = layout.to_ours({module + name: tensor for name, tensor in theirs.items()}, prefix)
    assert not unknown
    assert_equal(back, weights)
    assert {ours for _, ours in moves} == set(weights)


def test_unknown_names_are_returned():
    back, _, unknown = LAYOUTS['release'].to_ours({'cls_token': torch.zeros(1), 'stem.weight': torch.zeros(1)}, '')
    assert set(back) == {'backbone.cls_token'} and unknown == ['stem.weight']


def test_the_order_of_the_names_decides_between_two_layouts():
    names = [
        'a.blocks.0.attn.qkv.weight',
        'b.layers.0.attn.qkv.weight',
        'encoder.layer.0.attention.attention.query.weight',
    ]
    layouts = ['release', 'openmmlab', 'transformers']
    assert [layout.name for layout, *_ in find_layouts(names)] == layouts
    assert [layout.name for layout, *_ in find_layouts(names[::-1])] == layouts[::-1]


def test_q_k_and_v_are_thirds_in_this_order():
    weights = {'backbone.blocks.0.attn.qkv.weight': torch.arange(6.0).view(6, 1).expand(6, 2)}
    theirs, _, _ = LAYOUTS['transformers'].from_ours(weights, 'trunk')
    assert {name.split('.')[-2]: tensor[:, 0].tolist() for name, tensor in theirs.items()} == dict(
        query=[0, 1], key=[2, 3], value=[4, 5]
    )
    del theirs['encoder.layer.0.attention.attention.key.weight']
    with pytest.raises(ValueError, match='q, k and v must be three tensors of the same shape'):
        LAYOUTS['transformers'].to_ours(theirs, '')


def test_linear_weights_of_paddle_are_in_by_out():
    weights = weights_of()
    theirs, _, _ = LAYOUTS['passl'].from_ours(weights, 'classify')
    assert theirs['backbone.blocks.0.attn.qkv.weight'].shape == (32, 96)
    assert theirs['head.fc_cls.weight'].shape == (32, 5)
    table = 'backbone.blocks.0.attn.relative_position_bias_table'
    assert torch.equal(theirs[table], weights[table]), 'a table is no linear layer'


# Files


@pytest.mark.parametrize('img_size', [(32, 64), (64, 32)])
@pytest.mark.parametrize('layout', ['release', 'mmpretrain', 'passl'])
def test_a_grid_that_is_not_square_is_kept_by_the_index(layout, img_size, tmp_path):
    weights = weights_of(img_size=img_size)
    target = tmp_path / f'theirs{SUFFIXES.get(layout, ".pth")}'
    list(convert(save(tmp_path / 'ours.pth', weights), target, layout))
    theirs = find_beit(read_checkpoint(target)).weights
    index = next(tensor for name, tensor in theirs.items() if name.endswith('relative_position_index'))
    assert index.tolist() == relative_position_index((img_size[0] // 16, img_size[1] // 16)).tolist()
    assert_equal(read_weights(target), weights)


def test_pre_training_weights_become_a_classifier_s_trunk_for_timm(tmp_path):
    weights = weights_of('pretrain')
    target = tmp_path / 'timm.safetensors'
    lines = '\n'.join(convert(save(tmp_path / 'ours.pth', weights), target, 'timm'))
    theirs = load_file(target)
    table = weights['backbone.rel_pos_bias.relative_position_bias_table']
    assert all(torch.equal(theirs[f'blocks.{index}.attn.relative_position_bias_table'], table) for index in range(3))
    assert 'mask_token' not in theirs and 'backbone.mask_token left out' in lines
    assert 'lm_head.weight left out' in lines


def test_every_renaming_is_reported(tmp_path):
    lines = list(convert(save(tmp_path / 'ours.pth', weights_of()), tmp_path / 'folder', 'transformers'))
    assert lines[0] == f'{tmp_path / "ours.pth"}: classify weights, layout release, prefix backbone.'
    assert f'{tmp_path / "folder"}: classify weights, layout transformers' in lines
    block = 'beit.encoder.layer.*.'
    for part in ('query', 'key', 'value'):
        assert f'  backbone.blocks.*.attn.qkv.weight -> {block}attention.attention.{part}.weight (3)' in lines
    assert f'  backbone.blocks.*.mlp.fc1.bias -> {block}intermediate.dense.bias (3)' in lines
    assert '  head.fc.weight -> classifier.weight' in lines


def test_the_configuration_of_transformers_describes_the_weights(tmp_path):
    list(convert(save(tmp_path / 'ours.pth', weights_of()), tmp_path / 'folder', 'transformers'))
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
    source, target = save(tmp_path / 'ours.pth', weights_of()), tmp_path / 'theirs.pth'
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
        ('transformers', 'out', 'square grid, got 2 x 4 patches'),
    ],
)
def test_what_cannot_be_written_is_named(layout, name, message, tmp_path):
    source = save(tmp_path / 'ours.pth', weights_of(img_size=(32, 64)))
    with pytest.raises(ValueError, match=message):
        list(convert(source, tmp_path / name, layout))
    assert not (tmp_path / name).exists()


def test_bfloat16_survives_paddle(tmp_path):
    weights = {
        name: tensor.bfloat16() if tensor.is_floating_point() else tensor for name, tensor in weights_of().items()
    }
    list(convert(save(tmp_path / 'ours.pth', weights), tmp_path / 'theirs.pdparams', 'passl'))
    assert_equal(read_weights(tmp_path / 'theirs.pdparams'), weights)


def test_weights_converted_to_a_host_are_read_by_our_models_at_another_size(tmp_path):
    weights = weights_of()
    theirs, _, _ = to_layout(weights, LAYOUTS['mmpretrain'], 'classify', (3, 3))
    trunk = BEiT(img_size=64, **WIDTH)
    trunk.load_state_dict(theirs, strict=False)
    for index in range(3):
        name = f'blocks.{index}.attn.relative_position_bias_table'
        assert torch.equal(trunk.state_dict()[name], expand_bias(weights[f'backbone.{name}'], (3, 3), (4, 4)))
    assert torch.equal(trunk.blocks[2].mlp.fc2.weight, weights['backbone.blocks.2.mlp.fc2.weight'])
