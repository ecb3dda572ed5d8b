"""Parameter groups: one per layer and decay, every trainable parameter in exactly one."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmpretrain.models import ImageClassifier
from support import tiny
from support.recipes import meta_model
from torch import nn

from beit_mm.engine import LayerDecayOptimWrapperConstructor

HALF = dict(layer_decay_rate=0.5)
TRUNK = dict(img_size=32, embed_dim=32, depth=2, num_heads=4, use_abs_pos_emb=True, use_mask_token=True)


@DefaultScope.overwrite_default_scope('mmpretrain')
def classifier(**trunk) -> nn.Module:
    return ImageClassifier(
        dict(type='beit_mm.BEiT', **TRUNK, **trunk), head=dict(type='LinearClsHead', num_classes=5, in_channels=32)
    )


def groups_of(model, options=HALF) -> list[dict]:
    optimizer = dict(type='AdamW', lr=2.0, weight_decay=0.05)
    build = LayerDecayOptimWrapperConstructor(dict(type='OptimWrapper', optimizer=optimizer), options)
    return build(model).optimizer.param_groups


def group_of_every_name(model, *options) -> dict:
    """Name to group; fails if a trainable parameter is in no group, in two, or a frozen one in any."""
    members = [(id(parameter), group) for group in groups_of(model, *options) for parameter in group['params']]
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert sorted(key for key, _ in members) == sorted(id(p) for p in trainable.values())
    return {name: dict(members)[id(p)] for name, p in trainable.items()}


def test_every_layer_learns_slower_than_the_one_above_and_only_matrices_are_decayed():
    """Tokens and positions are no matrices, a prefix makes no difference."""
    model, options, seen = classifier(), dict(layer_decay_rate=0.65), set()
    above = {'cls_token': 3, 'pos_embed': 3, 'mask_token': 3, 'patch_embed': 3, 'blocks.0': 2, 'blocks.1': 1}
    above = {**{f'backbone.{name}': layers for name, layers in above.items()}, 'backbone.fc_norm': 0, 'head': 0}
    groups = group_of_every_name(model, options)
    for name, group in groups.items():
        (part,) = (part for part in above if name.startswith(part))
        seen.add(part)
        scale = 0.65 ** above[part]
        assert (group['lr_scale'], group['lr']) == (pytest.approx(scale), pytest.approx(2.0 * scale)), name
    assert seen == set(above)
    assert len(groups_of(model, options)) == 2 * 4
    decayed = {name for name, group in groups.items() if group['weight_decay']}
    assert {groups[name]['weight_decay'] for name in decayed} == {0.05}
    blocks = ['attn.qkv', 'attn.proj', 'attn.relative_position_bias_table', 'mlp.fc1', 'mlp.fc2']
    assert {name.removesuffix('.weight') for name in decayed} == {
        *('backbone.mask_token', 'backbone.patch_embed.proj', 'head.fc'),
        *(f'backbone.blocks.{index}.{name}' for index in range(2) for name in blocks),
    }


def test_a_segmentor_is_asked_through_its_backbone_and_all_above_it_learns_at_full_rate():
    model = meta_model('beit_segment.py')
    assert not hasattr(model, 'get_layer_depth')
    for name, group in group_of_every_name(model).items():
        part, _, rest = name.partition('.')
        layer = int(rest.split('.')[1]) + 1 if rest.startswith('blocks.') else 0
        assert group['lr_scale'] == (0.5 ** (13 - layer) if part == 'backbone' else 1), name
        assert part in {'backbone', 'neck', 'decode_head', 'auxiliary_head'}


@pytest.mark.parametrize('rate', [0.5, 1.0])
def test_custom_keys_multiply_the_rate_of_the_layer_and_replace_the_decay(rate):
    keys = {'head': dict(lr_mult=10), 'blocks.1.mlp': dict(lr_mult=0.1, decay_mult=0.5), 'blocks.1': dict(lr_mult=3)}
    keys |= {'relative_position_bias_table': dict(decay_mult=0.0), 'cls_token': dict(decay_mult=1.0)}
    model = classifier()
    groups, plain = (
        group_of_every_name(model, options)
        for options in (dict(layer_decay_rate=rate, custom_keys=keys), dict(layer_decay_rate=rate))
    )
    for name, group in groups.items():
        key = next((key for key in sorted(keys, key=len, reverse=True) if key in name), None)
        factors = keys.get(key, {})
        assert group['lr'] == pytest.approx(plain[name]['lr'] * factors.get('lr_mult', 1)), name
        decay = 0.05 * factors['decay_mult'] if 'decay_mult' in factors else plain[name]['weight_decay']
        assert group['weight_decay'] == pytest.approx(decay), name
    assert groups['head.fc.weight']['lr'] == 20.0 and groups['backbone.cls_token']['weight_decay'] == 0.05


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 2])
def test_frozen_stages_get_no_group_and_the_rest_keeps_its_rate(frozen_stages):
    expected, groups = (group_of_every_name(classifier(frozen_stages=stages)) for stages in (-1, frozen_stages))
    for name, group in groups.items():
        assert (group['lr'], group['weight_decay']) == (expected[name]['lr'], expected[name]['weight_decay']), name
    assert ('backbone.patch_embed.proj.weight' in groups) == (frozen_stages < 0)
    assert [f'backbone.blocks.{block}.attn.q_bias' in groups for block in (0, 1)] == [
        frozen_stages < 1,
        frozen_stages < 2,
    ]


def test_frozen_parameters_are_left_out():
    model = classifier()
    model.backbone.blocks[0].requires_grad_(False)
    assert not [name for name in group_of_every_name(model) if name.startswith('backbone.blocks.0')]
    groups = group_of_every_name(tiny.masked_image_model())
    assert {name.split('.')[0] for name in groups} == {'backbone', 'lm_head'}, 'no tokenizer'
    assert groups['lm_head.weight']['lr_scale'] == 1 and groups['backbone.mask_token']['lr_scale'] == 0.125


@pytest.mark.parametrize('build', [classifier, lambda: meta_model('beit_segment.py'), lambda: nn.Linear(3, 4)])
def test_without_layer_decay_there_are_two_groups_at_one_rate(build):
    model = build()
    for options in (dict(layer_decay_rate=1.0), None):
        group_of_every_name(model, options)
        groups = groups_of(model, options)
        assert sorted((group['weight_decay'], group['lr']) for group in groups) == [(0, 2), (0.05, 2)]
    shared = nn.ModuleDict(dict(first=nn.Linear(4, 4), second=nn.Linear(4, 4)))
    shared['second'].weight = shared['first'].weight
    assert len(group_of_every_name(shared, None)) == 3


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(custom_keys={}, bypass_duplicate=True), 'layer_decay_rate and custom_keys, got bypass_duplicate'),
        (dict(custom_keys=dict(bias=dict(lr=1))), 'custom_keys.bias takes lr_mult and decay_mult, got .*lr'),
        (dict(custom_keys=dict(bias=0.1)), 'custom_keys.bias takes lr_mult and decay_mult, got 0.1'),
        (dict(layer_decay_rate=0), 'layer_decay_rate must be over 0 and at most 1, got 0'),
        (dict(layer_decay_rate=1.5), 'layer_decay_rate must be over 0 and at most 1, got 1.5'),
        (dict(layer_decay_rate=0.5), 'layer_decay_rate=0.5 .*get_layer_depth, Linear has none'),
    ],
)
def test_another_key_a_rate_out_of_range_or_a_model_without_layers_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        groups_of(nn.Linear(3, 4), options)


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
    wrapper.update_params(sum(parameter.sum() for parameter in model.parameters()))  # all gradients are one
    for name, parameter in model.named_parameters():
        layer = model.backbone.get_layer_depth(name, 'backbone.')[0]
        torch.testing.assert_close(before[name] - parameter, torch.full_like(parameter, 0.5 ** (3 - layer)), msg=name)
