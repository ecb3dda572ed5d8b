"""DiscreteVAE: codes and images, the dtype of encode, the training objective, and which checkpoints it takes."""

import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence, Laplace, SigmoidTransform, TransformedDistribution
from torch.nn import functional as F

from beit_mm.models import DiscreteVAE
from beit_mm.models.tokenizers import discrete_vae
from beit_mm.models.tokenizers.discrete_vae import map_pixels
from beit_mm.models.tokenizers.tokenizer import codebook_use


def build(seed: int = 0, **kwargs) -> DiscreteVAE:
    torch.manual_seed(seed)
    return DiscreteVAE(**{**dict(vocab_size=16, n_hid=8, n_init=8, blocks_per_group=1), **kwargs})


def images(height=16, width=24, batch=2) -> torch.Tensor:
    coarse = torch.rand(batch, 3, height // 4, width // 4, generator=torch.Generator().manual_seed(1))
    return F.interpolate(coarse, size=(height, width), mode='bilinear')


@pytest.fixture
def convolutions(monkeypatch) -> list:
    """Input and weight of every convolution."""
    calls, convolve = [], F.conv2d

    def record(x, weight, *args, **kwargs):
        calls.append((x, weight))
        return convolve(x, weight, *args, **kwargs)

    monkeypatch.setattr(F, 'conv2d', record)
    return calls


@torch.no_grad()
@pytest.mark.parametrize('vocab_slice', [1, 5, 32])
def test_tokens_are_the_first_arg_max_of_all_logits_made_in_slices(vocab_slice, monkeypatch, convolutions):
    monkeypatch.setattr(discrete_vae, 'VOCAB_SLICE', vocab_slice)
    model = build(vocab_size=32, n_hid=16).eval()
    tokens, widths = model.encode(images(32, 32)), [len(weight) for _, weight in convolutions]
    assert max(widths) == 8 * 16 and set(widths[-math.ceil(32 / vocab_slice) :]) <= {vocab_slice, 32 % vocab_slice}
    logits = model.encode_logits(images(32, 32))
    assert logits.shape == (2, 32, 4, 4) and tokens.dtype == torch.int64
    assert len(tokens.unique()) > 3 and torch.equal(tokens, logits.argmax(dim=1))
    last = model.encoder.blocks.output.conv
    for first, second in ((2, 14), (0, 1)):  # equal logits in other slices or in the same
        for index in (first, second):
            last.w[index], last.b[index] = 0, 1000
        assert (model.encode(images()) == first).all()


@torch.no_grad()
def test_decoding_tokens_equals_decoding_their_one_hot_map():
    model = build()
    for parameter in model.decoder.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))  # biases begin at zero
    tokens = torch.randint(16, (2, 2, 3), generator=torch.Generator().manual_seed(0))
    statistics = model.decoder(F.one_hot(tokens, 16).permute(0, 3, 1, 2).float())
    assert statistics.shape == (2, 6, 16, 24)
    expected = ((statistics[:, :3].sigmoid() - 0.1) / 0.8).clamp(0, 1)
    torch.testing.assert_close(model.decode(tokens), expected)
    assert expected.std() > 0.01
    model.decoder.blocks.output.conv.w.mul_(100)
    decoded = model.decode(torch.arange(16).view(1, 4, 4))
    assert decoded.min() == 0 and decoded.max() == 1
    assert map_pixels(torch.tensor([0, 0.5, 1])).tolist() == pytest.approx([0.1, 0.5, 0.9])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="encode_dtype must be one of float32, float16, bfloat16, got 'half'"):
        build(encode_dtype='half')
    for size in ((20, 16), (16, 20), (4, 8)):
        for call in (DiscreteVAE.encode, DiscreteVAE.loss):
            with pytest.raises(ValueError, match=f'multiples of 8, got {size[0]} x {size[1]}'):
                call(build(), images(*size))


def test_modes_give_tokens_errors_of_every_image_or_the_losses():
    model, x = build().eval(), images()
    tokens = model.encode(x)
    assert torch.equal(model(x), tokens)
    errors = (model.decode(tokens) - x).square().mean(dim=(1, 2, 3))
    for sample, *expected in zip(model(x, mode='predict'), tokens, errors, strict=True):
        torch.testing.assert_close([sample['tokens'], sample['squared_error']], expected)
    losses = model(x, mode='loss')
    for name, value in codebook_use(torch.bincount(tokens.flatten(), minlength=16)).items():
        torch.testing.assert_close(losses[name], value)
    total, logged = model.parse_losses(losses)
    torch.testing.assert_close(total, losses['loss_reconstruction'] + losses['loss_kl'])
    assert set(logged) == {'loss', *losses}


