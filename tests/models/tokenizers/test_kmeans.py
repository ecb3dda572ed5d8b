"""KMeansTokenizer: what it finds, decodes and refuses, and that processes share one codebook."""

import pytest
import torch
from mmengine.dist import get_world_size
from support.processes import together

from beit_mm.models import DiscreteVAE, KMeansTokenizer, MaskedImageModel
from beit_mm.visualization.reconstruction import reconstruct_batch


def train(tokenizer: KMeansTokenizer, batches, lr: float = 0.5) -> list[dict]:
    optimizer, logs = torch.optim.SGD(tokenizer.train().parameters(), lr), []
    for batch in batches:
        optimizer.zero_grad()
        logs.append(tokenizer.loss(batch))
        logs[-1]['loss_centres'].backward()
        optimizer.step()
    return logs


def mosaics(patches: torch.Tensor, count: int, noise: float = 0.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (count, C, 3p, 4p) of patches (N, C, p, p), and which patch is where, (count, 3, 4)."""
    random = torch.Generator().manual_seed(seed)
    which = torch.randint(len(patches), (count, 3, 4), generator=random)
    images = patches[which].permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
    return (images + noise * torch.randn(images.shape, generator=random)).clamp(0, 1), which


def build(patches: torch.Tensor, **options) -> KMeansTokenizer:
    sizes = dict(vocab_size=2 * len(patches), patch_size=patches.shape[2], in_channels=patches.shape[1])
    return KMeansTokenizer(**{**sizes, 'whitening_iters': 3, **options})


@pytest.fixture(scope='module')
def trained() -> tuple[KMeansTokenizer, torch.Tensor]:
    torch.manual_seed(0)
    patches = torch.rand(8, 3, 4, 4)
    tokenizer = build(patches)
    train(tokenizer, [mosaics(patches, 16, 0.01, seed)[0] for seed in range(30)])
    return tokenizer.eval(), patches


@pytest.mark.parametrize('channels, size', [(1, 8), (3, 4), (13, 2)])
def test_tokens_tell_patches_apart_and_decode_to_them(channels, size):
    torch.manual_seed(0)
    patches = torch.rand(8, channels, size, size)
    tokenizer = build(patches)
    logs = train(tokenizer, [mosaics(patches, 16, 0.01, seed)[0] for seed in range(30)])
    assert logs[1].keys() == {'loss_centres'} and logs[1]['loss_centres'] == 0 and logs[-1]['similarity'] > 0.9
    images, which = mosaics(patches, 32, 0.01, seed=99)
    tokens = tokenizer.eval()(images)
    assert tokens.shape == which.shape and tokens.dtype == torch.int64
    assert all(len(which[tokens == token].unique()) == 1 for token in tokens.unique())
    sample = tokenizer(images, mode='predict')[3]
    assert torch.equal(sample['tokens'], tokens[3]) and sample['squared_error'] < 1e-3
    torch.testing.assert_close(tokenizer.decode(tokens), images, atol=0.08, rtol=0)


def test_centres_that_start_equal_do_not_stay_unused():
    """Most patches are equal, so most of the centres that are drawn first are, too."""
    torch.manual_seed(0)
    patches = torch.rand(16, 3, 4, 4)[[0] * 200 + [*range(16)]]
    logs = train(build(patches, vocab_size=16), [mosaics(patches, 32, 0.0, seed)[0] for seed in range(70)])
    assert logs[3]['used_codes'] < 60 and logs[-1]['used_codes'] > 90


def test_whitened_components_have_the_variance_that_the_floor_leaves(trained):
    tokenizer, patches = trained
    images, _ = mosaics(patches, 500, 0.01, seed=5)
    vectors, lengths = tokenizer._whiten(tokenizer._to_patches(images))
    torch.testing.assert_close(vectors.norm(dim=3), torch.ones_like(lengths))
    variances = (vectors * lengths[..., None]).flatten(0, 2).var(dim=0)
    raw = tokenizer.scales.square()  # with the floor, here the mean variance
    expected = 1 - (raw.mean() / 2) / raw
    torch.testing.assert_close(variances, expected, atol=0.05, rtol=0.1)


def test_equal_images_and_a_step_with_fewer_patches_than_tokens_give_finite_numbers():
    tokenizer = build(torch.zeros(8, 3, 4, 4))
    logs = train(tokenizer, [torch.full((1, 3, 4, 4), 0.3)] * 6)
    assert all(torch.isfinite(value) for log in logs for value in log.values())
    assert all(parameter.isfinite().all() for parameter in tokenizer.parameters())
    torch.testing.assert_close(tokenizer.decode(tokenizer.encode(torch.full((1, 3, 4, 4), 0.3))).mean().item(), 0.3)


def test_one_that_is_not_trained_or_whose_training_ended_in_the_whitening_is_refused(trained):
    tokenizer, patches = trained
    other = build(patches, whitening_iters=4)
    train(other, [mosaics(patches, 4)[0]] * 3)
    images = mosaics(patches, 1)[0]
    for untrained in (build(patches), other, _load(build(patches), other.state_dict())):
        for call in (
            lambda: untrained.encode(images),
            lambda: untrained.decode(torch.zeros(1, 3, 4, dtype=torch.long)),
        ):
            with pytest.raises(ValueError, match=r'is not trained .*load a trained one by init_cfg'):
                call()
    loaded = _load(build(patches), tokenizer.state_dict())
    assert torch.equal(loaded.encode(images), tokenizer.encode(images))
    assert torch.equal(loaded.decode(loaded.encode(images)), tokenizer.decode(tokenizer.encode(images)))


def test_in_half_precision_tokens_stay(trained):
    tokenizer, patches = trained
    images, half = mosaics(patches, 4)[0], _load(build(patches), tokenizer.state_dict()).half()
    assert torch.equal(half.encode(images), tokenizer.encode(images))
    torch.testing.assert_close(
        half.decode(half.encode(images)), tokenizer.decode(tokenizer.encode(images)), atol=0.01, rtol=0
    )


def _load(tokenizer: KMeansTokenizer, state: dict) -> KMeansTokenizer:
    tokenizer.load_state_dict(state)
    return tokenizer


def test_what_does_not_fit_is_refused(trained, tmp_path):
    tokenizer, patches = trained
    path = tmp_path / 'other.pth'
    vae = DiscreteVAE(vocab_size=16, n_hid=8, n_init=8, blocks_per_group=1)
    cases = {
        r'centres must be \(16, 48\) \(vocab_size=16, patch_size=4, in_channels=3\), got nothing': vae.state_dict(),
        r'centres must be \(16, 48\).*got \(16, 64\)': build(patches, in_channels=4).state_dict(),
    }
    for message, state in cases.items():
        torch.save(state, path)
        init_cfg = dict(type='Pretrained', checkpoint=str(path))
        with pytest.raises(ValueError, match=f'^{path}: the checkpoint does not fit this tokenizer: {message}'):
            build(patches, init_cfg=init_cfg).init_weights()
    with pytest.raises(ValueError, match='does not fit this tokenizer: encoder.* got nothing'):
        vae.load_state_dict(tokenizer.state_dict())
    with pytest.raises(ValueError, match=r'3 channels \(in_channels of the tokenizer\), got 1'):
        tokenizer.encode(torch.rand(1, 1, 8, 8))
    with pytest.raises(ValueError, match='multiples of 4, got 8 x 6'):
        tokenizer.encode(torch.rand(1, 3, 8, 6))
    with pytest.raises(ValueError, match='whitening_iters and floor must be positive, got 0 and 1.0'):
        build(patches, whitening_iters=0)


def test_masked_patches_are_predicted_and_drawn(trained):
    tokenizer, patches = trained
    trunk = dict(
        type='beit_mm.BEiT', img_size=(48, 64), embed_dim=32, depth=1, num_heads=2, use_mask_token=True, out_type='raw'
    )
    model = MaskedImageModel(trunk, dict(type='beit_mm.VisualTokens', tokenizer=tokenizer))
    views, mask = mosaics(patches, 2)[0], torch.arange(12).view(1, 3, 4).expand(2, -1, -1) < 5
    assert model(torch.rand(2, 3, 48, 64), views, mask, mode='loss')['loss'].isfinite()
    pictures = reconstruct_batch(model, torch.rand(2, 3, 48, 64), views, mask)
    assert pictures[0]['completed'].shape == (12, 16, 3) and pictures[0]['predicted'].shape == (3, 4)


def _train_in_shares(rank: int, patches: torch.Tensor) -> dict:
    torch.manual_seed(0)  # the main process draws
    tokenizer = build(patches, vocab_size=64)
    train(tokenizer, [mosaics(patches, 4, 0.1, seed)[0][rank :: get_world_size()] for seed in range(40)])
    return tokenizer.state_dict()


def test_two_processes_find_what_one_finds(trained, tmp_path):
    """Samplers give process r of two every second image of a step."""
    single, *_ = together(1, tmp_path / 'one', _train_in_shares, trained[1])
    first, second = together(2, tmp_path / 'two', _train_in_shares, trained[1])
    for name, expected in single.items():
        assert torch.equal(first[name], second[name]), name
    for name in ('centres', 'lengths', 'idle', 'mean'):
        torch.testing.assert_close(_rotate(first, name), _rotate(single, name), atol=1e-4, rtol=1e-4)


def _rotate(state: dict, name: str) -> torch.Tensor:
    """Centres in the space of patches, where eigenvectors of another sign do not matter."""
    return state['centres'] @ state['components'].t() if name == 'centres' else state[name]
