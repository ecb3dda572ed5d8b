"""The trunk: any image size, every output, position biases, masks, initialisation and names."""

import math
import operator

import pytest
import torch
from support.tiny import pixels, PRE_TRAINING, SHARED, trunk
from torch import nn
from torch.nn import functional as F

from beit_mm.models import BEiT
from beit_mm.models.backbones.layers import Attention, Block
from beit_mm.models.backbones.relative_position import locate, Positions

TINY = dict(img_size=64, embed_dim=32, depth=2, num_heads=4)
BIASES = pytest.mark.parametrize('bias', [{}, SHARED], ids=['per block', 'shared'])


def positions(height: int, width: int) -> Positions:
    """Of a grid that the tables were made for."""
    return locate((height, width), (height, width), torch.float32, torch.device('cpu'))


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
def test_resizing_in_the_forward_equals_set_grid_and_a_trunk_of_that_size(size, use_abs_pos_emb, bias):
    options = dict(bias, use_abs_pos_emb=use_abs_pos_emb, out_type='raw')
    model, built_for_size = trunk(**options), BEiT(**{**TINY, 'img_size': size, **options})
    built_for_size.load_state_dict(model.state_dict(), strict=True)
    x, grid = pixels(*size), (size[0] // 16, size[1] // 16)
    (output,) = model(x)
    torch.testing.assert_close(output, built_for_size(x)[0], rtol=1e-4, atol=1e-4)
    model.set_grid(grid)
    assert model.grid == grid and model.grid_size.tolist() == list(grid)
    parameters = list(model.parameters())
    model.set_grid(grid)
    assert all(map(operator.is_, parameters, model.parameters()))
    shapes = [[(name, tensor.shape) for name, tensor in m.state_dict().items()] for m in (model, built_for_size)]
    assert shapes[0] == shapes[1]
    torch.testing.assert_close(model(x)[0], output, rtol=0, atol=1e-5)


@BIASES
def test_gradients_reach_the_bias_tables_at_another_size(bias):
    model = trunk(use_abs_pos_emb=True, **bias)
    (model(pixels(80, 48))[0] * torch.randn(2, 32)).sum().backward()
    tables = {name: p for name, p in model.named_parameters() if 'table' in name}
    assert len(tables) == (1 if bias else 2) and all(table.grad.abs().sum() > 0.1 for table in tables.values())
    assert model.pos_embed.grad.abs().amax(dim=(0, 2)).min() > 0


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: trunk()(pixels(70, 64)), 'multiples of the patch size 16, got 70 x 64'),
        (lambda: trunk(img_size=(8, 64)), 'multiples of the patch size 16, got 8 x 64'),
        (lambda: trunk(out_indices=2), 'depth 2'),
        (lambda: trunk(out_indices=(0, -3)), 'depth 2'),
        (lambda: trunk(out_indices=()), 'depth 2'),
        (lambda: trunk(out_type='pooled'), "raw, cls_token, avg_featmap, featmap, got 'pooled'"),
        (lambda: trunk(num_heads=5), '5 and 32'),
        (lambda: trunk(frozen_stages=-2), 'frozen_stages must be -1 to 2, .* got -2'),
        (lambda: trunk(frozen_stages=3), 'frozen_stages must be -1 to 2, .* got 3'),
        (lambda: trunk()(pixels(64, 64), torch.zeros(2, 4, 4)), 'use_mask_token=True'),
        *(
            (
                lambda shape=shape: trunk(**PRE_TRAINING)(pixels(64, 64), torch.zeros(shape)),
                rf'mask must be \(2, 4, 4\) to fit the images, got \({shape[0]}',
            )
            for shape in ((2, 5, 4), (3, 4, 4), (2, 15), (16,))
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_out_indices_choose_the_outputs_in_their_order():
    x = pixels(48, 64)
    blocks = trunk(out_type='featmap', out_indices=(0, 1))(x)
    for indices, expected in ((-1, [1]), ([0], [0]), ((-2, -1), [0, 1]), ((1, 0, 0), [1, 0, 0])):
        outputs = trunk(out_type='featmap', out_indices=indices)(x)
        assert isinstance(outputs, tuple) and len(outputs) == len(expected)
        assert all(torch.equal(output, blocks[index]) for output, index in zip(outputs, expected))


def test_out_types_are_views_of_the_same_tokens_with_the_norm_on_the_last_only():
    x, featmap = pixels(48, 64), trunk(out_type='featmap', out_indices=(0, 1))
    inner, last = featmap(x)
    models = [BEiT(**TINY, out_type=kind, out_indices=(0, 1)) for kind in ('raw', 'cls_token', 'avg_featmap')]
    for model in models:
        model.load_state_dict(featmap.state_dict(), strict=False)  # norms stay at one and zero
    raw, class_token, mean = (model(x) for model in models)

    def norm(values):
        return F.layer_norm(values, (32,), eps=1e-6)

    torch.testing.assert_close(raw[0][:, 1:].transpose(1, 2).reshape(2, 32, 3, 4), inner)
    torch.testing.assert_close(raw[1][:, 1:], norm(last.flatten(2).transpose(1, 2)))
    torch.testing.assert_close(class_token, tuple(tokens[:, 0] for tokens in raw))
    torch.testing.assert_close(mean, (inner.mean(dim=(2, 3)), norm(last.mean(dim=(2, 3)))))


def test_mask_tokens_are_put_before_absolute_positions_are_added():
    model = trunk(use_abs_pos_emb=True, **PRE_TRAINING)
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    mask = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.4
    x = pixels(64, 64)
    model(x, mask)
    patches = model.patch_embed.proj(x).flatten(2).transpose(1, 2)
    tokens = torch.where(mask.flatten(1)[..., None], model.mask_token, patches)
    expected = torch.cat([model.cls_token.expand(2, -1, -1), tokens], dim=1) + model.pos_embed
    torch.testing.assert_close(seen, [expected])


@pytest.mark.parametrize('size', [(64, 64), (32, 48), (96, 16)])
def test_a_shared_table_acts_as_the_same_table_in_every_block_and_both_add_up(size):
    def set_tables(model, of_block, shared):
        for name, parameter in model.named_parameters():
            if 'relative_position_bias_table' in name:
                parameter.data = (of_block if name.startswith('blocks') else shared).clone()

    of_block, shared = torch.randn(2, 7 * 7 + 3, 4, generator=torch.Generator().manual_seed(0))
    x, options = pixels(*size), dict(out_type='featmap')
    per_block, common, both = (
        trunk(**options),
        trunk(**options, **SHARED),
        trunk(**options, use_shared_rel_pos_bias=True),
    )
    common.load_state_dict(per_block.state_dict(), strict=False)
    both.load_state_dict(per_block.state_dict(), strict=False)
    set_tables(both, of_block, shared)
    set_tables(per_block, of_block + shared, None)
    set_tables(common, None, of_block + shared)
    expected = per_block(x)[0]
    torch.testing.assert_close(common(x)[0], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both(x)[0], expected, rtol=1e-4, atol=1e-4)


def test_drop_path_rises_linearly_and_is_applied_once_to_each_branch():
    rates = [block.drop_path.drop_prob for block in BEiT(**{**TINY, 'depth': 5}, drop_path_rate=0.4).blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
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
    model, x = trunk(**{rate: 0.5}), pixels(64, 64)
    assert not torch.allclose(model(x)[0], model(x)[0], atol=1e-3)
    torch.testing.assert_close(model.eval()(x)[0], trunk().eval()(x)[0])


def test_dropout_after_projections_scales_the_rest_and_that_of_attention_weights_leaves_their_mean():
    torch.manual_seed(0)
    x = torch.randn(20, 5, 32)
    for module in (Attention(32, 4, proj_drop_rate=0.25), Block(32, 4, drop_rate=0.25).mlp):
        with torch.no_grad():
            whole, dropped = module.eval()(x), module.train()(x)
        kept = dropped != 0
        assert abs(kept.float().mean() - 0.75) < 0.03
        torch.testing.assert_close(dropped[kept], whole[kept] / 0.75)
    attention = Attention(32, 4, attn_drop_rate=0.5)
    with torch.no_grad():
        whole, dropped = attention.eval()(x[:1]), attention.train()(x[:1].expand(8000, -1, -1))
    assert dropped.std(dim=0).min() > 0.01
    assert (dropped.mean(dim=0) - whole[0]).abs().max() < 6 * dropped.std(dim=0).max() / math.sqrt(8000)


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


# Deviation of a standard normal cut at one deviation: 1 - 2 phi(1) / (Phi(1) - Phi(-1)), square root.
CUT_AT_ONE = math.sqrt(1 - 2 * math.exp(-0.5) / math.sqrt(2 * math.pi) / math.erf(1 / math.sqrt(2)))


@pytest.mark.parametrize('pre_training', [True, False], ids=['pre-training', 'fine-tuning'])
def test_weights_are_drawn_from_a_truncated_normal_scaled_with_depth(pre_training):
    torch.manual_seed(0)
    default = nn.Conv2d(3, 512, 16, 16)
    torch.manual_seed(0)
    model = BEiT(img_size=64, embed_dim=512, depth=3, num_heads=4, use_mask_token=pre_training, use_abs_pos_emb=True)
    std, largest = (0.02 * CUT_AT_ONE, 0.02) if pre_training else (0.02, 0.2)

    def check(weight, scale=1.0, rel=0.06):
        weight = weight * scale
        assert weight.std().item() == pytest.approx(std, rel=rel) and abs(weight.mean()) < 2 * rel * std
        assert (0.9 if pre_training else 2) * 0.02 < weight.abs().max() <= largest * 1.00001

    for index, block in enumerate(model.blocks, start=1):
        for layer in (block.attn.qkv, block.mlp.fc1, block.attn.proj, block.mlp.fc2):
            check(layer.weight, math.sqrt(2 * index) if layer in (block.attn.proj, block.mlp.fc2) else 1.0)
            assert layer.bias is None or not layer.bias.any()
        assert not block.attn.q_bias.any() and not block.attn.v_bias.any()
        assert not block.attn.relative_position_bias_table.any()
    for token in (model.cls_token, model.pos_embed):
        check(token, rel=0.12)
    if pre_training:
        check(model.mask_token, rel=0.12)
        check(model.patch_embed.proj.weight)
        assert not model.patch_embed.proj.bias.any()
    else:  # PyTorch's own
        assert model.mask_token is None
        assert torch.equal(model.patch_embed.proj.weight, default.weight)
        assert torch.equal(model.patch_embed.proj.bias, default.bias)


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
