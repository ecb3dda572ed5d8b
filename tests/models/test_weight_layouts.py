"""Names there and back, for every layout and every kind of model."""

import pytest
import torch

from beit_mm.models import BEiT
from beit_mm.models.weight_layouts import LAYOUTS, task_of

WIDTH = dict(img_size=32, embed_dim=32, depth=3, num_heads=2)


def weights_of(kind: str) -> dict:
    """Seeded weights of a whole model under our names."""
    generator = torch.Generator().manual_seed(0)
    options = (
        dict(use_mask_token=True, use_rel_pos_bias=False, use_shared_rel_pos_bias=True, out_type='raw')
        if kind == 'pretrain'
        else dict(out_type='featmap')
        if kind == 'segment'
        else {}
    )
    weights = {f'backbone.{name}': tensor for name, tensor in BEiT(**WIDTH, **options).state_dict().items()}
    shapes = {
        'pretrain': {'lm_head.weight': (16, 32), 'lm_head.bias': (16, )},
        'classify': {'head.fc.weight': (5, 32), 'head.fc.bias': (5, )},
        'segment': {'neck.upsample_4x.0.weight': (32, 32, 2, 2), 'neck.upsample_4x.1.running_mean': (32, ),
                    'neck.upsample_2x.0.bias': (32, ), 'decode_head.psp_modules.2.1.conv.weight': (32, 32, 1, 1),
                    'decode_head.lateral_convs.1.bn.weight': (32, ), 'decode_head.conv_seg.weight': (4, 32, 1, 1),
                    'auxiliary_head.convs.0.conv.weight': (8, 32, 3, 3),
                    'auxiliary_head.conv_seg.bias': (4, )},
        'trunk': {}}[kind]  # yapf: disable
    weights.update({name: torch.empty(shape) for name, shape in shapes.items()})
    return {
        name: torch.randn(tensor.shape, generator=generator)
        for name, tensor in weights.items()
        if name != 'backbone.grid_size'
    }


def assert_equal(actual: dict, expected: dict) -> None:
    assert set(actual) == set(expected)
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype and torch.equal(actual[name], tensor), name


CASES = [
    (layout, kind)
    for layout in LAYOUTS.values()
    for kind in layout.tasks
    if layout.name != 'timm' or kind in ('classify', 'trunk')
]


@pytest.mark.parametrize('layout, kind', CASES, ids=lambda value: getattr(value, 'name', value))
def test_there_and_back_is_the_start(layout, kind):
    weights = weights_of(kind)
    assert task_of(weights) == kind
    theirs, moves, unknown = layout.from_ours(weights, kind)
    assert not unknown
    assert {ours for _, ours in moves} == set(weights) and {name for name, _ in moves} == set(theirs)
    prefix = '' if kind in layout.without_prefix else layout.trunk_prefix
    back, moves, unknown = layout.to_ours(theirs, prefix)
    assert not unknown
    assert_equal(back, weights)
    assert {ours for _, ours in moves} == set(weights)


@pytest.mark.parametrize('layout, kind', CASES, ids=lambda value: getattr(value, 'name', value))
def test_the_prefix_of_the_trunk_may_be_any(layout, kind):
    theirs, _, _ = layout.from_ours(weights_of(kind), kind)
    prefix = '' if kind in layout.without_prefix else layout.trunk_prefix
    back, _, unknown = layout.to_ours({f'module.{name}': tensor for name, tensor in theirs.items()}, f'module.{prefix}')
    assert not unknown
    assert_equal(back, weights_of(kind))


def test_names_that_are_not_known_are_told():
    back, _, unknown = LAYOUTS['release'].to_ours({'cls_token': torch.zeros(1), 'stem.weight': torch.zeros(1)}, '')
    assert set(back) == {'backbone.cls_token'} and unknown == ['stem.weight']


def test_q_k_and_v_are_thirds_in_this_order():
    weights = {'backbone.blocks.0.attn.qkv.weight': torch.arange(6.0).view(6, 1).expand(6, 2)}
    theirs, _, _ = LAYOUTS['transformers'].from_ours(weights, 'trunk')
    assert {name.split('.')[-2]: tensor[:, 0].tolist() for name, tensor in theirs.items()} == dict(
        query=[0, 1], key=[2, 3], value=[4, 5]
    )


def test_a_missing_key_projection_is_an_error():
    theirs, _, _ = LAYOUTS['transformers'].from_ours(weights_of('trunk'), 'trunk')
    del theirs['encoder.layer.1.attention.attention.key.weight']
    with pytest.raises(ValueError, match='q, k and v must be three tensors of the same shape'):
        LAYOUTS['transformers'].to_ours(theirs, '')


def test_linear_weights_of_paddle_are_in_by_out():
    weights = weights_of('classify')
    theirs, _, _ = LAYOUTS['passl'].from_ours(weights, 'classify')
    assert theirs['backbone.blocks.0.attn.qkv.weight'].shape == (32, 96)
    assert theirs['head.fc_cls.weight'].shape == (32, 5)
    table = 'backbone.blocks.0.attn.relative_position_bias_table'
    assert torch.equal(theirs[table], weights[table]), 'a table is no linear layer'
