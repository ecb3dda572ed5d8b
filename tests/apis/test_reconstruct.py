"""Reconstructions of images by a masked image model and its tokenizer."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny import draw

from beit_mm.apis import reconstruct, ReconstructionInferencer

PICTURES = ('original', 'masked', 'tokens_decoded', 'completed')


def test_reconstructions_keep_the_ratio_and_the_share_of_masked_patches(reconstructing):
    square, wide, banner = reconstruct(reconstructing, [draw(80, 80), draw(40, 100), draw(10, 600)])
    for image, grid in ((square, (2, 2)), (wide, (2, 5)), (banner, (2, 8))):
        for name in PICTURES:
            assert image[name].shape == (8 * grid[0], 8 * grid[1], 3) and image[name].dtype == np.uint8
        assert image['tokens'].shape == image['predicted'].shape == image['mask'].shape == grid
        assert image['mask'].sum() == round(75 / 196 * grid[0] * grid[1])
        same = image['tokens'] == image['predicted']
        assert same[~image['mask']].all() and image['token_accuracy'] == pytest.approx(same[image['mask']].mean())
        assert image['perplexity'] >= 1
    rgb = Image.fromarray(np.ascontiguousarray(draw(80, 80)[..., ::-1])).resize((16, 16), Image.LANCZOS)
    assert np.abs(square['original'].astype(int) - np.asarray(rgb).astype(int)).max() <= 1


def test_a_mask_depends_on_the_image_and_the_options_only(reconstructing, files):
    state, size = torch.get_rng_state(), (64, 64)
    together, alone = (reconstruct(reconstructing, images, size=size)[-1] for images in (files, files[-1]))
    assert np.array_equal(together['mask'], alone['mask'])
    assert not np.array_equal(reconstruct(reconstructing, files[-1], size=size, seed=1)[0]['mask'], alone['mask'])
    (image,) = reconstruct(reconstructing, files[-1], num_masked=3, size=(32, 96), mask='random')
    assert image['mask'].shape == (2, 6) and image['mask'].sum() == 3 and image['original'].shape == (16, 48, 3)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture(scope='module')
def parts(pretrained, tmp_path_factory) -> Path:
    """Weights as released: `trunk.pth`, with the head that predicts tokens, `encoder.pth` and `decoder.pth`."""
    folder, prefix = tmp_path_factory.mktemp('parts'), 'target.tokenizer.'
    state = torch.load(pretrained.weights)['state_dict']
    torch.save({name: state[name] for name in state if prefix not in name}, folder / 'trunk.pth')
    for half in ('encoder', 'decoder'):
        weights = {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix + half)}
        torch.save(dict(state_dict=weights), folder / f'{half}.pth')
    return folder


def test_a_tokenizer_in_its_own_files_gives_the_same(pretrained, reconstructing, parts, files, capsys):
    halves = [parts / 'encoder.pth', parts / 'decoder.pth']
    options = dict(tokenizer=halves, device='cpu', options=pretrained.options)
    (apart,) = reconstruct(pretrained.model, files[0], parts / 'trunk.pth', **options)
    assert 'missing' not in ''.join(capsys.readouterr()).replace('missing: none', '')
    (whole,) = reconstruct(reconstructing, files[0])
    assert all(np.array_equal(apart[name], whole[name]) for name in apart)


@pytest.mark.parametrize(
    'weights, tokenizer, message',
    [
        ('trunk.pth', None, 'that the model was trained with, got weights without it: give both files'),
        ('trunk.pth', 'encoder.pth', 'got weights without its decoder: give both files'),
        (None, 'encoder.pth', 'got weights without its decoder'),
    ],
)
def test_weights_without_a_whole_tokenizer_are_refused(weights, tokenizer, message, pretrained, parts, capsys):
    weights = parts / weights if weights else pretrained.weights
    options = dict(device='cpu', tokenizer=tokenizer and parts / tokenizer, options=pretrained.options)
    with pytest.raises(ValueError, match=message):
        ReconstructionInferencer(pretrained.model, weights, **options)
    assert 'missing' not in ''.join(capsys.readouterr()).replace('missing: none', '')
