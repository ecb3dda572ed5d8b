"""Finding BEiT's weights in files of any layout, prefix and key, and converting them from layout to layout."""

import copy
import json

import pytest
import timm
import torch
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from safetensors.torch import load_file
from transformers import BeitConfig, BeitModel, Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from beit_mm.checkpoint.converting import convert, to_layout
from beit_mm.checkpoint.mapping import find_beit, rename_beit_weights
from beit_mm.checkpoint.reading import read_checkpoint
from beit_mm.models import BEiT
from beit_mm.models.backbones.relative_position import expand_bias, grid_of_index, relative_position_index
from beit_mm.models.layout import task_of
from beit_mm.models.weight_layouts import find_layouts, LAYOUTS

WIDTH = dict(embed_dim=32, depth=3, num_heads=2)
SHARED = dict(use_mask_token=True, use_rel_pos_bias=False, use_shared_rel_pos_bias=True, out_type='raw')
HEADS = {
    'pretrain': {'lm_head.weight': (16, 32), 'lm_head.bias': (16,)},
    'classify': {'head.fc.weight': (5, 32), 'head.fc.bias': (5,)},
    'segment': {
        **{f'neck.upsample_{name}': (32,) for name in ('4x.1.running_mean', '2x.0.bias')},
        **{f'decode_head.{name}': (32, 32, 1, 1) for name in ('psp_modules.2.1.conv.weight', 'conv_seg.weight')},
        **{f'auxiliary_head.{name}': (8,) for name in ('convs.0.conv.weight', 'conv_seg.bias')},
        'neck.upsample_4x.0.weight': (32, 32, 2, 2),
        'decode_head.lateral_convs.1.bn.weight': (32,),
    },
    'trunk': {},
}
GRID = 'backbone.grid_size'
INDEX = 'relative_position_index'
TABLE = 'attn.relative_position_bias_table'


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


OURS = {name: tensor for name, tensor in weights_of().items() if name != GRID}
RELEASE = LAYOUTS['release'].from_ours(OURS, 'classify')[0]


def renamed(content: dict) -> dict:
    return rename_beit_weights(content, 'file')


def assert_equal(actual: dict, expected: dict = OURS) -> None:
    assert set(actual) == set(expected)
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype and torch.equal(actual[name], tensor), name


# Names

CASES = {(name, task) for name, layout in LAYOUTS.items() for task in layout.tasks}
CASES -= {('timm', 'pretrain'), ('timm', 'segment')}  # of which only the trunk remains


@pytest.mark.parametrize('layout, task', sorted(CASES))
def test_names_there_and_back_under_any_prefix(layout, task):
    layout, weights = LAYOUTS[layout], {name: tensor for name, tensor in weights_of(task).items() if name != GRID}
    assert task_of(weights) == task
    theirs, moves, unknown = layout.from_ours(weights, task)
    assert not unknown
    assert {ours for _, ours in moves} == set(weights) and {name for name, _ in moves} == set(theirs)
    for prefix in ('', 'module.'):
        start = prefix + ('' if task in layout.without_prefix else layout.trunk_prefix)
        back, moves, unknown = layout.to_ours({prefix + name: tensor for name, tensor in theirs.items()}, start)
        assert not unknown and {ours for _, ours in moves} == set(weights)
        assert_equal(back, weights)
    if layout.name in ('mmpretrain', 'mmsegmentation'):  # whose own BEiT may load them in the same process
        return
    for prefix in ('', 'module.', 'model.', '_orig_mod.', 'module.encoder.', 'student.backbone.'):
        content = renamed({prefix + name: tensor for name, tensor in theirs.items()})
        assert_equal(content['state_dict'], weights)


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
    thirds = {name.split('.')[-2]: tensor[:, 0].tolist() for name, tensor in theirs.items()}
    assert thirds == dict(query=[0, 1], key=[2, 3], value=[4, 5])
    del theirs['encoder.layer.0.attention.attention.key.weight']
    with pytest.raises(ValueError, match='q, k and v must be three tensors of the same shape'):
        LAYOUTS['transformers'].to_ours(theirs, '')


def test_linear_weights_of_paddle_are_in_by_out():
    theirs, _, _ = LAYOUTS['passl'].from_ours(OURS, 'classify')
    assert theirs['backbone.blocks.0.attn.qkv.weight'].shape == (32, 96)
    assert theirs['head.fc_cls.weight'].shape == (32, 5)
    table = f'backbone.blocks.0.{TABLE}'
    assert torch.equal(theirs[table], OURS[table]), 'a table is no linear layer'


# Contents of files


