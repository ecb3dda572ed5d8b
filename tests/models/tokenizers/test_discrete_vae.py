"""DiscreteVAE: codes and images, the training objective, and which checkpoints it takes."""

import logging
import math

import pytest
import torch
from mmengine.logging import MMLogger
from torch.distributions import Categorical, kl_divergence, Laplace, SigmoidTransform, TransformedDistribution
from torch.nn import functional as F

from beit_mm.models import DiscreteVAE
from beit_mm.models.tokenizers.discrete_vae import codebook_use, logit_laplace_nll, map_pixels

TINY = dict(vocab_size=16, n_hid=8, n_init=8, blocks_per_group=1)


def build(**kwargs) -> DiscreteVAE:
    torch.manual_seed(0)
    return DiscreteVAE(**{**TINY, **kwargs})


def images(height=16, width=24, batch=2) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


# Codes and images


def test_decoding_tokens_equals_decoding_their_one_hot_map():
    model = build()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # biases begin at zero
    tokens = torch.randint(16, (2, 2, 3), generator=torch.Generator().manual_seed(0))
    statistics = model.decoder(F.one_hot(tokens, 16).permute(0, 3, 1, 2).float())
    assert statistics.shape == (2, 6, 16, 24)
    expected = ((statistics[:, :3].sigmoid() - 0.1) / 0.8).clamp(0, 1)
    torch.testing.assert_close(model.decode(tokens), expected)
    assert expected.std() > 0.01
    with torch.no_grad():
        model.decoder.blocks.output.conv.w.mul_(100)
    decoded = model.decode(torch.arange(16).view(1, 4, 4))
    assert decoded.min() == 0 and decoded.max() == 1


@pytest.mark.parametrize('size', [(20, 16), (16, 20), (4, 8)])
def test_sides_that_are_no_multiple_of_eight_are_refused_naming_them(size):
    for call in (DiscreteVAE.encode, DiscreteVAE.loss):
        with pytest.raises(ValueError, match=f'multiples of 8, got {size[0]} x {size[1]}'):
            call(build(), images(*size))


def test_pixels_keep_away_from_zero_and_one():
    assert map_pixels(torch.tensor([0, 0.5, 1])).tolist() == pytest.approx([0.1, 0.5, 0.9])


def test_tensor_mode_gives_tokens_and_predict_mode_errors_of_every_image():
    model, x = build().eval(), images()
    assert torch.equal(model(x), model.encode(x))
    samples = model(x, mode='predict')
    assert len(samples) == 2
    for index, sample in enumerate(samples):
        assert torch.equal(sample['tokens'], model.encode(x)[index])
        error = ((model.decode(model.encode(x))[index] - x[index]) ** 2).mean()
        torch.testing.assert_close(sample['squared_error'], error)


# The objective


def test_logit_laplace_is_the_density_of_a_sigmoid_of_a_laplace_variable():
    generator = torch.Generator().manual_seed(0)
    statistics = torch.randn(2, 6, 4, 5, generator=generator, dtype=torch.float64)
    pixels = torch.rand(2, 3, 4, 5, generator=generator, dtype=torch.float64) * 0.8 + 0.1
    expected = -TransformedDistribution(
        Laplace(statistics[:, :3], statistics[:, 3:].exp()), SigmoidTransform()
    ).log_prob(pixels)
    torch.testing.assert_close(logit_laplace_nll(statistics, pixels).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('mean, scale', [(0.3, 0.5), (-1.2, 0.3), (0.0, 0.9)])
def test_logit_laplace_integrates_to_one(mean, scale):
    pixels = torch.linspace(1e-5, 1 - 1e-5, 100_001).expand(1, 3, 1, -1)
    statistics = torch.tensor([mean] * 3 + [math.log(scale)] * 3).view(1, 6, 1, 1).expand(-1, -1, 1, 100_001)
    density = torch.exp(-logit_laplace_nll(statistics, pixels))[0, 0, 0].double()
    assert torch.trapezoid(density, pixels[0, 0, 0].double()).item() == pytest.approx(1, abs=2e-3)


def test_kl_is_that_of_the_codes_to_the_uniform_prior():
    model, x = build(kl_weight=0.25), images()
    losses = model.loss(x)
    logits = model.encode_logits(x).permute(0, 2, 3, 1)
    expected = kl_divergence(Categorical(logits=logits), Categorical(logits=torch.zeros_like(logits))).mean()
    torch.testing.assert_close(losses['kl'], expected)
    torch.testing.assert_close(losses['loss_kl'], 0.25 * expected)
    assert losses['loss_kl'].requires_grad and not losses['kl'].requires_grad


def test_reconstruction_and_psnr_are_those_of_the_decoded_relaxed_codes():
    model, x = build(temperature=0.7), images()
    seen = []
    model.decoder.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    losses = model.loss(x)
    codes, statistics = seen[0]
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(2, 2, 3))
    density = TransformedDistribution(Laplace(statistics[:, :3], statistics[:, 3:].exp()), SigmoidTransform())
    torch.testing.assert_close(losses['loss_reconstruction'], -density.log_prob(0.8 * x + 0.1).mean())
    error = (((statistics[:, :3].sigmoid() - 0.1) / 0.8).clamp(0, 1) - x).square().mean()
    assert losses['psnr'].item() == pytest.approx(10 * math.log10(1 / error.item()), rel=1e-4)


