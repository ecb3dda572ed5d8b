"""Finding BEiT's weights wherever they are in a file; files of other models pass unchanged."""

import copy

import pytest
import timm
import torch
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from transformers import BeitConfig, BeitModel, Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from beit_mm.checkpoint.mapping import find_beit, rename_beit_weights
from beit_mm.models import BEiT
from beit_mm.models.backbones.relative_position import grid_of_index, relative_position_index
from beit_mm.models.weight_layouts import LAYOUTS

NARROW = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32)
OURS = {
    f'backbone.{name}': tensor
    for name, tensor in BEiT(img_size=32, embed_dim=32, depth=2, num_heads=2).state_dict().items()
    if name != 'grid_size'
}
OURS.update({'head.fc.weight': torch.ones(5, 32), 'head.fc.bias': torch.ones(5)})
RELEASE = LAYOUTS['release'].from_ours(OURS, 'classify')[0]


def renamed(content: dict) -> dict:
    return rename_beit_weights(content, 'file')


def assert_same(weights: dict, expected: dict = OURS) -> None:
    assert set(weights) == set(expected)
    assert all(weights[name] is tensor or torch.equal(weights[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize('prefix', ['', 'module.', 'model.', '_orig_mod.', 'module.encoder.', 'student.backbone.'])
@pytest.mark.parametrize('layout', ['release', 'timm', 'transformers', 'passl', 'beit_mm'])
def test_any_prefix(layout, prefix):
    theirs, _, _ = LAYOUTS[layout].from_ours(OURS, 'classify')
    assert_same(renamed({prefix + name: tensor for name, tensor in theirs.items()}).get('state_dict', theirs))


@pytest.mark.parametrize(
    'keys', 'model module state_dict model_ema state_dict_ema ema ema_state_dict model.state_dict'.split()
)
def test_any_wrapper(keys):
    content = dict(RELEASE)
    for key in reversed(keys.split('.')):
        content = {key: content, 'epoch': 3, 'optimizer': dict(state={0: dict(step=torch.ones(1))})}
    result = renamed(content)
    assert_same(result['state_dict'])
    assert isinstance(result.get('meta', {}), dict)


def test_weights_of_the_last_step_are_preferred_to_averaged_ones():
    averaged = {key: torch.ones(2) for key in RELEASE}
    assert_same(renamed(dict(model_ema=averaged, model=RELEASE))['state_dict'])


def test_unknown_weights_keep_their_names():
    steps = {'steps': torch.tensor(3)}
    assert_same(renamed({**RELEASE, **steps})['state_dict'], {**OURS, **steps})


def test_our_own_checkpoint_is_returned_as_it_is():
    content = dict(state_dict=dict(OURS), meta=dict(epoch=1), optimizer={}, message_hub={})
    assert renamed(content) is content
    assert_same(renamed(dict(OURS))['state_dict'])
    assert renamed(dict(OURS))['meta'] == {}  # which MMSegmentation's init_model asks every file for


def test_a_run_under_a_wrapper_keeps_what_resuming_needs():
    run = dict(meta=dict(epoch=1), optimizer=dict(state={}), message_hub={}, param_schedulers=[])
    result = renamed(dict(run, state_dict={f'module.{name}': tensor for name, tensor in OURS.items()}))
    assert_same(result.pop('state_dict'))
    assert result == run


def test_a_host_s_checkpoint_keeps_its_names_for_the_host():
    """MMPretrain's BEiTViT loads and resumes its own files in a process that has imported beit_mm."""
    theirs, _, _ = LAYOUTS['mmpretrain'].from_ours(OURS, 'classify')
    content = dict(state_dict=theirs, meta=dict(epoch=1), optimizer={})
    assert renamed(content) is content
    assert_same(renamed({f'module.{name}': tensor for name, tensor in theirs.items()})['state_dict'], theirs)


@DefaultScope.overwrite_default_scope('mmpretrain')
def vision_transformer_of_mmpretrain() -> torch.nn.Module:
    arch = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
    return MODELS.build(dict(type='VisionTransformer', img_size=32, arch=arch))


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
}


@pytest.mark.parametrize('name', OTHER_MODELS)
def test_other_models_pass_unchanged(name):
    weights = {f'backbone.{key}': tensor for key, tensor in OTHER_MODELS[name]().state_dict().items()}
    for content in (weights, dict(model=weights, epoch=1), dict(state_dict=weights, meta={})):
        assert renamed(content) is content


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
def test_content_without_a_model_passes_unchanged(content):
    before = copy.copy(content)
    assert renamed(content) is content and content == before


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
    weights = renamed({**RELEASE, 'blocks.0.attn.relative_position_index': index})['state_dict']
    assert weights['backbone.grid_size'].tolist() == list(grid)
    assert grid_of_index(index.float()).tolist() == list(grid), 'PASSL keeps a float index'


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
def test_other_indices_have_no_grid(index):
    assert grid_of_index(index) is None
