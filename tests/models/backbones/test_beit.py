"""The trunk: any image size, every output, position biases, masks, initialisation and names."""

import math

import pytest
import torch
from support.tiny import pixels, PRE_TRAINING, SHARED, trunk
from torch import nn
from torch.nn import functional as F

from beit_mm.models import BEiT
from beit_mm.models.backbones.layers import Attention, Block, Mlp
from beit_mm.models.backbones.relative_position import locate, num_table_rows, Positions, relative_position_index

TINY = dict(img_size=64, embed_dim=32, depth=2, num_heads=4)
BIASES = pytest.mark.parametrize('bias', [{}, SHARED], ids=['per block', 'shared'])


def positions(height: int, width: int) -> Positions:
    """Of a grid that the tables were made for."""
    return locate((height, width), (height, width), torch.float32, torch.device('cpu'))


# Image sizes


@pytest.mark.parametrize('size', [(64, 64), (16, 64), (96, 48)])
@BIASES
def test_any_multiple_of_the_patch_is_accepted_with_a_mask_and_without(size, bias):
    model = trunk(use_mask_token=True, out_type='raw', use_abs_pos_emb=True, **bias)
    grid = size[0] // 16, size[1] // 16
    mask = torch.zeros(2, *grid, dtype=torch.bool)
    mask[0, -1, -1] = True
    x = pixels(*size)
    (whole,), (masked,) = model(x), model(x, mask)
    for output in (whole, masked):
        assert output.shape == (2, 1 + grid[0] * grid[1], 32) and output.isfinite().all()
    assert not torch.allclose(masked[0], whole[0], atol=1e-3)
    torch.testing.assert_close(masked[1], whole[1])
    assert torch.equal(model(x, mask.flatten(1))[0], masked), 'a mask may be a grid or its rows one after another'
    assert torch.equal(model.eval()(x, mask)[0], masked), 'without dropout the modes agree'


