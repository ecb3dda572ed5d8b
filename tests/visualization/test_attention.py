"""Attention maps: what the trunk's attention computes, for every kind of positions, size and implementation."""

import math
from io import BytesIO

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BeitModel

from beit_mm.apis import load_model
from beit_mm.checkpoint.converting import convert
from beit_mm.datasets.images import resize_image
from beit_mm.models import BEiT
from beit_mm.models.backbones.layers import Attention
from beit_mm.models.backbones.relative_position import expand_bias, locate, relative_position_index
from beit_mm.models.weights import resize_position_embedding
from beit_mm.visualization import attention_figure, attention_maps, grid_points, point_attention_maps

TINY = dict(img_size=48, embed_dim=32, depth=3, num_heads=4)
# Kinds of positions, each with another output of the trunk.
POSITIONS = dict(
    per_block=dict(qkv_bias=False, out_indices=[0]),
    shared=dict(use_rel_pos_bias=False, use_shared_rel_pos_bias=True, out_type='raw'),
    both=dict(use_shared_rel_pos_bias=True, out_type='cls_token'),
    absolute=dict(use_rel_pos_bias=False, use_abs_pos_emb=True, out_type='avg_featmap'),
    all=dict(use_shared_rel_pos_bias=True, use_abs_pos_emb=True, out_type='featmap'),
)


@torch.no_grad()
def randomize(model: torch.nn.Module) -> torch.nn.Module:
    """Give every head, block and offset parameters of its own."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def build(**options) -> BEiT:
    return randomize(BEiT(**{**TINY, **options}))


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def classifier():
    options = {f'model.backbone.{key}': value for key, value in TINY.items()}
    options |= {'model.head.in_channels': 32, 'model.backbone.init_cfg': None}
    return randomize(load_model('configs/demo/finetune.py', device='cpu', options=options))


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)


class LargestResult(TorchDispatchMode):
    """The most entries that a result of any operation has, views excluded."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        if isinstance(result, torch.Tensor) and not func.is_view:
            self.size = max(self.size, result.numel())
        return result


