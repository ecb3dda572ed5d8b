"""DiscreteVAE.encode: the arg-max in slices, its arithmetic, and compilation."""

import pytest
import torch
from torch.nn import functional as F

from beit_mm.models import DiscreteVAE
from beit_mm.models.tokenizers import dalle_layers as tokenizer_layers
from beit_mm.models.tokenizers.dalle_layers import split_columns, split_rows, unrounded_convolutions
from beit_mm.models.tokenizers.discrete_vae import map_pixels

TINY = dict(vocab_size=32, n_hid=16, n_init=8, blocks_per_group=1)


def build(**kwargs) -> DiscreteVAE:
    torch.manual_seed(0)
    return DiscreteVAE(**{**TINY, **kwargs}).eval().requires_grad_(False)


def images(batch=2, size=32) -> torch.Tensor:
    coarse = torch.rand(batch, 3, size // 4, size // 4, generator=torch.Generator().manual_seed(1))
    return F.interpolate(coarse, size=(size, size), mode='bilinear')


# The arg-max


@pytest.mark.parametrize('vocab_slice', [1, 5, 31, 32, 100])
@pytest.mark.parametrize('encode_dtype', ['float32', 'float16'])
def test_tokens_are_those_of_all_logits_whatever_the_slices(vocab_slice, encode_dtype, monkeypatch):
    monkeypatch.setattr(tokenizer_layers, 'VOCAB_SLICE', vocab_slice)
    model = build()
    expected = model.encode_logits(images()).argmax(dim=1)
    model.encode_dtype = encode_dtype
    assert len(expected.unique()) > 3 and torch.equal(model.encode(images()), expected)


@pytest.mark.parametrize('first, second', [(0, 1), (3, 4), (2, 30), (7, 31)])
def test_of_equal_logits_the_smaller_index_wins_within_a_slice_and_across(first, second, monkeypatch):
    monkeypatch.setattr(tokenizer_layers, 'VOCAB_SLICE', 4)
    model = build()
    last = model.encoder.blocks.output.conv
    for index in (first, second):
        last.w[index], last.b[index] = 0, 1000
    assert (model.encode_logits(images()).argmax(dim=1) == first).all() and (model.encode(images()) == first).all()


def test_the_logits_of_the_whole_vocabulary_are_never_made(monkeypatch):
    monkeypatch.setattr(tokenizer_layers, 'VOCAB_SLICE', 4)
    widths, convolve = [], F.conv2d

    def spy(x, weight, *args, **kwargs):
        widths.append(len(weight))
        return convolve(x, weight, *args, **kwargs)

    monkeypatch.setattr(F, 'conv2d', spy)
    build(vocab_size=510).encode(images())
    assert widths[-128:] == [4] * 127 + [2] and max(widths) == 8 * 16


# Its arithmetic


def varied() -> DiscreteVAE:
    """Whose branches are as strong as a trained one's, and whose tokens all occur."""
    model = build()
    for name, parameter in model.encoder.named_parameters():
        if 'conv_4.w' in name:
            parameter.mul_(4)
    model.encoder.blocks.output.conv.b.sub_(model.encode_logits(images(8, 64)).mean(dim=(0, 2, 3)))
    return model


def test_float16_keeps_the_tokens_of_float32_and_bfloat16_would_not():
    model, x = varied(), images(48, 64)
    expected = model.encode(x)
    model.encode_dtype = 'float16'
    equal = (model.encode(x) == expected).float().mean()
    features = model.encoder(map_pixels(x).contiguous(memory_format=torch.channels_last), torch.bfloat16)
    rounded = (model.encoder.most_likely(features) == expected).float().mean()
    assert expected.numel() == 3072 and len(expected.unique()) > 16
    assert equal >= 0.999 > rounded


def test_only_the_branches_are_in_float16():
    model, seen = build(encode_dtype='float16'), {}
    for name, module in model.encoder.named_modules():
        module.register_forward_hook(lambda module, args, output, name=name: seen.__setitem__(name, output.dtype))
    model.encode(images())
    assert seen['blocks.input'] == seen['blocks.group_1.block_1'] == seen['blocks.group_4.block_1'] == torch.float32
    assert {dtype for name, dtype in seen.items() if '.res_path.' in name} == {torch.float16}
    assert seen[''] == torch.float32
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_weights_loaded_after_the_first_batch_count():
    model, other = build(encode_dtype='float16'), build(encode_dtype='float16')
    other.encoder.blocks.group_1.block_1.res_path.conv_1.w.mul_(30)
    before = model.encode(images(8, 64))
    model.load_state_dict(other.state_dict())
    assert torch.equal(model.encode(images(8, 64)), other.encode(images(8, 64)))
    assert not torch.equal(model.encode(images(8, 64)), before)


def test_training_is_in_float32_whatever_encode_is():
    losses = []
    for encode_dtype in ('float32', 'float16'):
        model = build(encode_dtype=encode_dtype)
        torch.manual_seed(1)
        losses.append(model.loss(images())['loss_reconstruction'])
    assert torch.equal(*losses)


def test_auto_is_float32_without_a_gpu():
    model = build(encode_dtype='auto')
    dtypes = []
    model.encoder.register_forward_pre_hook(lambda module, args: dtypes.append(args[1:]))
    model.encode(images())
    assert dtypes == [()]


@pytest.mark.parametrize('given', ['bfloat16', 'half', None])
def test_another_arithmetic_is_refused_naming_it(given):
    with pytest.raises(ValueError, match=f'encode_dtype must be one of float32, float16, auto, got {given!r}'):
        build(encode_dtype=given)


def test_split_products_are_right_to_sixteen_bits():
    generator = torch.Generator().manual_seed(0)
    rows, weight = torch.randn(20, 64, generator=generator), torch.randn(30, 64, generator=generator) * 1e-3
    exact = rows.double() @ weight.double().t()
    scale = rows.double().abs() @ weight.double().abs().t()
    assert split_rows(rows).dtype == split_columns(weight).dtype == torch.bfloat16
    product = split_rows(rows).double() @ split_columns(weight).double().t()
    assert ((product - exact).abs() / scale).max() < 2**-16
    assert (((rows.bfloat16().double() @ weight.bfloat16().double().t()) - exact).abs() / scale).max() > 2**-11


def test_a_gpu_takes_split_products_for_projections_and_logits(monkeypatch):
    class OnDevice(torch.Tensor):
        is_cuda = True

    def mm(rows, columns, out_dtype):
        assert rows.dtype == columns.dtype == torch.bfloat16 and out_dtype == torch.float32
        shapes.append((*rows.shape, columns.shape[1]))
        return rows.float() @ columns.float()

    monkeypatch.setattr(torch, 'mm', mm)
    model, x, shapes = varied(), images(48, 64), []
    expected = model.encode(x)
    model.encode_dtype = 'auto'
    tokens = model.encode(x.as_subclass(OnDevice))
    assert (tokens == expected).float().mean() >= 0.999
    # Projections of groups 2 to 4, where the width doubles, then the logits: 3 C columns for C channels.
    assert shapes == [(48 * 32 * 32, 48, 32), (48 * 16 * 16, 96, 64), (48 * 8 * 8, 192, 128), (48 * 8 * 8, 384, 32)]


def test_convolutions_are_rounded_again_afterwards():
    convolutions = torch.backends.cudnn.conv
    before = convolutions.fp32_precision
    with pytest.raises(KeyError):
        with unrounded_convolutions():
            assert convolutions.fp32_precision == 'ieee'
            raise KeyError
    assert convolutions.fp32_precision == before != 'ieee'


# Compilation


def test_a_compiled_encoder_gives_the_same_tokens_under_the_same_names():
    plain = build(encode_dtype='float16', n_hid=8)
    compiled = build(encode_dtype='float16', n_hid=8, compile_encoder=True)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    compiled.load_state_dict(plain.state_dict())
    assert torch.equal(compiled.encode(images()), plain.encode(images()))
    assert compiled.encoder._compiled_call_impl is not None
