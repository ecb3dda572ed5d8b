"""Finding BEiT's weights in the content of files of any layout, prefix and key; other models pass unchanged."""

import copy

import pytest
import timm
import torch
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from support.weights import assert_equal, GRID, INDEX, TABLE, weights_of
from transformers import BeitConfig, BeitModel, Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from beit_mm.checkpoint.mapping import find_beit, rename_beit_weights
from beit_mm.models import BEiT
from beit_mm.models.backbones.relative_position import grid_of_index, relative_position_index
from beit_mm.models.layout import task_of
from beit_mm.models.weight_layouts import find_layouts, LAYOUTS

OURS = {name: tensor for name, tensor in weights_of().items() if name != GRID}
RELEASE = LAYOUTS['release'].from_ours(OURS, 'classify')[0]


def renamed(content: dict) -> dict:
    return rename_beit_weights(content, 'file')


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
