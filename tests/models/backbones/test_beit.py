"""The trunk: any image size, every output, position biases, masks, initialisation and names."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from beit_mm.models import BEiT
from beit_mm.models.backbones.layers import Attention, Block, Mlp
from beit_mm.models.backbones.relative_position import locate, num_table_rows, Positions, relative_position_index

TINY = dict(img_size=64, embed_dim=32, depth=2, num_heads=4)
SHARED = dict(use_rel_pos_bias=False, use_shared_rel_pos_bias=True)
PRE_TRAINING = dict(SHARED, use_mask_token=True, out_type='raw')
SIZES = [(64, 64), (16, 16), (16, 64), (96, 32), (48, 112), (112, 96)]


def build(**kwargs) -> BEiT:
    """A small trunk in which no parameter is zero or one, so that none can be forgotten unseen."""
    torch.manual_seed(0)
    trunk = BEiT(**{**TINY, **kwargs})
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return trunk


def images(height: int, width: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(height * 1000 + width))


def positions(height: int, width: int) -> Positions:
    """Of a grid that the tables were made for."""
    return locate((height, width), (height, width), torch.float32, torch.device('cpu'))


# Image sizes


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('bias', [{}, SHARED], ids=['per block', 'shared'])
def test_any_multiple_of_the_patch_is_accepted(size, bias):
    trunk = build(use_mask_token=True, out_type='raw', use_abs_pos_emb=True, **bias)
    grid = size[0] // 16, size[1] // 16
    mask = torch.zeros(2, *grid, dtype=torch.bool)
    mask[0, -1, -1] = True
    x = images(*size)
    outputs = {}
    for mode in (True, False):
        for given in (None, mask):
            (output,) = trunk.train(mode)(x, given)
            assert output.shape == (2, 1 + grid[0] * grid[1], 32) and output.isfinite().all()
            outputs[mode, given is None] = output
    # Without dropout the modes agree; the mask changes the image that has a masked patch and only that one.
    assert torch.equal(outputs[True, True], outputs[False, True])
    assert torch.equal(outputs[True, False], outputs[False, False])
    assert not torch.allclose(outputs[True, True][0], outputs[True, False][0], atol=1e-3)
    torch.testing.assert_close(outputs[True, True][1], outputs[True, False][1])


@pytest.mark.parametrize('size', [(96, 96), (48, 112), (32, 64), (16, 16)])
@pytest.mark.parametrize('use_abs_pos_emb', [False, True], ids=['relative', 'relative and absolute'])
@pytest.mark.parametrize('bias', [{}, SHARED], ids=['per block', 'shared'])
def test_resizing_in_the_forward_equals_weights_loaded_into_a_trunk_of_that_size(size, use_abs_pos_emb, bias):
    kwargs = dict(bias, use_abs_pos_emb=use_abs_pos_emb, out_type='raw')
    built_for_64 = build(**kwargs)
    built_for_size = BEiT(**{**TINY, 'img_size': size, **kwargs})
    built_for_size.load_state_dict(built_for_64.state_dict(), strict=True)
    x = images(*size)
    torch.testing.assert_close(built_for_64(x)[0], built_for_size(x)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('size', [(64, 64), (96, 32)])
@pytest.mark.parametrize('bias', [{}, SHARED], ids=['per block', 'shared'])
def test_set_grid_resizes_the_tables_and_changes_no_output(size, bias):
    trunk = build(**bias, use_abs_pos_emb=True, out_type='raw')
    x, grid = images(*size), (size[0] // 16, size[1] // 16)
    (expected,) = trunk(x)
    trunk.set_grid(grid)
    assert trunk.grid == grid and trunk.grid_size.tolist() == list(grid)
    assert trunk.pos_embed.shape[1] == 1 + grid[0] * grid[1]
    torch.testing.assert_close(trunk(x)[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize('bias', [{}, SHARED], ids=['per block', 'shared'])
def test_gradients_reach_the_bias_tables_at_another_size(bias):
    trunk = build(use_abs_pos_emb=True, **bias).double()
    x = images(80, 48).double()
    weight = torch.randn(2, 32, dtype=torch.float64)
    (trunk(x)[0] * weight).sum().backward()
    tables = {name: p for name, p in trunk.named_parameters() if 'table' in name}
    assert len(tables) == (1 if bias else 2)
    for name, table in tables.items():
        direction = torch.randn_like(table)
        losses = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                table.add_(step * direction)
                losses.append((trunk(x)[0] * weight).sum().item())
                table.sub_(step * direction)
        slope = (losses[0] - losses[1]) / 2e-5
        assert table.grad.abs().sum() > 0.1, name
        assert (table.grad * direction).sum().item() == pytest.approx(slope, rel=1e-5, abs=1e-7), name
    assert trunk.pos_embed.grad.abs().amax(dim=(0, 2)).min() > 0


@pytest.mark.parametrize('size', [(70, 64), (64, 70), (8, 64)])
def test_an_image_that_the_patch_does_not_divide_is_refused_naming_both(size):
    with pytest.raises(ValueError, match=f'multiples of the patch size 16, got {size[0]} x {size[1]}'):
        build()(images(*size))
    with pytest.raises(ValueError, match=f'multiples of the patch size 16, got {size[0]} x {size[1]}'):
        BEiT(**{**TINY, 'img_size': size})


# Outputs


@pytest.mark.parametrize('out_indices, num_outputs', [(-1, 1), (1, 1), ([0], 1), ((-2,), 1), ((0, 1), 2), ([0, -1], 2)])
@pytest.mark.parametrize(
    'out_type, shape',
    [('raw', (2, 13, 32)), ('cls_token', (2, 32)), ('avg_featmap', (2, 32)), ('featmap', (2, 32, 3, 4))],
)
def test_out_type_and_out_indices_choose_the_outputs(out_type, shape, out_indices, num_outputs):
    outputs = build(out_type=out_type, out_indices=out_indices)(images(48, 64))
    assert isinstance(outputs, tuple)
    assert [tuple(output.shape) for output in outputs] == [shape] * num_outputs


def test_out_types_are_views_of_the_same_tokens_with_the_norm_on_the_last_only():
    x = images(48, 64)
    featmap = build(out_type='featmap', out_indices=(0, 1))
    weights = featmap.state_dict()
    inner, last = featmap(x)
    tokens = {
        out_type: BEiT(**TINY, out_type=out_type, out_indices=(0, 1))
        for out_type in ('raw', 'cls_token', 'avg_featmap')
    }
    for trunk in tokens.values():
        trunk.load_state_dict(weights, strict=False)  # norms stay at one and zero
    raw, class_token, mean = (tokens[out_type](x) for out_type in ('raw', 'cls_token', 'avg_featmap'))

    def norm(values):
        return F.layer_norm(values, (32,), eps=1e-6)

    torch.testing.assert_close(raw[0][:, 1:].transpose(1, 2).reshape(2, 32, 3, 4), inner)
    torch.testing.assert_close(raw[1][:, 1:], norm(last.flatten(2).transpose(1, 2)))
    torch.testing.assert_close(class_token[0], raw[0][:, 0])
    torch.testing.assert_close(class_token[1], raw[1][:, 0])
    torch.testing.assert_close(mean[0], inner.mean(dim=(2, 3)))
    torch.testing.assert_close(mean[1], norm(last.mean(dim=(2, 3))))


@pytest.mark.parametrize('out_indices', [2, -3, (0, 2), ()])
def test_out_indices_beyond_the_depth_are_refused(out_indices):
    with pytest.raises(ValueError, match='depth 2'):
        BEiT(**TINY, out_indices=out_indices)


def test_an_unknown_out_type_is_refused_naming_the_known_ones():
    with pytest.raises(ValueError, match="raw, cls_token, avg_featmap, featmap, got 'pooled'"):
        BEiT(**TINY, out_type='pooled')


def test_heads_that_do_not_divide_the_width_are_refused_naming_both():
    with pytest.raises(ValueError, match='5 and 32'):
        BEiT(**{**TINY, 'num_heads': 5})


# Masks


@pytest.mark.parametrize('shape', [(2, 5, 4), (3, 4, 4), (2, 15), (16,)])
def test_a_mask_of_another_grid_is_refused_naming_both(shape):
    with pytest.raises(ValueError, match=r'mask must be \(2, 4, 4\) to fit the images, got \(' + str(shape[0])):
        build(**PRE_TRAINING)(images(64, 64), torch.zeros(shape, dtype=torch.bool))


def test_a_mask_without_a_mask_token_is_refused():
    with pytest.raises(ValueError, match='use_mask_token=True'):
        build()(images(64, 64), torch.zeros(2, 4, 4, dtype=torch.bool))


def test_a_mask_may_be_a_grid_or_its_rows_one_after_another():
    trunk = build(**PRE_TRAINING)
    mask = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0)) < 0.4
    x = images(48, 64)
    assert torch.equal(trunk(x, mask)[0], trunk(x, mask.flatten(1))[0])
    assert not torch.allclose(trunk(x, mask)[0], trunk(x)[0], atol=1e-3)


def test_mask_tokens_are_put_before_absolute_positions_are_added():
    trunk = build(use_abs_pos_emb=True, **PRE_TRAINING)
    seen = []
    trunk.blocks[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    mask = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.4
    x = images(64, 64)
    trunk(x, mask)
    patches = trunk.patch_embed.proj(x).flatten(2).transpose(1, 2)
    for image in range(2):
        torch.testing.assert_close(seen[0][image, 0], trunk.cls_token[0, 0] + trunk.pos_embed[0, 0])
        for place, masked in enumerate(mask[image].flatten().tolist()):
            token = trunk.mask_token[0, 0] if masked else patches[image, place]
            torch.testing.assert_close(seen[0][image, 1 + place], token + trunk.pos_embed[0, 1 + place])


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
    trunk = build(**SHARED)
    seen = []
    for block in trunk.blocks:
        block.attn.register_forward_pre_hook(lambda module, args: seen.append(args[2]))
    trunk(images(32, 48))
    table = trunk.rel_pos_bias.relative_position_bias_table
    assert table.shape == (7 * 7 + 3, 4) and len(seen) == 2
    for bias in seen:
        assert bias.shape == (1, 4, 7, 8)  # rows of a multiple of 8
        # A smaller grid reads the centre of the table: here 2 x 3 patches of a table for 4 x 4.
        centre = table[:-3].unflatten(0, (7, 7))[2:5, 1:6].flatten(0, 1)
        torch.testing.assert_close(bias[0, :, :, :7], brute_force_bias(torch.cat([centre, table[-3:]]), 2, 3))


# Regularisation


@pytest.mark.parametrize('value', [0, 0.0, None])
def test_layer_scale_of_nothing_leaves_it_out_and_keeps_the_branches(value):
    block = build(layer_scale_init_value=value).blocks[0]
    assert not [name for name, _ in block.named_parameters() if 'gamma' in name]
    x = torch.randn(2, 17, 32)
    middle = x + block.attn(block.norm1(x), positions(4, 4))
    expected = middle + block.mlp(block.norm2(middle))
    torch.testing.assert_close(block(x, positions(4, 4)), expected)
    assert (expected - x).abs().mean() > 0.1 and (expected - middle).abs().mean() > 0.1


def test_layer_scale_multiplies_each_branch_by_its_own_factors():
    trunk = BEiT(**TINY, layer_scale_init_value=0.25)
    assert all((p == 0.25).all() for name, p in trunk.named_parameters() if 'gamma' in name)
    block = build(layer_scale_init_value=0.25).blocks[0]
    assert not torch.equal(block.gamma_1, block.gamma_2)
    x = torch.randn(2, 17, 32)
    middle = x + block.gamma_1 * block.attn(block.norm1(x), positions(4, 4))
    torch.testing.assert_close(block(x, positions(4, 4)), middle + block.gamma_2 * block.mlp(block.norm2(middle)))


def test_drop_path_rises_linearly_over_the_blocks():
    trunk = BEiT(**{**TINY, 'depth': 5}, drop_path_rate=0.4)
    rates = [getattr(block.drop_path, 'drop_prob', 0.0) for block in trunk.blocks]
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
    trunk = build(**{rate: 0.5})
    x = images(64, 64)
    assert not torch.allclose(trunk(x)[0], trunk(x)[0], atol=1e-3)
    assert torch.equal(trunk.eval()(x)[0], trunk(x)[0])
    torch.testing.assert_close(trunk(x)[0], build().eval()(x)[0])


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


# Precision


@pytest.mark.parametrize('size', [(64, 64), (48, 96)])
@pytest.mark.parametrize('bias', [{}, SHARED, dict(use_rel_pos_bias=False)], ids=['per block', 'shared', 'none'])
def test_bfloat16_autocast_runs_and_stays_close_to_float32(size, bias):
    trunk = build(use_mask_token=True, use_abs_pos_emb=True, layer_scale_init_value=0.1, **bias)
    x = images(*size)
    mask = torch.zeros(2, size[0] // 16, size[1] // 16, dtype=torch.bool)
    mask[:, 0] = True
    (expected,) = trunk(x, mask)
    with torch.autocast('cpu', torch.bfloat16):
        (output,) = trunk(x, mask)
        output.float().square().sum().backward()
    assert (output.float() - expected).abs().max() < 0.1 * expected.abs().max()
    for name, parameter in trunk.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name
        assert parameter.grad.dtype == torch.float32, name


# Initialisation

# Deviation of a standard normal cut at one deviation: 1 - 2 phi(1) / (Phi(1) - Phi(-1)), square root.
CUT_AT_ONE = math.sqrt(1 - 2 * math.exp(-0.5) / math.sqrt(2 * math.pi) / math.erf(1 / math.sqrt(2)))


@pytest.mark.parametrize('pre_training', [True, False], ids=['pre-training', 'fine-tuning'])
def test_linear_layers_are_drawn_from_a_truncated_normal_scaled_with_depth(pre_training):
    torch.manual_seed(0)
    trunk = BEiT(**{**TINY, 'embed_dim': 64, 'depth': 3}, use_mask_token=pre_training)
    std, largest = (0.02 * CUT_AT_ONE, 0.02) if pre_training else (0.02, 0.2)
    for index, block in enumerate(trunk.blocks, start=1):
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
    trunk = BEiT(**{**TINY, 'embed_dim': 512}, use_abs_pos_emb=True, **PRE_TRAINING)
    for token in (trunk.cls_token, trunk.mask_token, trunk.pos_embed):
        assert token.std().item() == pytest.approx(0.02 * CUT_AT_ONE, rel=0.12) and token.abs().max() <= 0.02
    trunk = BEiT(**{**TINY, 'embed_dim': 512}, use_abs_pos_emb=True)
    assert trunk.mask_token is None
    for token in (trunk.cls_token, trunk.pos_embed):
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
    trunk = build(use_abs_pos_emb=True, use_mask_token=True, use_shared_rel_pos_bias=True)
    depths = {}
    for name, _ in trunk.named_parameters():
        layer, num_layers = trunk.get_layer_depth(prefix + name, prefix)
        assert num_layers == 4
        depths.setdefault(layer, set()).add('.'.join(name.split('.')[:2]))
    assert depths == {
        0: {'cls_token', 'mask_token', 'pos_embed', 'patch_embed.proj'},
        1: {'blocks.0'},
        2: {'blocks.1'},
        3: {'fc_norm.weight', 'fc_norm.bias', 'rel_pos_bias.relative_position_bias_table'},
    }


def test_parameters_outside_the_trunk_are_of_the_last_layer():
    trunk = build()
    for name in ('head.fc.weight', 'decode_head.blocks.0.weight', 'neck.cls_token'):
        assert trunk.get_layer_depth(name, 'backbone.') == (3, 4)


def test_outputs_come_in_the_order_of_out_indices():
    model = BEiT(img_size=32, embed_dim=32, depth=2, num_heads=2, out_type='featmap', out_indices=(1, 0, 0)).eval()
    images = torch.randn(1, 3, 32, 32)
    last, first, again = model(images)
    model.out_indices = (0, 1)
    torch.testing.assert_close((first, last), model(images))
    assert torch.equal(first, again)


# Paths that save memory or time


@pytest.mark.parametrize('options', [{}, SHARED])
def test_activation_checkpointing_changes_no_gradient_and_keeps_less(options):
    kept, grads = {}, {}
    for with_cp in (False, True):
        trunk = build(drop_path_rate=0.5, with_cp=with_cp, **options).train()
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            torch.manual_seed(1)
            loss = trunk(images(64, 64))[0].square().mean()
        loss.backward()
        kept[with_cp] = sum(sizes)
        grads[with_cp] = {name: parameter.grad for name, parameter in trunk.named_parameters()}
    assert kept[True] < 0.6 * kept[False], kept
    for name, grad in grads[False].items():
        assert torch.allclose(grads[True][name], grad, rtol=1e-4, atol=1e-7), name


def test_activation_checkpointing_is_for_training_alone():
    trunk = build(with_cp=True).eval()
    with torch.no_grad():
        assert torch.equal(trunk(images(64, 64))[0], build().eval()(images(64, 64))[0])
