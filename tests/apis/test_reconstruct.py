"""Reconstructions of images by models as the recipes train them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from PIL import Image
from support.tiny import CONFIGS, draw, TOKENIZER

from beit_mm.apis import load_model, reconstruct, ReconstructionInferencer

SMALL = {
    **{f'model.backbone.{key}': value for key, value in dict(img_size=64, embed_dim=32, depth=2, num_heads=2).items()},
    **TOKENIZER,
}


@pytest.fixture(scope='module')
def files(tmp_path_factory) -> Path:
    """Weights: `whole.pth`, and as released `trunk.pth`, `encoder.pth` and `decoder.pth`; a small config; images."""
    folder = tmp_path_factory.mktemp('reconstruction')
    torch.manual_seed(0)
    cfg = Config.fromfile(CONFIGS / 'beit_pretrain.py')
    cfg.merge_from_dict({**SMALL, 'model.target.tokenizer.init_cfg': None})
    cfg.dump(folder / 'small.py')
    state = {
        name: tensor + 0.1 if name.endswith('.b') else tensor
        for name, tensor in MODELS.build(cfg.model).state_dict().items()
    }
    torch.save(dict(state_dict=state), folder / 'whole.pth')
    prefix = 'target.tokenizer.'
    torch.save({name: tensor for name, tensor in state.items() if prefix not in name}, folder / 'trunk.pth')
    for half in ('encoder', 'decoder'):
        weights = {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix + half)}
        torch.save(weights, folder / f'{half}.pth')
    (folder / 'images').mkdir()
    Image.fromarray(draw(80, 80)).save(folder / 'images' / 'square.png')
    Image.fromarray(draw(40, 100, seed=1)).save(folder / 'images' / 'wide.png')
    return folder


@pytest.fixture(scope='module')
def model(files):
    return load_model(files / 'small.py', files / 'whole.pth', 'cpu')


def test_images_keep_their_ratio_and_the_share_of_masked_patches(model, files):
    square, wide = reconstruct(model, files / 'images')
    assert [Path(image['image']).name for image in (square, wide)] == ['square.png', 'wide.png']
    for image, grid in ((square, (4, 4)), (wide, (4, 10))):
        for name in ('original', 'masked', 'tokens_decoded', 'completed'):
            assert image[name].shape == (8 * grid[0], 8 * grid[1], 3) and image[name].dtype == np.uint8
        assert image['tokens'].shape == image['predicted'].shape == image['mask'].shape == grid
        assert image['mask'].sum() == round(75 / 196 * grid[0] * grid[1])
        same = image['tokens'] == image['predicted']
        assert same[~image['mask']].all() and image['token_accuracy'] == pytest.approx(same[image['mask']].mean())
        assert image['perplexity'] >= 1
    (banner,) = reconstruct(model, np.zeros((10, 600, 3), np.uint8))
    assert banner['mask'].shape == (4, 16)


def test_the_original_is_the_image_in_rgb(model, files):
    (image,) = reconstruct(model, files / 'images' / 'square.png')
    expected = Image.open(files / 'images' / 'square.png').resize((32, 32), Image.LANCZOS)
    assert np.abs(image['original'].astype(int) - np.asarray(expected).astype(int)).max() <= 1


def test_a_mask_depends_on_the_image_and_the_seed_only(model, files):
    paths = [str(files / 'images' / f'{name}.png') for name in ('square', 'wide')]
    state = torch.get_rng_state()
    together, alone = reconstruct(model, paths)[1], reconstruct(model, paths[1])[0]
    assert np.array_equal(together['mask'], alone['mask'])
    assert not np.array_equal(reconstruct(model, paths[1], seed=1)[0]['mask'], alone['mask'])
    assert torch.equal(torch.get_rng_state(), state)


def test_size_number_and_kind_of_masks_can_be_chosen(model, files):
    (image,) = reconstruct(model, files / 'images' / 'wide.png', num_masked=3, size=(32, 96), mask='random')
    assert image['mask'].shape == (2, 6) and image['mask'].sum() == 3 and image['original'].shape == (16, 48, 3)


def test_a_tokenizer_in_its_own_files_gives_the_same(model, files, capsys):
    halves = [files / 'encoder.pth', files / 'decoder.pth']
    images = files / 'images' / 'square.png'
    (apart,) = reconstruct(files / 'small.py', images, files / 'trunk.pth', tokenizer=halves, device='cpu')
    assert 'missing' not in ''.join(capsys.readouterr()).replace('missing: none', '')
    (whole,) = reconstruct(model, images)
    assert all(np.array_equal(apart[name], whole[name]) for name in apart)


@pytest.mark.parametrize(
    'weights, tokenizer, message',
    [
        ('trunk.pth', None, 'that the model was trained with, got weights without it: give both files'),
        ('trunk.pth', 'encoder.pth', 'got weights without its decoder: give both files'),
        ('whole.pth', 'encoder.pth', 'got weights without its decoder'),
    ],
)
def test_weights_without_a_whole_tokenizer_are_refused(weights, tokenizer, message, files, capsys):
    tokenizer = tokenizer and files / tokenizer
    with pytest.raises(ValueError, match=message):
        ReconstructionInferencer(files / 'small.py', files / weights, device='cpu', tokenizer=tokenizer)
    assert 'missing' not in ''.join(capsys.readouterr()).replace('missing: none', '')


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(size=(60, 64)), r'multiples of the patch size 16, got 60 x 64'),
        (dict(mask='all'), "mask must be one of blockwise, random, got 'all'"),
        (dict(num_masked=17), r'num_masked must be 1 to 16, the patches of a grid of 4 x 4, got 17'),
        (dict(num_masked=0), 'num_masked must be 1 to 16, .* got 0'),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message, model, files):
    with pytest.raises(ValueError, match=message):
        reconstruct(model, files / 'images' / 'square.png', **options)