@torch.no_grad()
@pytest.mark.parametrize('dtype, kept', [('float32', 1), ('float16', 0.99), ('bfloat16', 0.9)])
def test_all_convolutions_but_the_last_have_the_dtype_and_most_tokens_are_kept(dtype, kept, convolutions):
    model, x = build(vocab_size=32, n_hid=16), images(64, 64, batch=48)
    for name, parameter in model.encoder.named_parameters():
        if 'conv_4.w' in name:
            parameter.mul_(4)  # branches as strong as a trained tokenizer's
    model.encoder.blocks.output.conv.b.sub_(model.encode_logits(x[:8]).mean(dim=(0, 2, 3)))  # every token occurs
    expected = model.encode(x)
    assert len(expected.unique()) > 16
    model.encode_dtype = dtype
    convolutions.clear()
    tokens = model.encode(x)
    dtypes = [(x.dtype, weight.dtype) for x, weight in convolutions]
    assert set(dtypes[:-1]) == {(getattr(torch, dtype),) * 2} and dtypes[-1] == (torch.float32,) * 2
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(tokens, expected) == (kept == 1) and (tokens == expected).float().mean() >= kept
    losses = []
    for model.encode_dtype in ('float32', dtype):  # training is in float32
        torch.manual_seed(1)
        losses.append(model.loss(x[:1])['loss_reconstruction'])
    assert torch.equal(*losses)


def test_a_compiled_encoder_gives_the_same_tokens_under_the_same_names(monkeypatch):
    compiling = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, 'compile', lambda module: compiling(module, backend='eager'))
    plain, compiled = build().eval(), build(compile_encoder=True).eval()
    assert list(compiled.state_dict()) == list(plain.state_dict())
    assert torch.equal(compiled.encode(images()), plain.encode(images()))
    assert compiled.encoder._compiled_call_impl is not None


def test_losses_are_those_of_the_decoded_relaxed_codes_and_of_the_uniform_prior():
    model, x, seen = build(temperature=0.7, kl_weight=0.25), images(), []
    model.decoder.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    losses = model.loss(x)
    ((codes, statistics),) = seen
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(2, 2, 3))
    density = TransformedDistribution(Laplace(statistics[:, :3], statistics[:, 3:].exp()), SigmoidTransform())
    torch.testing.assert_close(losses['loss_reconstruction'], -density.log_prob(0.8 * x + 0.1).mean())
    error = (((statistics[:, :3].sigmoid() - 0.1) / 0.8).clamp(0, 1) - x).square().mean()
    assert losses['psnr'].item() == pytest.approx(10 * math.log10(1 / error.item()), rel=1e-4)
    logits = model.encode_logits(x).permute(0, 2, 3, 1)
    expected = kl_divergence(Categorical(logits=logits), Categorical(logits=torch.zeros_like(logits))).mean()
    torch.testing.assert_close((losses['kl'], losses['loss_kl']), (expected, 0.25 * expected))
    assert not losses['kl'].requires_grad
    model.parse_losses(losses)[0].backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_temperature_sharpens_the_codes():
    model, largest = build(), []
    model.decoder.register_forward_pre_hook(lambda module, args: largest.append(args[0].amax(dim=1).mean().item()))
    for model.temperature in (0.01, 1.0, 100.0):
        model.loss(images(64, 64))
    assert largest[0] > 0.95 > largest[1] > largest[2] and largest[2] < 0.1


@pytest.mark.parametrize(
    'counts, perplexity, used',
    [((5, 5, 5, 5), 4, 1), ((0, 7, 0, 0), 1, 0.25), ((2, 2, 0, 0), 2, 0.5), ((1, 3), 4 / 3**0.75, 1)],
)
def test_perplexity_and_share_of_used_codes_of_known_counts(counts, perplexity, used):
    assert codebook_use(torch.tensor(counts)) == pytest.approx(dict(perplexity=perplexity, used_codes=100 * used))


def test_a_whole_checkpoint_loads_and_of_the_encoder_alone_the_lack_is_logged(monkeypatch):
    lines = []
    monkeypatch.setattr(discrete_vae, 'print_log', lambda line, logger: lines.append(line))
    whole, model = build(seed=7), build()
    model.load_state_dict(whole.state_dict(), strict=True)
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert not lines
    model = build()
    encoder = {name: tensor for name, tensor in whole.state_dict().items() if name.startswith('encoder.')}
    model.load_state_dict(encoder, strict=False)
    assert torch.equal(model.encode_logits(images()), whole.encode_logits(images()))
    for (name, tensor), start in zip(model.decoder.named_parameters(), build().decoder.parameters()):
        assert torch.equal(tensor, start), name
    assert len(lines) == 1 and 'no decoder' in lines[0]


@pytest.mark.parametrize(
    'size, size_of_file, name',
    [
        ({}, dict(vocab_size=32), 'encoder.blocks.output'),
        ({}, dict(n_hid=16), 'encoder.blocks.'),
        ({}, dict(n_init=4), 'decoder.blocks.input'),
        (dict(blocks_per_group=2), {}, 'nothing'),  # tensors are missing
    ],
)
def test_a_checkpoint_of_another_size_is_refused_naming_the_vocabulary(size, size_of_file, name):
    with pytest.raises(ValueError, match='does not fit this tokenizer: .*vocab_size=16.*, got') as error:
        build(**size).load_state_dict(build(**size_of_file).state_dict(), strict=False)
    assert name in str(error.value)


@pytest.mark.parametrize('dropped', ['encoder.blocks.input.w', 'decoder.blocks.output.conv.b', 'encoder.', ''])
def test_a_checkpoint_with_a_hole_is_refused_naming_it(dropped):
    state = {name: tensor for name, tensor in build().state_dict().items() if not name.startswith(dropped)}
    with pytest.raises(ValueError, match=f'{dropped}.* got nothing'):
        build().load_state_dict(state, strict=False)