@pytest.mark.parametrize('grid', [None, (9, 11)], ids=['no position bias', 'position bias'])
@torch.no_grad()
def test_few_queries_give_rows_of_the_matrix_without_making_it_in_float32_under_autocast(grid):
    attention, x, queries = randomize(Attention(32, 4, bias_grid=grid)), normal(8, 100, 32), torch.tensor([0, 7, 7])
    positions = locate((9, 11), (9, 11), x.dtype, x.device)
    with LargestResult() as largest:
        rows = attention.probabilities(x, positions, queries=queries)
    whole = attention.probabilities(x, positions)
    torch.testing.assert_close(rows, whole[:, :, queries], rtol=1e-5, atol=1e-7)
    assert largest.size <= 8 * 100 * 3 * 32 < 8 * 4 * 100 * 100  # queries, keys and values; the whole matrix
    with torch.autocast('cpu', torch.bfloat16):
        under_autocast = attention.probabilities(x, positions)
    assert under_autocast.dtype == torch.float32 and not torch.equal(under_autocast, whole)
    torch.testing.assert_close(under_autocast, whole, rtol=0, atol=0.02)
    torch.testing.assert_close(under_autocast.sum(dim=3), torch.ones(8, 4, 100))  # bfloat16 rows would be off by more


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
        if attention.q_bias is not None:
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
    images, mask = normal(2, 3, *size), torch.zeros(2, size[0] // 16, size[1] // 16, dtype=torch.bool)
    mask[1, 0, 1] = mask[1, 1, 0] = True
    maps = attention_maps(trunk, images, [0, 1, 2], mask)
    torch.testing.assert_close(list(maps.values()), by_hand(trunk, images, mask), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_maps_are_those_of_transformers(tmp_path):
    trunk, images = build(), normal(2, 3, 48, 48)
    torch.save(trunk.state_dict(), tmp_path / 'ours.pth')
    list(convert(str(tmp_path / 'ours.pth'), str(tmp_path / 'theirs'), 'transformers'))
    peer = BeitModel.from_pretrained(tmp_path / 'theirs', attn_implementation='eager').eval()
    theirs = peer(images, output_attentions=True).attentions
    ours = attention_maps(trunk, images, range(3))
    torch.testing.assert_close(tuple(ours.values()), tuple(theirs), rtol=0, atol=1e-5)


def test_blocks_come_once_in_their_order_and_the_trunk_is_left_as_it_was():
    trunk, images = build(drop_rate=0.5, drop_path_rate=0.5), normal(2, 3, 48, 48)
    expected, every = trunk(images)[0], attention_maps(trunk, images, range(3))
    assert not torch.allclose(every[0], every[2], atol=1e-3)
    trunk.train()
    trunk.blocks[0].eval()
    modes = [module.training for module in trunk.modules()]
    maps = attention_maps(trunk, images, [-1, 0, 2])
    assert list(maps) == [2, 0] and all(torch.equal(maps[block], every[block]) for block in maps)
    assert not maps[2].requires_grad
    with pytest.raises(ValueError, match='multiples of the patch size'):
        attention_maps(trunk, normal(2, 3, 40, 48), [2])
    assert [module.training for module in trunk.modules()] == modes
    assert not any(module._forward_pre_hooks for module in trunk.modules())
    (output,) = trunk.eval()(images)
    assert torch.equal(output, expected) and output.requires_grad
    for block in trunk.blocks:  # compiled before, they may not see new hooks
        block.compile(backend='eager')
    with torch.no_grad():
        trunk(images)
    assert torch.equal(attention_maps(trunk, images, [0])[0], every[0])


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


def test_maps_of_points_are_rows_for_the_model_s_input_without_the_class_token(classifier, image):
    maps = point_attention_maps(classifier, image, [(7, 29), (49, 0)], blocks=[0, -1])
    assert list(maps) == [0, 2] and maps[0].shape == (2, 4, 3, 5)  # 30 x 50 to 48 x 80
    resized = torch.from_numpy(resize_image(image, (48, 80))).permute(2, 0, 1)
    inputs = classifier.data_preprocessor(dict(inputs=[resized], data_samples=None))['inputs']
    whole = attention_maps(classifier.backbone, inputs, [0, 2])
    for block in (0, 2):
        for point, token in enumerate((1 + 2 * 5 + 0, 1 + 4)):
            torch.testing.assert_close(maps[block][point].flatten(1), whole[block][0, :, token, 1:])


def test_points_lie_in_the_middle_of_a_grid_s_cells_and_must_be_in_the_image(classifier, image):
    assert grid_points((60, 90), 2, 3) == [(15, 15), (45, 15), (75, 15), (15, 45), (45, 45), (75, 45)]
    assert grid_points((1, 1), 2, 2) == [(0, 0)] * 4
    with pytest.raises(ValueError, match='at least one row and one column, got 2 x 0'):
        grid_points((60, 90), 2, 0)
    for x, y in ((50, 3), (3, 30), (-1, 3), (3, -1)):
        with pytest.raises(ValueError, match=f'in the image, x from 0 to 49 and y from 0 to 29, got {x},{y}'):
            point_attention_maps(classifier, image, [(0, 0), (x, y)])
    with pytest.raises(ValueError, match='must be multiples of the patch size 16, got 48 x 50'):
        point_attention_maps(classifier, image, [(0, 0)], size=(48, 50))
    classifier.backbone = torch.nn.Identity()
    with pytest.raises(ValueError, match='need a model with a BEiT as backbone, got ImageClassifier with Identity'):
        point_attention_maps(classifier, image, [(0, 0)])


# The figure

ONE_PATCH = torch.zeros(1, 2, 4, 6)
ONE_PATCH[:, :, 2, 4] = 0.5  # with its center at 3/4 of the width and 5/8 of the height


def pictures(figure) -> list:
    """The rendered pictures of the first row as arrays, without what is around them."""
    file = BytesIO()
    figure.savefig(file, format='png')
    sheet = np.asarray(Image.open(file).convert('RGB')).astype(int)
    boxes = [axis.get_window_extent() for axis in figure.axes]
    height = len(sheet)
    return [sheet[round(height - b.y1) : round(height - b.y0), round(b.x0) : round(b.x1)] for b in boxes]


def center(mask: np.ndarray) -> np.ndarray:
    """Mean (x, y) of the True pixels as a share of width and height."""
    rows, columns = mask.nonzero()
    return np.array([columns.mean() + 0.5, rows.mean() + 0.5]) / mask.shape[::-1]


@pytest.mark.parametrize('size, kept', [((60, 90), (60, 90)), ((2000, 3000), (533, 800))])
def test_the_marker_and_the_map_lie_where_the_point_is_and_the_ratio_and_colors_are_kept(size, kept):
    height, width = size
    image = np.full((*size, 3), (200, 0, 0), dtype=np.uint8)  # blue, as images are read in BGR
    figure = attention_figure(image, [(width * 8 // 9, height // 6)], {11: ONE_PATCH})
    assert figure.axes[0].images[0].get_array().shape == (*kept, 3)  # a large image is reduced
    first, second = pictures(figure)
    for picture in (first, second):
        assert picture.shape[1] / picture.shape[0] == pytest.approx(1.5, rel=0.02)
    red = (first[..., 0] > 200) & (first[..., 1:].max(axis=2) < 60)
    cyan = (second[..., 0] < 90) & (second[..., 1:].min(axis=2) > 200)
    for marker in (red, cyan):
        assert np.allclose(center(marker), [(width * 8 // 9 + 0.5) / width, (height // 6 + 0.5) / height], atol=0.01)
    bright = second.sum(axis=2) > 300  # the light end of the color map, which the patch's center has
    assert np.allclose(center(bright & ~cyan), [3 / 4, 5 / 8], atol=0.02)
    assert second[:10, :10].mean() < 60 and np.allclose(first[-10:, :10], [0, 0, 200])


def test_columns_are_the_mean_and_the_chosen_heads_of_every_block(image):
    maps = {block: torch.rand(3, 4, 2, 3, generator=torch.Generator().manual_seed(block)) for block in (2, 0)}
    maps[0][0, 1] = torch.tensor([1e-9, 0.001234, 0.25]).repeat(2, 1)
    points = [(1, 2), (3, 4), (49, 29)]
    axes = np.array(attention_figure(image, points, maps, heads=[3, 1]).axes).reshape(3, 7)
    names = [f'block {block}\n{name}' for block in (2, 0) for name in ('mean of heads', 'head 3', 'head 1')]
    assert [axis.get_title() for axis in axes[0]] == ['point', *names]
    for row, (x, y) in enumerate(points):
        assert axes[row, 0].get_xlabel() == f'x {x}, y {y}'
        expected = [part for block in (2, 0) for part in (maps[block][row].mean(dim=0), *maps[block][row, [3, 1]])]
        assert np.allclose([axis.images[1].get_array() for axis in axes[row, 1:]], torch.stack(expected))
    assert axes[0, 6].get_xlabel() == '0 to 0.25'
    with pytest.raises(ValueError, match='a head must be 0 to 1, got -1'):
        attention_figure(image, [(0, 0)], {11: ONE_PATCH}, heads=[0, -1])


def test_texts_do_not_overlap_below_narrow_pictures():
    maps = {23: ONE_PATCH.expand(2, -1, -1, -1)}
    figure = attention_figure(np.zeros((400, 20, 3), np.uint8), [(1, 2)] * 2, maps, heads=[0, 1])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = [text for axis in figure.axes for text in (axis.title, axis.xaxis.label) if text.get_text()]
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in texts]
    assert len(boxes) == 4 + 8
    for number, box in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:number])
