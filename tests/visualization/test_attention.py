"""Attention maps: what the trunk's attention computes, for every kind of positions, size, layout and implementation."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BeitModel

from beit_mm.apis import load_model
from beit_mm.checkpoint.converting import convert
from beit_mm.datasets.images import resize_image
from beit_mm.models import BEiT
from beit_mm.models.backbones.layers import Attention
from beit_mm.models.backbones.relative_position import expand_bias, locate, relative_position_index
from beit_mm.models.weights import resize_position_embedding
from beit_mm.visualization import attention_maps, grid_points, point_attention_maps

TINY = dict(img_size=48, embed_dim=32, depth=3, num_heads=4)
POSITIONS = dict(
    per_block={},
    shared=dict(use_rel_pos_bias=False, use_shared_rel_pos_bias=True),
    both=dict(use_shared_rel_pos_bias=True),
    absolute=dict(use_rel_pos_bias=False, use_abs_pos_emb=True),
    all=dict(use_shared_rel_pos_bias=True, use_abs_pos_emb=True),
)
OPTIONS = {f'model.backbone.{key}': value for key, value in TINY.items()}


@torch.no_grad()
def draw(model: torch.nn.Module) -> torch.nn.Module:
    """Parameters that no two heads, blocks or offsets share."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def build(**options) -> BEiT:
    return draw(BEiT(**{**TINY, **options}))


def pixels(height: int, width: int) -> torch.Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def classifier():
    return draw(
        load_model(
            'configs/demo/finetune.py',
            device='cpu',
            options={**OPTIONS, 'model.head.in_channels': 32, 'model.backbone.init_cfg': None},
        )
    )


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)


# Probabilities of one attention


@pytest.mark.parametrize('qkv_bias', [True, False])
@pytest.mark.parametrize('grid', [None, (2, 3)], ids=['no position bias', 'position bias'])
@torch.no_grad()
def test_probabilities_times_values_are_what_the_forward_projects(grid, qkv_bias):
    attention = draw(Attention(32, 4, qkv_bias, bias_grid=grid))
    attention.proj = torch.nn.Identity()
    x = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(1))
    positions = locate((2, 3), (2, 3), x.dtype, x.device)
    probabilities = attention.probabilities(x, positions)
    assert probabilities.shape == (2, 4, 7, 7)
    torch.testing.assert_close(probabilities.sum(dim=3), torch.ones(2, 4, 7))
    values = F.linear(x, attention.qkv.weight[64:], attention.v_bias).unflatten(2, (4, 8)).transpose(1, 2)
    expected = (probabilities @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention(x, positions), expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_probabilities_are_float32_under_autocast():
    attention = draw(Attention(32, 4, bias_grid=(2, 3)))
    x = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(1))
    positions = locate((2, 3), (2, 3), x.dtype, x.device)
    expected = attention.probabilities(x, positions)
    with torch.autocast('cpu', torch.bfloat16):
        found = attention.probabilities(x, positions)
    assert found.dtype == torch.float32 and not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)
    torch.testing.assert_close(found.sum(dim=3), torch.ones(2, 4, 7))  # bfloat16 rows would be off by more