def test_temperature_sharpens_the_codes():
    largest = {}
    for temperature in (0.01, 1.0, 100.0):
        model = build(temperature=temperature)
        model.decoder.register_forward_pre_hook(
            lambda module, args: largest.__setitem__(temperature, args[0].amax(dim=1).mean().item())
        )
        model.loss(images(64, 64))
    assert largest[0.01] > 0.95 > largest[1.0] > largest[100.0] and largest[100.0] < 0.1


def test_perplexity_and_share_of_used_codes_of_known_counts():
    def use(*counts):
        return [value.item() for value in codebook_use(torch.tensor(counts)).values()]

    assert list(codebook_use(torch.tensor([1]))) == ['perplexity', 'used_codes']
    assert use(5, 5, 5, 5) == pytest.approx([4, 1])
    assert use(0, 7, 0, 0) == pytest.approx([1, 0.25])
    assert use(2, 2, 0, 0) == pytest.approx([2, 0.5])
    assert use(1, 3) == pytest.approx([math.exp(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75))), 1])


def test_the_loss_reports_the_use_of_the_codebook_in_the_batch():
    model, x = build(), images()
    expected = codebook_use(torch.bincount(model.encode(x).flatten(), minlength=16))
    losses = model(x, mode='loss')
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)
    total, logged = model.parse_losses(losses)
    torch.testing.assert_close(total, losses['loss_reconstruction'] + losses['loss_kl'])
    assert set(logged) == {'loss', *losses}


def test_training_lowers_the_loss():
    model, x = build(kl_weight=0.01), torch.zeros(4, 3, 16, 16)
    x[::2, :, :8], x[1::2, 0] = 1, 1
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=3e-3), []
    for _ in range(16):
        optimizer.zero_grad()
        loss, _ = model.parse_losses(model.loss(x))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert max(losses[-3:]) < losses[0] - 0.3
    assert all(parameter.grad is not None for parameter in model.parameters())


# Checkpoints


@pytest.fixture
def log():
    lines = []
    handler = logging.Handler()
    handler.filter = lambda record: record.getMessage().startswith('tokenizer:')
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def drawn(**kwargs) -> dict:
    torch.manual_seed(7)
    return DiscreteVAE(**{**TINY, **kwargs}).state_dict()


def test_a_whole_checkpoint_loads_strictly(log):
    model, state = build(), drawn()
    model.load_state_dict(state, strict=True)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not log


@pytest.mark.parametrize(
    'kwargs, name',
    [
        (dict(vocab_size=32), 'vocab_size=16'),
        (dict(n_hid=16), 'encoder.blocks.'),
        (dict(n_init=4), 'decoder.blocks.input'),
        (dict(blocks_per_group=2), 'vocab_size=16'),
    ],
)
def test_a_checkpoint_of_another_size_is_refused_naming_the_vocabulary(kwargs, name):
    if 'blocks_per_group' in kwargs:  # the smaller file into the larger model: tensors are missing
        model, state = build(**kwargs), drawn()
    else:
        model, state = build(), drawn(**kwargs)
    with pytest.raises(ValueError, match='does not fit this tokenizer: .*vocab_size=16.*, got') as error:
        model.load_state_dict(state, strict=False)
    assert name in str(error.value)


def test_a_checkpoint_of_the_encoder_alone_is_enough_to_encode_and_the_lack_is_said(log):
    model, whole = build(), drawn()
    decoder = {name: tensor.clone() for name, tensor in model.decoder.state_dict().items()}
    model.load_state_dict({name: tensor for name, tensor in whole.items() if name.startswith('encoder.')}, strict=False)
    other = build()
    other.load_state_dict(whole)
    assert torch.equal(model.encode_logits(images()), other.encode_logits(images()))
    assert all(torch.equal(tensor, decoder[name]) for name, tensor in model.decoder.state_dict().items())
    assert len(log) == 1 and 'no decoder' in log[0]


@pytest.mark.parametrize('dropped', ['encoder.blocks.input.w', 'decoder.blocks.output.conv.b', 'encoder.', ''])
def test_a_checkpoint_with_a_hole_is_refused_naming_it(dropped):
    state = {name: tensor for name, tensor in drawn().items() if not name.startswith(dropped)}
    with pytest.raises(ValueError, match=f'{dropped}.* got nothing'):
        build().load_state_dict(state, strict=False)
