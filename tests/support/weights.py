"""Seeded weights of whole models under our names."""

import torch

from beit_mm.models import BEiT

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


def assert_equal(actual: dict, expected: dict) -> None:
    """The same names, types and numbers."""
    assert set(actual) == set(expected)
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype and torch.equal(actual[name], tensor), name