class Sizes(TorchDispatchMode):
    """How many entries the results of all operations have that are no views."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        if isinstance(result, torch.Tensor) and not func.is_view:
            self.largest = max(self.largest, result.numel())
        return result


@pytest.mark.parametrize('grid', [None, (9, 11)], ids=['no position bias', 'position bias'])
@torch.no_grad()
def test_probabilities_of_few_queries_are_rows_of_the_whole_which_is_never_made(grid):
    attention = draw(Attention(32, 4, bias_grid=grid))
    x, queries = torch.randn(8, 100, 32, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 7, 7])
    positions = locate((9, 11), (9, 11), x.dtype, x.device)
    with Sizes() as sizes:
        rows = attention.probabilities(x, positions, queries=queries)
    torch.testing.assert_close(rows, attention.probabilities(x, positions)[:, :, queries], rtol=1e-5, atol=1e-7)
    assert sizes.largest <= 8 * 100 * 3 * 32 < 8 * 4 * 100 * 100  # queries, keys and values; the whole matrix


# Maps of a trunk


def by_hand(trunk: BEiT, images: torch.Tensor, mask: torch.Tensor) -> list:
    """Every block's softmax(q k^T / sqrt(d) + bias), with biases read one by one from the resized tables."""
    grid = images.shape[2] // 16, images.shape[3] // 16
    index = relative_position_index(grid)
    x = trunk.patch_embed.proj(images).flatten(2).transpose(1, 2)
    x[mask.flatten(1)] = trunk.mask_token[0, 0]
    x = torch.cat([trunk.cls_token.expand(len(x), 1, 32), x], dim=1)
    if trunk.pos_embed is not None:
        x = x + resize_position_embedding(trunk.pos_embed, grid, trunk.grid)
    maps = []
    for block in trunk.blocks:
        bias = torch.zeros(4, len(index), len(index))
        for module in (block.attn, trunk.rel_pos_bias):
            table = getattr(module, 'relative_position_bias_table', None)
            if table is not None:
                bias += expand_bias(table, trunk.grid, grid)[index].permute(2, 0, 1)
        normed, attention = block.norm1(x), block.attn
        q, k, v = (normed @ attention.qkv.weight.t()).chunk(3, dim=2)
        q, v = q + attention.q_bias, v + attention.v_bias
        q, k, v = (each.unflatten(2, (4, 8)).transpose(1, 2) for each in (q, k, v))
        maps.append((q @ k.transpose(2, 3) / math.sqrt(8) + bias).softmax(dim=3))
        x = x + block.gamma_1 * attention.proj((maps[-1] @ v).transpose(1, 2).flatten(2))
        x = x + block.gamma_2 * block.mlp(block.norm2(x))
    return maps


