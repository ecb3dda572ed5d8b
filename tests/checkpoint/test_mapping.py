"""Whose weights a file holds, wherever in the file they are; files of other models pass unchanged."""

import copy

import pytest
import timm
import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from transformers import BeitConfig, BeitModel, Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from beit_mm.checkpoint.mapping import find_beit, rename_beit_weights
from beit_mm.models import BEiT
from beit_mm.models.backbones.relative_position import grid_of_index, relative_position_index
from beit_mm.models.weight_layouts import LAYOUTS

NARROW = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32)
GIVEN = {
    f'backbone.{name}': tensor
    for name, tensor in BEiT(img_size=32, embed_dim=32, depth=2, num_heads=2).state_dict().items()
    if name != 'grid_size'
}
GIVEN.update({'head.fc.weight': torch.ones(5, 32), 'head.fc.bias': torch.ones(5)})
RELEASE = LAYOUTS['release'].from_ours(GIVEN, 'classify')[0]
OTHERS = {key: torch.ones(2) for key in RELEASE}


def assert_same(weights: dict, expected: dict = GIVEN) -> None:
    assert set(weights) == set(expected)
    assert all(weights[name] is tensor or torch.equal(weights[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize('prefix', ['', 'module.', 'model.', '_orig_mod.', 'module.encoder.', 'student.backbone.'])
@pytest.mark.parametrize('layout', ['release', 'timm', 'transformers', 'passl', 'beit_mm'])
def test_any_prefix(layout, prefix):
    theirs, _, _ = LAYOUTS[layout].from_ours(GIVEN, 'classify')
    renamed = rename_beit_weights({prefix + name: tensor for name, tensor in theirs.items()}, 'file')
    assert_same(renamed.get('state_dict', theirs))


@pytest.mark.parametrize(
    'keys',
    [
        ['model'],
        ['module'],
        ['state_dict'],
        ['model_ema'],
        ['state_dict_ema'],
        ['ema'],
        ['model', 'state_dict'],
        ['ema_state_dict'],
    ],
)
def test_any_wrapper(keys):
    content = dict(RELEASE)
    for key in reversed(keys):
        content = {key: content, 'epoch': 3, 'optimizer': dict(state={0: dict(step=torch.ones(1))})}
    renamed = rename_beit_weights(content, 'file')
    assert_same(renamed['state_dict'])
    assert isinstance(renamed.get('meta', {}), dict)


def test_weights_of_the_last_step_are_preferred_to_averaged_ones():
    renamed = rename_beit_weights(dict(model_ema=OTHERS, model=RELEASE), 'file')
    assert_same(renamed['state_dict'])


def test_what_belongs_to_no_layout_is_kept_under_its_name():
    renamed = rename_beit_weights({**RELEASE, 'steps': torch.tensor(3)}, 'file')
    assert_same(renamed['state_dict'], {**GIVEN, 'steps': torch.tensor(3)})


def test_our_own_checkpoint_is_returned_as_it_is():
    content = dict(state_dict=dict(GIVEN), meta=dict(epoch=1), optimizer={}, message_hub={})
    assert rename_beit_weights(content, 'file') is content
    flat = dict(GIVEN)
    # MMSegmentation's init_model asks every file for `meta`.
    assert_same(rename_beit_weights(flat, 'file')['state_dict'])
    assert rename_beit_weights(flat, 'file')['meta'] == {}


def test_a_run_under_a_wrapper_keeps_what_resuming_needs():
    content = dict(
        state_dict={f'module.{name}': tensor for name, tensor in GIVEN.items()},
        meta=dict(epoch=1),
        optimizer=dict(state={}),
        message_hub={},
        param_schedulers=[],
    )
    renamed = rename_beit_weights(content, 'file')
    assert_same(renamed['state_dict'])
    assert {key: value for key, value in renamed.items() if key != 'state_dict'} == {
        key: value for key, value in content.items() if key != 'state_dict'
    }


def test_a_host_s_checkpoint_keeps_its_names_for_the_host():
    """MMPretrain's BEiTViT loads and resumes its own files in a process that has imported beit_mm."""
    theirs, _, _ = LAYOUTS['mmpretrain'].from_ours(GIVEN, 'classify')
    content = dict(state_dict=theirs, meta=dict(epoch=1), optimizer={})
    assert rename_beit_weights(content, 'file') is content
    wrapped = {f'module.{name}': tensor for name, tensor in theirs.items()}
    assert_same(rename_beit_weights(wrapped, 'file')['state_dict'], theirs)


def vision_transformer_of_mmpretrain() -> torch.nn.Module:
    init_default_scope('mmpretrain')
    return MODELS.build(
        dict(
            type='VisionTransformer',
            img_size=32,
            arch=dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64),
        )
    )


OTHER_MODELS = {
    'resnet': lambda: timm.create_model('resnet18'),
    'vit': lambda: timm.create_model('vit_tiny_patch16_224', depth=2),
    'deit': lambda: timm.create_model('deit_tiny_distilled_patch16_224', depth=2),
    'swin': lambda: timm.create_model('swin_tiny_patch4_window7_224', embed_dim=24, depths=(1, 1, 1, 1)),
    'eva02': lambda: timm.create_model('eva02_tiny_patch14_224', depth=2),
    'vit with relative positions': lambda: timm.create_model('vit_relpos_small_patch16_224', depth=2),
    'vit of transformers': lambda: ViTModel(ViTConfig(**NARROW)),
    'dinov2 of transformers': lambda: Dinov2Model(Dinov2Config(**NARROW)),
    'vit of mmpretrain': vision_transformer_of_mmpretrain,
}  # yapf: disable


@pytest.mark.parametrize('name', OTHER_MODELS)
@pytest.mark.parametrize(
    'wrap',
    [
        lambda weights: weights,
        lambda weights: dict(model=weights, epoch=1),
        lambda weights: dict(state_dict=weights, meta={}),
    ],
)
def test_other_models_pass_unchanged(name, wrap):
    content = wrap({f'backbone.{key}': tensor for key, tensor in OTHER_MODELS[name]().state_dict().items()})
    assert rename_beit_weights(content, 'file') is content


@pytest.mark.parametrize(
    'content',
    [
        {},
        dict(state_dict={}),
        dict(model=3),
        {1: 2, 'blocks.0.attn.qkv.weight': 'x'},
        {'blocks.0.attn.qkv.weight': torch.ones(3)},
        {'encoder.layer.0.attention.attention.query.weight': torch.ones(())},
    ],
)
def test_what_holds_no_model_passes_unchanged(content):
    before = copy.copy(content)
    assert rename_beit_weights(content, 'file') is content and content == before


def test_a_beit_without_a_query_bias_is_known_by_its_tables():
    trunk = BEiT(img_size=32, embed_dim=32, depth=2, num_heads=2, qkv_bias=False, layer_scale_init_value=None)
    found = find_beit(trunk.state_dict())
    assert found is not None and found.prefix == '' and found.layout.name == 'release'


def test_data2vec_and_other_names_of_the_trunk_s_module_are_read():
    theirs = BeitModel(BeitConfig(**NARROW, use_relative_position_bias=True)).state_dict()
    for prefix in ('', 'beit.', 'data2vec_vision.'):
        weights, _, unknown = find_beit({prefix + name: value for name, value in theirs.items()}).to_ours()
        assert not unknown and 'backbone.blocks.1.attn.qkv.weight' in weights


@pytest.mark.parametrize('grid', [(2, 2), (3, 5), (5, 3), (14, 14), (1, 4)])
def test_the_grid_is_read_off_the_index(grid):
    index = relative_position_index(grid)
    weights = {**RELEASE, 'blocks.0.attn.relative_position_index': index}
    assert rename_beit_weights(weights, 'file')['state_dict']['backbone.grid_size'].tolist() == list(grid)
    assert grid_of_index(index.float()).tolist() == list(grid), 'PASSL keeps a float one'


@pytest.mark.parametrize(
    'index',
    [
        torch.zeros(3),
        torch.zeros(2, 3),
        torch.zeros(5, 5),
        torch.zeros(1, 1),
        torch.arange(25).view(5, 5),
        relative_position_index((2, 3))[:6, :6],
    ],
)
def test_an_index_that_is_none_tells_no_grid(index):
    assert grid_of_index(index) is None
