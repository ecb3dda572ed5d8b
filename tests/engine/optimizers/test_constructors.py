"""Parameter groups: one per layer and decay, every trainable parameter in exactly one."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmpretrain.models import ImageClassifier
from mmseg.models import build_segmentor
from torch import nn

from beit_mm.engine import AutocastOptimWrapper, LayerDecayOptimWrapperConstructor
from beit_mm.models import BEiT, DiscreteVAE, MaskedImageModel, VisualTokens

TRUNK = dict(img_size=32, embed_dim=32, depth=2, num_heads=4, use_abs_pos_emb=True, use_mask_token=True)
NORM = dict(type='BN')


@DefaultScope.overwrite_default_scope('mmpretrain')
def classifier() -> nn.Module:
    return ImageClassifier(
        dict(type='beit_mm.BEiT', **TRUNK), head=dict(type='LinearClsHead', num_classes=5, in_channels=32)
    )


@pytest.fixture(scope='module')
@DefaultScope.overwrite_default_scope('mmseg')
def segmentor() -> nn.Module:
    return build_segmentor(
        dict(
            type='EncoderDecoder',
            backbone=dict(type='beit_mm.BEiT', **TRUNK, out_type='featmap', out_indices=[0, 1]),
            neck=dict(type='Feature2Pyramid', embed_dim=32, norm_cfg=NORM),
            decode_head=dict(
                type='beit_mm.UperNetHead',
                in_channels=[32] * 4,
                in_index=[0, 1, 2, 3],
                channels=8,
                num_classes=3,
                norm_cfg=NORM,
            ),
            auxiliary_head=dict(
                type='FCNHead',
                in_channels=32,
                in_index=2,
                channels=8,
                num_convs=1,
                concat_input=False,
                num_classes=3,
                norm_cfg=NORM,
            ),
            test_cfg=dict(mode='whole'),
        )
    )


def groups_of(model, rate=0.5, weight_decay=0.05):
    paramwise_cfg = None if rate is None else dict(layer_decay_rate=rate)
    return LayerDecayOptimWrapperConstructor(
        dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=2.0, weight_decay=weight_decay)), paramwise_cfg
    )(model).optimizer.param_groups


def group_of_every_name(model, groups) -> dict:
    """Name to group; fails if a trainable parameter is in no group, in two, or a frozen one in any."""
    places = {}
    for group in groups:
        for parameter in group['params']:
            assert id(parameter) not in places
            places[id(parameter)] = group
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert set(places) == {id(p) for p in trainable.values()}
    return {name: places[id(p)] for name, p in trainable.items()}


def test_tokens_and_positions_biases_and_vectors_are_not_decayed_under_a_prefix():
    model = classifier()
    found = group_of_every_name(model, groups_of(model))
    decayed = {name for name, group in found.items() if group['weight_decay']}
    assert {found[name]['weight_decay'] for name in decayed} == {0.05}
    blocks = [
        'attn.qkv.weight',
        'attn.proj.weight',
        'attn.relative_position_bias_table',
        'mlp.fc1.weight',
        'mlp.fc2.weight',
    ]
    assert decayed == {
        'backbone.mask_token',
        'backbone.patch_embed.proj.weight',
        'head.fc.weight',
        *(f'backbone.blocks.{index}.{name}' for index in range(2) for name in blocks),
    }
    for name in (
        'backbone.cls_token',
        'backbone.pos_embed',
        'backbone.blocks.0.gamma_1',
        'backbone.blocks.1.attn.q_bias',
        'backbone.fc_norm.weight',
        'head.fc.bias',
    ):
        assert found[name]['weight_decay'] == 0, name


@pytest.mark.parametrize('rate', [0.5, 0.65])
def test_every_layer_learns_slower_than_the_one_above(rate):
    model = classifier()
    scales = {
        'backbone.cls_token': 3,
        'backbone.pos_embed': 3,
        'backbone.mask_token': 3,
        'backbone.patch_embed': 3,
        'backbone.blocks.0': 2,
        'backbone.blocks.1': 1,
        'backbone.fc_norm': 0,
        'head': 0,
    }
    seen = set()
    for name, group in group_of_every_name(model, groups_of(model, rate)).items():
        (part,) = (part for part in scales if name.startswith(part))
        seen.add(part)
        assert group['lr_scale'] == pytest.approx(rate ** scales[part]), name
        assert group['lr'] == pytest.approx(2.0 * rate ** scales[part]), name
    assert seen == set(scales)


def test_there_is_one_group_per_layer_and_decay():
    groups = groups_of(classifier())
    assert len(groups) == len({(group['layer'], group['weight_decay']) for group in groups}) == 2 * 4


def test_a_segmentor_is_asked_through_its_backbone_and_all_above_it_learns_at_full_rate(segmentor):
    assert not hasattr(segmentor, 'get_layer_depth')
    found = group_of_every_name(segmentor, groups_of(segmentor))
    above = {name.split('.')[0] for name in found if not name.startswith('backbone.')}
    assert above == {'neck', 'decode_head', 'auxiliary_head'}
    for name, group in found.items():
        if name.startswith('backbone.blocks.'):
            assert group['lr_scale'] == 0.25 * 2 ** int(name.split('.')[2]), name
        else:
            assert group['lr_scale'] == (0.125 if name.startswith('backbone.') else 1), name
    assert found['backbone.cls_token']['weight_decay'] == 0


def test_frozen_parameters_are_left_out():
    model = classifier()
    model.backbone.patch_embed.requires_grad_(False)
    model.backbone.blocks[0].requires_grad_(False)
    found = group_of_every_name(model, groups_of(model))
    assert found and not [name for name in found if name.startswith(('backbone.patch_embed', 'backbone.blocks.0'))]


def test_the_tokenizer_of_a_pre_training_model_is_left_out():
    tokenizer = DiscreteVAE(vocab_size=16, n_hid=8, n_init=8, blocks_per_group=1)
    model = MaskedImageModel(BEiT(**TRUNK, out_type='raw'), VisualTokens(tokenizer))
    found = group_of_every_name(model, groups_of(model))
    assert {name.split('.')[0] for name in found} == {'backbone', 'lm_head'}
    assert found['lm_head.weight']['lr_scale'] == 1 and found['backbone.mask_token']['lr_scale'] == 0.125


@pytest.mark.parametrize('rate', [1.0, None])
def test_without_layer_decay_there_are_two_groups_at_one_rate(rate, segmentor):
    for model in (classifier(), segmentor, nn.Linear(3, 4)):
        groups = groups_of(model, rate)
        group_of_every_name(model, groups)
        assert sorted(group['weight_decay'] for group in groups) == [0, 0.05]
        assert {group['lr'] for group in groups} == {2.0}


def test_a_shared_parameter_is_in_one_group():
    model = nn.ModuleDict(dict(first=nn.Linear(4, 4), second=nn.Linear(4, 4)))
    model['second'].weight = model['first'].weight
    assert len(group_of_every_name(model, groups_of(model, 1.0))) == 3


def test_an_unknown_paramwise_key_is_refused_naming_it():
    with pytest.raises(ValueError, match='layer_decay_rate, got bypass_duplicate, custom_keys'):
        LayerDecayOptimWrapperConstructor(
            dict(optimizer=dict(type='AdamW', lr=1.0)),
            dict(layer_decay_rate=0.5, custom_keys={}, bypass_duplicate=True),
        )


@pytest.mark.parametrize('rate', [0, -0.5, 1.5, 65])
def test_a_rate_out_of_range_is_refused(rate):
    with pytest.raises(ValueError, match=f'layer_decay_rate must be over 0 and at most 1, got {rate}'):
        groups_of(classifier(), rate)


def test_layer_decay_without_layers_is_refused_naming_the_model():
    with pytest.raises(ValueError, match='layer_decay_rate=0.5 .*get_layer_depth, Linear has none'):
        groups_of(nn.Linear(3, 4))


def test_mmengine_builds_it_by_name_and_a_step_moves_each_layer_at_its_rate():
    model = classifier()
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    wrapper = build_optim_wrapper(
        model,
        dict(
            type='beit_mm.AutocastOptimWrapper',
            optimizer=dict(type='SGD', lr=1.0, weight_decay=0.0),
            constructor='beit_mm.LayerDecayOptimWrapperConstructor',
            paramwise_cfg=dict(layer_decay_rate=0.5),
        ),
    )
    assert isinstance(wrapper, AutocastOptimWrapper)
    wrapper.update_params(sum(parameter.sum() for parameter in model.parameters()))  # all gradients are one
    for name, parameter in model.named_parameters():
        layer = model.backbone.get_layer_depth(name, 'backbone.')[0]
        torch.testing.assert_close(before[name] - parameter, torch.full_like(parameter, 0.5 ** (3 - layer)), msg=name)
