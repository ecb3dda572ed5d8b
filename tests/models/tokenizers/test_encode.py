"""DiscreteVAE.encode: the arg-max in slices, its dtype, and compilation."""

import pytest
import torch
from torch.nn import functional as F

from beit_mm.models import DiscreteVAE
from beit_mm.models.tokenizers import dalle_layers as tokenizer_layers

TINY = dict(vocab_size=32, n_hid=16, n_init=8, blocks_per_group=1)


def build(**kwargs) -> DiscreteVAE:
    torch.manual_seed(0)
    return DiscreteVAE(**{**TINY, **kwargs}).eval().requires_grad_(False)


def images(batch=2, size=32) -> torch.Tensor:
    coarse = torch.rand(batch, 3, size // 4, size // 4, generator=torch.Generator().manual_seed(1))
    return F.interpolate(coarse, size=(size, size), mode='bilinear')


# The arg-max


@pytest.mark.parametrize('vocab_slice', [1, 5, 32])
def test_tokens_are_the_arg_max_of_all_logits_whatever_the_slices(vocab_slice, monkeypatch):
    monkeypatch.setattr(tokenizer_layers, 'VOCAB_SLICE', vocab_slice)
    model = build()
    logits, tokens = model.encode_logits(images()), model.encode(images())
    assert logits.shape == (2, 32, 4, 4) and tokens.dtype == torch.int64
    assert len(tokens.unique()) > 3 and torch.equal(tokens, logits.argmax(dim=1))


@pytest.mark.parametrize('first, second', [(0, 1), (2, 30)])
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


# Its dtype


def varied() -> DiscreteVAE:
    """A tokenizer with branches as strong as a trained one's, in which every token occurs."""
    model = build()
    for name, parameter in model.encoder.named_parameters():
        if 'conv_4.w' in name:
            parameter.mul_(4)
    model.encoder.blocks.output.conv.b.sub_(model.encode_logits(images(8, 64)).mean(dim=(0, 2, 3)))
    return model


@pytest.mark.parametrize('encode_dtype, kept', [('float16', 0.99), ('bfloat16', 0.9)])
def test_a_shorter_dtype_keeps_most_tokens(encode_dtype, kept):
    model, x = varied(), images(48, 64)
    expected = model.encode(x)
    model.encode_dtype = encode_dtype
    tokens = model.encode(x)
    assert expected.numel() == 3072 and len(expected.unique()) > 16
    assert not torch.equal(tokens, expected) and (tokens == expected).float().mean() >= kept


@pytest.mark.parametrize('encode_dtype', ['float32', 'float16', 'bfloat16'])
def test_all_convolutions_but_the_last_have_the_dtype(encode_dtype, monkeypatch):
    dtypes, convolve = [], F.conv2d

    def spy(x, weight, *args, **kwargs):
        dtypes.append((x.dtype, weight.dtype))
        return convolve(x, weight, *args, **kwargs)

    monkeypatch.setattr(F, 'conv2d', spy)
    model = build(encode_dtype=encode_dtype)
    model.encode(images())
    assert set(dtypes[:-1]) == {(getattr(torch, encode_dtype),) * 2} and dtypes[-1] == (torch.float32,) * 2
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_training_is_in_float32_whatever_encode_is():
    losses = []
    for encode_dtype in ('float32', 'float16'):
        model = build(encode_dtype=encode_dtype)
        torch.manual_seed(1)
        losses.append(model.loss(images())['loss_reconstruction'])
    assert torch.equal(*losses)


def test_another_dtype_is_refused():
    with pytest.raises(ValueError, match="encode_dtype must be one of float32, float16, bfloat16, got 'half'"):
        build(encode_dtype='half')


# Compilation


def test_a_compiled_encoder_gives_the_same_tokens_under_the_same_names(monkeypatch):
    compiling = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, 'compile', lambda module: compiling(module, backend='eager'))
    plain = build(n_hid=8)
    compiled = build(n_hid=8, compile_encoder=True)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    compiled.load_state_dict(plain.state_dict())
    assert torch.equal(compiled.encode(images()), plain.encode(images()))
    assert compiled.encoder._compiled_call_impl is not None
