"""Weights whose tensors are not what their names say are refused in one sentence; wrapped and empty names are read."""

import math
import warnings

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import load_state_dict
from support.tiny import masked_image_model, trunk
from torch import nn

from beit_mm.checkpoint.mapping import rename_beit_weights
from beit_mm.errors import UserError
from beit_mm.models.weight_layouts import LAYOUTS

TABLE = 'blocks.0.attn.relative_position_bias_table'
OPTIONS = dict(use_abs_pos_emb=True)
# A tensor, what it becomes, and what the message says.
STRANGE = {
    'meta': ('fc_norm.weight', lambda t: t.to('meta'), 'fc_norm.weight must be a dense tensor of real .*, on meta'),
    'sparse': ('fc_norm.weight', lambda t: t.to_sparse(), 'got float32, sparse_coo'),
    'compressed': ('blocks.0.mlp.fc1.weight', lambda t: t.to_sparse_csr(), 'got float32, sparse_csr'),
    'grid_size on meta': ('grid_size', lambda t: t.to('meta'), 'two numbers .*, got a tensor of shape .* on meta'),
    'nested': ('fc_norm.weight', lambda t: torch.nested.nested_tensor([t]), 'fc_norm.weight must be a dense tensor'),
    'quantized': ('fc_norm.bias', lambda t: torch.quantize_per_tensor(t.detach(), 0.1, 0, torch.qint8), 'got qint8'),
    'complex': ('fc_norm.weight', lambda t: t.to(torch.complex64), 'got complex64'),
    'integers': ('fc_norm.weight', lambda t: t.to(torch.int8), 'got int8'),
    'float8': ('fc_norm.weight', lambda t: t.to(torch.float8_e4m3fn), 'got float8_e4m3fn, strided'),
    'a list': ('fc_norm.weight', lambda t: t.tolist(), 'got a list'),
    'nothing': (TABLE, lambda t: None, 'got nothing'),
    'a number': ('cls_token', lambda t: t.sum(), r'cls_token must be \(1, 1, 32\), got \(\)'),
    'no heads': (TABLE, lambda t: torch.empty(2**40, 0), rf'{TABLE} must be \(52, 4\), got \(1099511627776, 0\)'),
    'no channels': ('pos_embed', lambda t: torch.empty(1, 2**40, 0), r'pos_embed must be \(1, 17, 32\), got'),
    'a table of half the world': (TABLE, lambda t: t[:1].expand(2**40, 4), 'at most 1024 x 1024 patches, got'),
    'a table of one row': (TABLE, lambda t: t[:1].expand(200_006, 4), 'at most 1024 x 1024 patches, got 200,006 rows'),
    'a table of no grid': (TABLE, lambda t: t[:7], r'must have \(2h-1\)\(2w-1\)\+3 rows, got 7'),
    'positions of half the world': ('pos_embed', lambda t: t[:, :1].expand(1, 2**40, 32), 'must be of 1 to 65,536 pat'),
    'no positions': ('pos_embed', lambda t: t[:, :1], 'must be of 1 to 65,536 patches, got 0'),
    **{
        f'grid_size {value}': ('grid_size', lambda t, value=value: torch.tensor(value), 'grid_size must be two numbers')
        for value in (
            3,
            [],
            [4, 4, 4],
            [[4, 4]],
            [10**9, 10**9],
            [0, 4],
            [-4, -4],
            [4.5, 4.0],
            [math.nan, 4.0],
            [True, True],
        )
    },
    'an index of half the world': ('blocks.0.attn.relative_position_index', None, None),
}


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_a_file_whose_tensors_have_all_been_cast_is_read(dtype):
    model, state = trunk(), {name: tensor.to(dtype) for name, tensor in trunk(img_size=32).state_dict().items()}
    model.load_state_dict(state)
    assert model.blocks[0].attn.qkv.weight.equal(state['blocks.0.attn.qkv.weight'].float())
    assert model.grid_size.tolist() == [4, 4] and state['grid_size'].tolist() == [2.0, 2.0]