def test_any_wrapper_and_the_weights_of_the_last_step():
    for keys in 'model module state_dict model_ema state_dict_ema ema ema_state_dict model.state_dict'.split():
        content = {**RELEASE, 'steps': torch.tensor(3)}
        for key in reversed(keys.split('.')):
            content = {key: content, 'epoch': 3, 'optimizer': dict(state={0: dict(step=torch.ones(1))})}
        if keys == 'model':
            content = dict(model_ema={key: torch.ones(2) for key in RELEASE}) | content
        result = renamed(content)
        assert_equal(result['state_dict'], {**OURS, 'steps': torch.tensor(3)})  # unknown weights keep their names
        assert isinstance(result.get('meta', {}), dict)


@pytest.mark.parametrize('layout', ['beit_mm', 'mmpretrain'])
def test_a_run_keeps_what_resuming_needs(layout):
    """MMPretrain's BEiTViT resumes its own files in a process that has imported beit_mm."""
    theirs = LAYOUTS[layout].from_ours(OURS, 'classify')[0]
    run = dict(meta=dict(epoch=1), optimizer=dict(state={}), message_hub={}, param_schedulers=[])
    content = dict(run, state_dict=theirs)
    assert renamed(content) is content
    result = renamed(dict(run, state_dict={f'module.{name}': tensor for name, tensor in theirs.items()}))
    assert_equal(result.pop('state_dict'), theirs)
    assert result == run
    assert renamed(theirs).get('meta', {}) == {}  # which MMSegmentation's init_model asks every file for


NARROW = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32)


@DefaultScope.overwrite_default_scope('mmpretrain')
def vision_transformer_of_mmpretrain() -> torch.nn.Module:
    arch = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
    return MODELS.build(dict(type='VisionTransformer', img_size=32, arch=arch))


OTHER_MODELS = {
    'swin': lambda: timm.create_model('swin_tiny_patch4_window7_224', embed_dim=24, depths=(1, 1, 1, 1)),
    'vit of transformers': lambda: ViTModel(ViTConfig(**NARROW)),
    'dinov2 of transformers': lambda: Dinov2Model(Dinov2Config(**NARROW)),
    'vit of mmpretrain': vision_transformer_of_mmpretrain,
    'resnet18': lambda: timm.create_model('resnet18'),
    **{
        name: lambda name=name: timm.create_model(name, depth=2)
        for name in 'vit_tiny_patch16_224 deit_tiny_distilled_patch16_224 eva02_tiny_patch14_224 '
        'vit_relpos_small_patch16_224'.split()
    },
}


@pytest.mark.parametrize('name', OTHER_MODELS)
def test_other_models_pass_unchanged(name):
    weights = {f'backbone.{key}': tensor for key, tensor in OTHER_MODELS[name]().state_dict().items()}
    for content in (weights, dict(model=weights, epoch=1), dict(state_dict=weights, meta={})):
        assert renamed(content) is content


def test_content_without_a_model_passes_unchanged():
    query = 'encoder.layer.0.attention.attention.query.weight'
    for content in (
        *({}, dict(state_dict={}), dict(model=3), {1: 2, 'blocks.0.attn.qkv.weight': 'x'}),
        *({'blocks.0.attn.qkv.weight': torch.ones(3)}, {query: torch.ones(())}),
    ):
        before = copy.copy(content)
        assert renamed(content) is content and content == before


def test_variants_of_beit_are_known():
    trunk = BEiT(img_size=32, embed_dim=32, depth=2, num_heads=2, qkv_bias=False, layer_scale_init_value=None)
    found = find_beit(trunk.state_dict())  # by its tables
    assert found is not None and found.prefix == '' and found.layout.name == 'release'
    theirs = BeitModel(BeitConfig(**NARROW, use_relative_position_bias=True)).state_dict()
    for prefix in ('', 'beit.', 'data2vec_vision.'):
        weights, _, unknown = find_beit({prefix + name: value for name, value in theirs.items()}).to_ours()
        assert not unknown and 'backbone.blocks.1.attn.qkv.weight' in weights


def test_the_grid_is_read_off_the_index():
    for grid in [(2, 2), (3, 5), (5, 3), (14, 14), (1, 4)]:
        index = relative_position_index(grid)
        assert renamed({**RELEASE, f'blocks.0.attn.{INDEX}': index})['state_dict'][GRID].tolist() == list(grid)
        assert grid_of_index(index.float()).tolist() == list(grid), 'PASSL keeps a float index'
    of_no_grid = [torch.zeros(shape) for shape in ((3,), (2, 3), (5, 5), (1, 1))]
    for index in [*of_no_grid, torch.arange(25).view(5, 5), relative_position_index((2, 3))[:6, :6]]:
        assert grid_of_index(index) is None


# Conversion of files


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
    assert len(config['id2label']) == 5


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