@pytest.mark.parametrize('size', [(96, 96), (48, 112)])
@pytest.mark.parametrize('use_abs_pos_emb', [False, True], ids=['relative', 'relative and absolute'])
@BIASES
def test_resizing_in_the_forward_equals_set_grid_and_weights_loaded_into_a_trunk_of_that_size(
    size, use_abs_pos_emb, bias
):
    options = dict(bias, use_abs_pos_emb=use_abs_pos_emb, out_type='raw')
    model, built_for_size = trunk(**options), BEiT(**{**TINY, 'img_size': size, **options})
    built_for_size.load_state_dict(model.state_dict(), strict=True)
    x, grid = pixels(*size), (size[0] // 16, size[1] // 16)
    (output,) = model(x)
    torch.testing.assert_close(output, built_for_size(x)[0], rtol=1e-4, atol=1e-4)
    model.set_grid(grid)
    assert model.grid == grid and model.grid_size.tolist() == list(grid)
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == {
        name: tensor.shape for name, tensor in built_for_size.state_dict().items()
    }
    torch.testing.assert_close(model(x)[0], output, rtol=0, atol=1e-5)


@BIASES
def test_gradients_reach_the_bias_tables_at_another_size(bias):
    model = trunk(use_abs_pos_emb=True, **bias).double()
    x, weight = pixels(80, 48).double(), torch.randn(2, 32, dtype=torch.float64)
    (model(x)[0] * weight).sum().backward()
    tables = {name: p for name, p in model.named_parameters() if 'table' in name}
    assert len(tables) == (1 if bias else 2)
    for name, table in tables.items():
        direction, losses = torch.randn_like(table), []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                table.add_(step * direction)
                losses.append((model(x)[0] * weight).sum().item())
                table.sub_(step * direction)
        slope = (losses[0] - losses[1]) / 2e-5
        assert table.grad.abs().sum() > 0.1, name
        assert (table.grad * direction).sum().item() == pytest.approx(slope, rel=1e-5, abs=1e-7), name
    assert model.pos_embed.grad.abs().amax(dim=(0, 2)).min() > 0


@pytest.mark.parametrize('size', [(70, 64), (64, 70), (8, 64)])
def test_an_image_that_the_patch_does_not_divide_is_refused_naming_both(size):
    for call in (lambda: trunk()(pixels(*size)), lambda: trunk(img_size=size)):
        with pytest.raises(ValueError, match=f'multiples of the patch size 16, got {size[0]} x {size[1]}'):
            call()


@pytest.mark.parametrize(
    'options, message',
    [
        *((dict(out_indices=indices), 'depth 2') for indices in (2, -3, (0, 2), ())),
        (dict(out_type='pooled'), "raw, cls_token, avg_featmap, featmap, got 'pooled'"),
        (dict(num_heads=5), '5 and 32'),
        *((dict(frozen_stages=n), f'frozen_stages must be -1 to 2, .* got {n}') for n in (-2, 3)),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        trunk(**options)


# Outputs


def test_out_indices_choose_the_outputs_in_their_order():
    x = pixels(48, 64)
    first, last = trunk(out_type='featmap', out_indices=(0, 1))(x)
    for indices, expected in (
        (-1, [last]),
        ([0], [first]),
        ((-2, -1), [first, last]),
        ((1, 0, 0), [last, first, first]),
    ):
        outputs = trunk(out_type='featmap', out_indices=indices)(x)
        assert isinstance(outputs, tuple) and len(outputs) == len(expected)
        assert all(torch.equal(*pair) for pair in zip(outputs, expected))


def test_out_types_are_views_of_the_same_tokens_with_the_norm_on_the_last_only():
    x, featmap = pixels(48, 64), trunk(out_type='featmap', out_indices=(0, 1))
    inner, last = featmap(x)
    outputs = []
    for out_type in ('raw', 'cls_token', 'avg_featmap'):
        model = BEiT(**TINY, out_type=out_type, out_indices=(0, 1))
        model.load_state_dict(featmap.state_dict(), strict=False)  # norms stay at one and zero
        outputs.append(model(x))
    raw, class_token, mean = outputs

    def norm(values):
        return F.layer_norm(values, (32,), eps=1e-6)

    torch.testing.assert_close(raw[0][:, 1:].transpose(1, 2).reshape(2, 32, 3, 4), inner)
    torch.testing.assert_close(raw[1][:, 1:], norm(last.flatten(2).transpose(1, 2)))
    torch.testing.assert_close(class_token, tuple(tokens[:, 0] for tokens in raw))
    torch.testing.assert_close(mean, (inner.mean(dim=(2, 3)), norm(last.mean(dim=(2, 3)))))


# Masks


@pytest.mark.parametrize('shape', [(2, 5, 4), (3, 4, 4), (2, 15), (16,)])
def test_a_mask_of_another_grid_is_refused_naming_both(shape):
    with pytest.raises(ValueError, match=r'mask must be \(2, 4, 4\) to fit the images, got \(' + str(shape[0])):
        trunk(**PRE_TRAINING)(pixels(64, 64), torch.zeros(shape, dtype=torch.bool))


def test_a_mask_without_a_mask_token_is_refused():
    with pytest.raises(ValueError, match='use_mask_token=True'):
        trunk()(pixels(64, 64), torch.zeros(2, 4, 4, dtype=torch.bool))


def test_mask_tokens_are_put_before_absolute_positions_are_added():
    model = trunk(use_abs_pos_emb=True, **PRE_TRAINING)
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    mask = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.4
    x = pixels(64, 64)
    model(x, mask)
    patches = model.patch_embed.proj(x).flatten(2).transpose(1, 2)
    for image in range(2):
        torch.testing.assert_close(seen[0][image, 0], model.cls_token[0, 0] + model.pos_embed[0, 0])
        for place, masked in enumerate(mask[image].flatten().tolist()):
            token = model.mask_token[0, 0] if masked else patches[image, place]
            torch.testing.assert_close(seen[0][image, 1 + place], token + model.pos_embed[0, 1 + place])


# Relative position bias


def brute_force_bias(table: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(heads, N, N) pair by pair: rows of the table run over row offsets, then column offsets, query minus key; the
    last three are class-to-patch, patch-to-class and class-to-class (released code).
    """
    bias = torch.empty(table.shape[1], 1 + height * width, 1 + height * width)
    for query in range(-1, height * width):
        for key in range(-1, height * width):
            if query < 0 or key < 0:
                row = {(True, False): -3, (False, True): -2, (True, True): -1}[query < 0, key < 0]
            else:
                row_offset = query // width - key // width + height - 1
                column_offset = query % width - key % width + width - 1
                row = row_offset * (2 * width - 1) + column_offset
            bias[:, query + 1, key + 1] = table[row]
    return bias


@pytest.mark.parametrize('grid', [(2, 3), (3, 2), (1, 4)])
def test_every_pair_of_tokens_reads_its_row_of_the_table(grid):
    table = torch.arange(num_table_rows(grid)).float()[:, None]
    assert torch.equal(relative_position_index(grid).float(), brute_force_bias(table, *grid)[0])


@pytest.mark.parametrize('kind', ['own', 'shared', 'both'])
def test_attention_adds_the_bias_of_a_grid_that_is_not_square_to_the_logits(kind):
    height, width, heads = 2, 3, 4
    torch.manual_seed(0)
    attention = Attention(32, heads, bias_grid=None if kind == 'shared' else (height, width))
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.3)
    bias = torch.zeros(heads, 7, 7)
    shared = None
    if kind != 'shared':
        bias = bias + brute_force_bias(attention.relative_position_bias_table, height, width)
    if kind != 'own':
        shared = torch.randn(1, heads, 7, 8)  # rows of a multiple of 8
        bias = bias + shared[0, :, :, :7]
    x = torch.randn(2, 7, 32)
    q, k, v = (x @ attention.qkv.weight.t()).chunk(3, dim=2)
    q, v = q + attention.q_bias, v + attention.v_bias
    q, k, v = (t.unflatten(2, (heads, 8)).transpose(1, 2) for t in (q, k, v))
    weights = (q @ k.transpose(2, 3) / math.sqrt(8) + bias).softmax(dim=3)
    expected = attention.proj((weights @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x, positions(height, width), shared), expected)


def test_every_block_takes_the_shared_bias():
    model = trunk(**SHARED)
    seen = []
    for block in model.blocks:
        block.attn.register_forward_pre_hook(lambda module, args: seen.append(args[2]))
    model(pixels(32, 48))
    table = model.rel_pos_bias.relative_position_bias_table
    assert table.shape == (7 * 7 + 3, 4) and len(seen) == 2
    for bias in seen:
        assert bias.shape == (1, 4, 7, 8)  # rows of a multiple of 8
        # A smaller grid reads the centre of the table: here 2 x 3 patches of a table for 4 x 4.
        centre = table[:-3].unflatten(0, (7, 7))[2:5, 1:6].flatten(0, 1)
        torch.testing.assert_close(bias[0, :, :, :7], brute_force_bias(torch.cat([centre, table[-3:]]), 2, 3))


# Regularisation


@pytest.mark.parametrize('value', [0.25, 0, None])
def test_layer_scale_multiplies_each_branch_by_its_own_factors_or_is_left_out(value):
    factors = {name for name, p in BEiT(**TINY, layer_scale_init_value=value).named_parameters() if 'gamma' in name}
    assert len(factors) == (4 if value else 0)
    block, x = trunk(layer_scale_init_value=value).blocks[0], torch.randn(2, 17, 32)
    gamma_1, gamma_2 = (block.gamma_1, block.gamma_2) if value else (1, 1)
    assert not value or not torch.equal(gamma_1, gamma_2)
    middle = x + gamma_1 * block.attn(block.norm1(x), positions(4, 4))
    torch.testing.assert_close(block(x, positions(4, 4)), middle + gamma_2 * block.mlp(block.norm2(middle)))


def test_drop_path_rises_linearly_over_the_blocks():
    model = BEiT(**{**TINY, 'depth': 5}, drop_path_rate=0.4)
    rates = [block.drop_path.drop_prob for block in model.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_drop_path_is_applied_once_to_each_branch():
    torch.manual_seed(0)
    block = Block(32, 4, drop_path_rate=0.5, bias_grid=(1, 1))
    x = torch.randn(4000, 2, 32)
    for dead, alive in (('gamma_1', 'gamma_2'), ('gamma_2', 'gamma_1')):
        with torch.no_grad():
            getattr(block, dead).zero_()
            getattr(block, alive).fill_(1)
            branch = block.eval()(x, positions(1, 1)) - x
            dropped_branch = block.train()(x, positions(1, 1)) - x
        kept = dropped_branch.abs().amax(dim=(1, 2)) > 0
        assert abs(kept.float().mean() - 0.5) < 0.03  # twice would keep a quarter
        torch.testing.assert_close(dropped_branch[kept], branch[kept] / 0.5, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('rate', ['drop_rate', 'attn_drop_rate', 'drop_path_rate'])
def test_each_configured_dropout_acts_in_training_only(rate):
    model = trunk(**{rate: 0.5})
    x = pixels(64, 64)
    assert not torch.allclose(model(x)[0], model(x)[0], atol=1e-3)
    assert torch.equal(model.eval()(x)[0], model(x)[0])
    torch.testing.assert_close(model(x)[0], trunk().eval()(x)[0])


def test_dropout_after_projections_zeroes_elements_and_scales_the_rest():
    torch.manual_seed(0)
    x = torch.randn(20, 5, 32)
    attention = Attention(32, 4, proj_drop_rate=0.25)
    mlp = Mlp(32, 64, drop_rate=0.25)
    for module, args in ((attention, (x,)), (mlp, (x,))):
        with torch.no_grad():
            whole, dropped = module.eval()(*args), module.train()(*args)
        kept = dropped != 0
        assert abs(kept.float().mean() - 0.75) < 0.03
        torch.testing.assert_close(dropped[kept], whole[kept] / 0.75)


def test_dropout_of_attention_weights_leaves_their_mean():
    torch.manual_seed(0)
    attention = Attention(32, 4, attn_drop_rate=0.5)
    x = torch.randn(1, 5, 32).expand(8000, -1, -1)
    with torch.no_grad():
        whole, dropped = attention.eval()(x[:1]), attention.train()(x)
    assert dropped.std(dim=0).min() > 0.01
    assert (dropped.mean(dim=0) - whole[0]).abs().max() < 6 * dropped.std(dim=0).max() / math.sqrt(8000)


# Precision


@pytest.mark.parametrize('bias', [{}, SHARED, dict(use_rel_pos_bias=False)], ids=['per block', 'shared', 'none'])
def test_bfloat16_autocast_runs_and_stays_close_to_float32(bias):
    model = trunk(use_mask_token=True, use_abs_pos_emb=True, layer_scale_init_value=0.1, **bias)
    x, mask = pixels(48, 96), torch.zeros(2, 3, 6, dtype=torch.bool)
    mask[:, 0] = True
    (expected,) = model(x, mask)
    with torch.autocast('cpu', torch.bfloat16):
        (output,) = model(x, mask)
        output.float().square().sum().backward()
    assert (output.float() - expected).abs().max() < 0.1 * expected.abs().max()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name
        assert parameter.grad.dtype == torch.float32, name


# Initialisation

# Deviation of a standard normal cut at one deviation: 1 - 2 phi(1) / (Phi(1) - Phi(-1)), square root.
CUT_AT_ONE = math.sqrt(1 - 2 * math.exp(-0.5) / math.sqrt(2 * math.pi) / math.erf(1 / math.sqrt(2)))


@pytest.mark.parametrize('pre_training', [True, False], ids=['pre-training', 'fine-tuning'])
def test_linear_layers_are_drawn_from_a_truncated_normal_scaled_with_depth(pre_training):
    torch.manual_seed(0)
    model = BEiT(**{**TINY, 'embed_dim': 64, 'depth': 3}, use_mask_token=pre_training)
    std, largest = (0.02 * CUT_AT_ONE, 0.02) if pre_training else (0.02, 0.2)
    for index, block in enumerate(model.blocks, start=1):
        for layer, scale in (
            (block.attn.qkv, 1),
            (block.mlp.fc1, 1),
            (block.attn.proj, math.sqrt(2 * index)),
            (block.mlp.fc2, math.sqrt(2 * index)),
        ):
            weight = layer.weight * scale
            assert weight.std().item() == pytest.approx(std, rel=0.06)
            assert abs(weight.mean()) < 0.05 * std
            assert (0.9 * 0.02 if pre_training else 3 * 0.02) < weight.abs().max() <= largest * 1.00001
            assert layer.bias is None or not layer.bias.any()
        assert not block.attn.q_bias.any() and not block.attn.v_bias.any()
        assert not block.attn.relative_position_bias_table.any()


def test_the_patch_convolution_is_drawn_with_the_rest_in_pre_training_and_left_alone_in_fine_tuning():
    torch.manual_seed(0)
    pre_training = BEiT(**TINY, **PRE_TRAINING).patch_embed.proj
    assert pre_training.weight.std().item() == pytest.approx(0.02 * CUT_AT_ONE, rel=0.05)
    assert 0.019 < pre_training.weight.abs().max() <= 0.02 and not pre_training.bias.any()
    torch.manual_seed(0)
    default = nn.Conv2d(3, 32, 16, 16)
    torch.manual_seed(0)
    fine_tuning = BEiT(**TINY).patch_embed.proj
    assert torch.equal(fine_tuning.weight, default.weight) and torch.equal(fine_tuning.bias, default.bias)


def test_tokens_and_positions_are_drawn_from_a_truncated_normal():
    torch.manual_seed(0)
    model = BEiT(**{**TINY, 'embed_dim': 512}, use_abs_pos_emb=True, **PRE_TRAINING)
    for token in (model.cls_token, model.mask_token, model.pos_embed):
        assert token.std().item() == pytest.approx(0.02 * CUT_AT_ONE, rel=0.12) and token.abs().max() <= 0.02
    model = BEiT(**{**TINY, 'embed_dim': 512}, use_abs_pos_emb=True)
    assert model.mask_token is None
    for token in (model.cls_token, model.pos_embed):
        assert token.std().item() == pytest.approx(0.02, rel=0.12) and token.abs().max() > 0.04


# Sizes and names


@pytest.mark.parametrize(
    'size, img_size, millions',
    [
        ('base', 224, 86.53),
        ('base', 384, 86.74),
        ('large', 224, 304.43),
        ('large', 384, 305.00),
        ('large', 512, 305.67),
    ],
)
def test_number_of_parameters_with_a_head_of_1000_classes(size, img_size, millions):
    width = dict(base=dict(embed_dim=768, depth=12, num_heads=12), large=dict(embed_dim=1024, depth=24, num_heads=16))[
        size
    ]
    with torch.device('meta'):
        model = nn.Sequential(
            BEiT(img_size=img_size, out_type='avg_featmap', **width), nn.Linear(width['embed_dim'], 1000)
        )
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize('prefix', ['', 'backbone.', 'model.backbone.'])
def test_layer_depth_counts_embeddings_blocks_and_the_rest(prefix):
    assert trunk().get_layer_depth('decode_head.blocks.0.weight', 'backbone.') == (3, 4), 'outside of the trunk'
    model = trunk(use_abs_pos_emb=True, use_mask_token=True, use_shared_rel_pos_bias=True)
    depths = {}
    for name, _ in model.named_parameters():
        layer, num_layers = model.get_layer_depth(prefix + name, prefix)
        assert num_layers == 4
        depths.setdefault(layer, set()).add('.'.join(name.split('.')[:2]))
    assert depths == {
        0: {'cls_token', 'mask_token', 'pos_embed', 'patch_embed.proj'},
        1: {'blocks.0'},
        2: {'blocks.1'},
        3: {'fc_norm.weight', 'fc_norm.bias', 'rel_pos_bias.relative_position_bias_table'},
    }


# Paths that save memory or time


@BIASES
def test_activation_checkpointing_changes_no_gradient_and_keeps_less(bias):
    kept, grads = {}, {}
    for with_cp in (False, True):
        model = trunk(drop_path_rate=0.5, with_cp=with_cp, **bias)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            torch.manual_seed(1)
            loss = model(pixels(64, 64))[0].square().mean()
        loss.backward()
        kept[with_cp] = sum(sizes)
        grads[with_cp] = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert kept[True] < 0.6 * kept[False], kept
    torch.testing.assert_close(grads[True], grads[False], rtol=1e-4, atol=1e-7)