@pytest.mark.parametrize('size', [(48, 48), (32, 64), (80, 48)])
@pytest.mark.parametrize('positions', POSITIONS)
@torch.no_grad()
def test_maps_are_those_computed_by_hand(positions, size):
    trunk = build(use_mask_token=True, **POSITIONS[positions])
    images, mask = pixels(*size), torch.zeros(2, size[0] // 16, size[1] // 16, dtype=torch.bool)
    mask[1, 0, 1] = mask[1, 1, 0] = True
    maps = attention_maps(trunk, images, [0, 1, 2], mask)
    torch.testing.assert_close(list(maps.values()), by_hand(trunk, images, mask), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('out_type', ['raw', 'cls_token', 'avg_featmap', 'featmap'])
def test_maps_do_not_depend_on_what_comes_out(out_type):
    trunk, other = build(), BEiT(**TINY, out_type=out_type, out_indices=[0])
    other.load_state_dict(trunk.state_dict(), strict=False)
    assert torch.equal(attention_maps(other, pixels(48, 48), [2])[2], attention_maps(trunk, pixels(48, 48), [2])[2])


def test_blocks_count_back_from_the_last_and_come_once_in_the_order_asked_for():
    trunk, images = build(), pixels(48, 48)
    maps = attention_maps(trunk, images, [-1, 0, 2])
    every = attention_maps(trunk, images, range(3))
    assert list(maps) == [2, 0] and all(torch.equal(maps[block], every[block]) for block in maps)
    assert not torch.allclose(every[0], every[2], atol=1e-3)


def test_the_trunk_is_left_as_it_was():
    trunk, images = build(drop_rate=0.5, drop_path_rate=0.5), pixels(48, 48)
    expected, maps = trunk(images)[0], attention_maps(trunk, images, [2])[2]
    trunk.train()
    trunk.blocks[0].eval()
    modes = [module.training for module in trunk.modules()]
    assert torch.equal(attention_maps(trunk, images, [2])[2], maps) and not maps.requires_grad
    with pytest.raises(ValueError, match='multiples of the patch size'):
        attention_maps(trunk, pixels(40, 48), [2])
    assert [module.training for module in trunk.modules()] == modes
    assert not any(module._forward_pre_hooks for module in trunk.modules())
    (output,) = trunk.eval()(images)
    assert torch.equal(output, expected) and output.requires_grad


def test_blocks_that_were_compiled_before_give_the_same_maps():
    trunk, images = build(depth=1), pixels(48, 48)
    expected = attention_maps(trunk, images, [0])[0]
    trunk.blocks[0].compile(backend='eager')
    with torch.no_grad():
        trunk(images)
    assert torch.equal(attention_maps(trunk, images, [0])[0], expected)


# Points of an image


@torch.no_grad()
def test_a_map_peaks_at_the_patch_of_its_point_when_every_patch_attends_to_itself(classifier):
    for block in classifier.backbone.blocks:
        block.attn.qkv.weight.zero_()
        block.attn.relative_position_bias_table.zero_()[12] = 9  # of 5 x 5 offsets, that of no distance
    points = [(0, 0), (89, 0), (95, 29), (100, 7), (199, 59)]
    maps = point_attention_maps(classifier, np.zeros((60, 200, 3), np.uint8), points, size=(32, 112))[2]
    assert maps.shape == (5, 4, 2, 7)
    for point, heads in zip(points, maps):
        column, row = point[0] * 7 // 200, point[1] * 2 // 60
        assert all(head.argmax() == row * 7 + column and head[row, column] > 0.99 for head in heads)


def test_maps_of_points_are_the_attention_of_what_the_model_sees_without_the_class_token(classifier, image):
    maps = point_attention_maps(classifier, image, [(7, 29), (49, 0)], blocks=[0, -1])
    assert list(maps) == [0, 2] and maps[0].shape == (2, 4, 3, 5)  # 30 x 50 to 48 x 80
    seen = torch.from_numpy(resize_image(image, (48, 80))).permute(2, 0, 1)
    inputs = classifier.data_preprocessor(dict(inputs=[seen], data_samples=None))['inputs']
    whole = attention_maps(classifier.backbone, inputs, [0, 2])
    for block in (0, 2):
        for point, token in enumerate((1 + 2 * 5 + 0, 1 + 4)):
            torch.testing.assert_close(maps[block][point].flatten(1), whole[block][0, :, token, 1:])
            torch.testing.assert_close(maps[block][point].sum(dim=(1, 2)), 1 - whole[block][0, :, token, 0])


def test_weights_of_another_layout_give_the_same_maps(classifier, image, tmp_path):
    torch.save(dict(state_dict=classifier.state_dict()), tmp_path / 'ours.pth')
    list(convert(str(tmp_path / 'ours.pth'), str(tmp_path / 'timm.pth'), 'timm'))
    converted = load_model(
        'configs/demo/finetune.py',
        tmp_path / 'timm.pth',
        'cpu',
        trunk_only=True,
        options={**OPTIONS, 'model.head.in_channels': 32},
    )
    maps = [point_attention_maps(model, image, [(20, 20)], [0, 1, 2]) for model in (classifier, converted)]
    assert all(torch.equal(maps[0][block], maps[1][block]) for block in range(3))


@torch.no_grad()
def test_maps_are_those_of_transformers(tmp_path):
    trunk = build()
    torch.save(trunk.state_dict(), tmp_path / 'ours.pth')
    list(convert(str(tmp_path / 'ours.pth'), str(tmp_path / 'theirs'), 'transformers'))
    peer = BeitModel.from_pretrained(tmp_path / 'theirs', attn_implementation='eager').eval()
    theirs = peer(pixels(48, 48), output_attentions=True).attentions
    ours = attention_maps(trunk, pixels(48, 48), range(3))
    torch.testing.assert_close(tuple(ours.values()), tuple(theirs), rtol=0, atol=1e-5)


@pytest.mark.parametrize('point', [(50, 3), (3, 30), (-1, 3), (3, -1)])
def test_a_point_outside_of_the_image_is_refused(point, classifier, image):
    with pytest.raises(
        ValueError,
        match=r'a point must be in the image, x from 0 to 49 and y from 0 to 29, '
        rf'got {point[0]},{point[1]}',
    ):
        point_attention_maps(classifier, image, [(0, 0), point])


def test_a_model_without_a_beit_and_a_size_that_does_not_fit_are_refused(classifier, image):
    with pytest.raises(ValueError, match='must be multiples of the patch size 16, got 48 x 50'):
        point_attention_maps(classifier, image, [(0, 0)], size=(48, 50))
    with pytest.raises(ValueError, match='need a model with a BEiT as backbone, got BEiT'):
        point_attention_maps(classifier.backbone, image, [(0, 0)])
    classifier.backbone = torch.nn.Identity()
    with pytest.raises(ValueError, match='need a model with a BEiT as backbone, got ImageClassifier with Identity'):
        point_attention_maps(classifier, image, [(0, 0)])


def test_a_grid_of_points_lies_in_the_middle_of_its_cells():
    assert grid_points((60, 90), 2, 3) == [(15, 15), (45, 15), (75, 15), (15, 45), (45, 45), (75, 45)]
    assert grid_points((1, 1), 2, 2) == [(0, 0)] * 4
    with pytest.raises(ValueError, match='at least one row and one column, got 2 x 0'):
        grid_points((60, 90), 2, 0)