@pytest.mark.parametrize('name', STRANGE)
@pytest.mark.filterwarnings('ignore')
def test_tensors_that_are_not_what_their_names_say(name):
    key, change, message = STRANGE[name]
    model, state = trunk(**OPTIONS), dict(trunk(**OPTIONS).state_dict())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if change is None:
        state[key] = torch.zeros(1, 1, dtype=torch.int64).expand(65_537, 65_537)
        model.load_state_dict(state)  # a buffer that follows from the grid
        return
    state[key] = change(state[key])
    if key != 'grid_size':
        del state['grid_size']  # as in released weights
    with pytest.raises(UserError, match=message) as raised:
        model.load_state_dict(state, strict=False)
    assert '\n' not in str(raised.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    'name', ['target.tokenizer.encoder.blocks.input.w', 'target.tokenizer.decoder.blocks.input.b', 'lm_head.weight']
)
@pytest.mark.parametrize('kind', ['meta', 'sparse', 'integers', 'a list'])
@pytest.mark.filterwarnings('ignore')
def test_mmengine_does_not_leave_out_what_it_cannot_copy_into_tokenizer_or_head(name, kind):
    model = masked_image_model()
    state = {key: tensor for key, tensor in model.state_dict().items()}
    state[name] = STRANGE[kind][1](state[name])
    with pytest.raises(UserError, match=rf'{name.removeprefix("target.tokenizer.")} must be .*, got .'):
        load_state_dict(model, state, strict=False)


WRAPPERS = ('_orig_mod.', 'module.', '_fsdp_wrapped_module.', '_checkpoint_wrapped_module.', '_forward_module.')


@pytest.mark.parametrize('layout', LAYOUTS)
def test_names_of_wrappers_are_dropped_wherever_they_stand(layout):
    ours = {f'backbone.{name}': tensor for name, tensor in trunk().state_dict().items() if name != 'grid_size'}
    theirs, _, _ = LAYOUTS[layout].from_ours(ours, 'trunk')
    for number, wrapper in enumerate(WRAPPERS):
        wrapped = {}
        for name, tensor in theirs.items():
            parts = name.split('.')
            place = 0 if number == 0 else min(number, len(parts) - 1)
            wrapped['.'.join([*parts[:place], wrapper + parts[place], *parts[place + 1 :]])] = tensor
        for content in (wrapped, dict(state_dict=wrapped, meta={})):
            weights = rename_beit_weights(content, 'file')['state_dict']
            model = trunk()
            nn.init.zeros_(model.cls_token)
            model.load_state_dict(weights, strict=False)
            assert torch.equal(model.cls_token, trunk().cls_token)
            assert torch.equal(model.blocks[1].mlp.fc2.weight, trunk().blocks[1].mlp.fc2.weight)


def test_models_and_weights_may_be_wrapped_or_not():
    plain, compiled = trunk(), trunk()
    for index, block in enumerate(compiled.blocks):
        compiled.blocks[index] = torch.compile(block)
    assert any('_orig_mod.' in name for name in compiled.state_dict())
    for source, target in ((plain, compiled), (compiled, plain), (compiled, compiled)):
        state = {
            name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in source.state_dict().items()
        }
        target.load_state_dict(dict(state), strict=source is target)
        for given, loaded in zip(state.values(), target.state_dict().values(), strict=True):
            assert torch.equal(given, loaded)


@pytest.mark.parametrize('checkpoint', ['', None])
@pytest.mark.parametrize('type_', ['beit_mm.BEiT', 'beit_mm.DiscreteVAE'])
@pytest.mark.parametrize('as_list', [True, False])
def test_an_init_cfg_without_a_checkpoint_is_no_start_and_says_so(
    checkpoint, type_, as_list, tmp_path, monkeypatch, capsys
):
    """As in MMPretrain's configs; a file of weights in the working directory is not taken for it."""
    monkeypatch.chdir(tmp_path)
    torch.save(trunk().state_dict(), 'pytorch_model.bin')
    size = dict(img_size=64, embed_dim=32, depth=2, num_heads=4) if 'BEiT' in type_ else dict(n_hid=8, n_init=8)
    entry = dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.')
    model = MODELS.build(dict(type=type_, **size, init_cfg=[entry] if as_list else entry))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        model.init_weights()
    assert 'init_cfg names no checkpoint, so training starts anew' in capsys.readouterr().out
    assert not model.init_cfg and model.state_dict().keys() == before.keys()
