"""Reconstructions of images from Python and from the command line, by models as the recipes train them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from PIL import Image
from support import ROOT

from beit_mm.apis import load_model, reconstruct, writing
from beit_mm.engine.runners import launch

CONFIG = str(ROOT / 'configs' / 'beit_pretrain.py')
SMALL = {
    **{f'model.backbone.{key}': value for key, value in dict(img_size=64, embed_dim=32, depth=2, num_heads=2).items()},
    **{
        f'model.target.tokenizer.{key}': value
        for key, value in dict(vocab_size=16, n_hid=8, n_init=8, blocks_per_group=1).items()
    },
}


@pytest.fixture(scope='module')
def files(tmp_path_factory) -> Path:
    """Weights: `whole.pth`, and as released `trunk.pth`, `encoder.pth` and `decoder.pth`; a small config; images."""
    folder = tmp_path_factory.mktemp('reconstruction')
    torch.manual_seed(0)
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict({**SMALL, 'model.target.tokenizer.init_cfg': None})
    cfg.dump(folder / 'small.py')
    state = {
        name: tensor + 0.1 if name.endswith('.b') else tensor
        for name, tensor in MODELS.build(cfg.model).state_dict().items()
    }
    torch.save(dict(state_dict=state), folder / 'whole.pth')
    place = 'target.tokenizer.'
    torch.save({name: tensor for name, tensor in state.items() if place not in name}, folder / 'trunk.pth')
    for half in ('encoder', 'decoder'):
        torch.save(
            {name.removeprefix(place): tensor for name, tensor in state.items() if name.startswith(place + half)},
            folder / f'{half}.pth',
        )
    rng = np.random.default_rng(0)
    (folder / 'images').mkdir()
    for name, size in dict(square=(80, 80), wide=(40, 100)).items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / 'images' / f'{name}.png')
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


def test_the_original_is_the_image_in_rgb(model, files):
    (image,) = reconstruct(model, files / 'images' / 'square.png')
    expected = Image.open(files / 'images' / 'square.png').resize((32, 32), Image.LANCZOS)
    assert np.abs(image['original'].astype(int) - np.asarray(expected).astype(int)).max() <= 1


def test_masks_follow_from_the_seed_and_the_image_wherever_it_stands(model, files):
    paths = [str(files / 'images' / f'{name}.png') for name in ('square', 'wide')]
    state = torch.get_rng_state()
    together, alone = reconstruct(model, paths)[1], reconstruct(model, paths[1])[0]
    assert np.array_equal(together['mask'], alone['mask'])
    assert not np.array_equal(reconstruct(model, paths[1], seed=1)[0]['mask'], alone['mask'])
    assert torch.equal(torch.get_rng_state(), state)


def test_size_number_and_kind_of_masks_can_be_chosen(model, files):
    (image,) = reconstruct(model, files / 'images' / 'wide.png', num_masked=3, size=(32, 96), mask='random')
    assert image['mask'].shape == (2, 6) and image['mask'].sum() == 3 and image['original'].shape == (16, 48, 3)


def test_a_tokenizer_in_files_of_its_own_is_as_good(model, files, capsys):
    halves = [files / 'encoder.pth', files / 'decoder.pth']
    images = files / 'images' / 'square.png'
    (apart,) = reconstruct(files / 'small.py', images, files / 'trunk.pth', halves, device='cpu')
    assert 'missing' not in ''.join(capsys.readouterr()).replace('missing: none', '')
    (whole,) = reconstruct(model, images)
    assert all(np.array_equal(apart[name], whole[name]) for name in apart)


@pytest.mark.parametrize(
    'weights, tokenizer, message',
    [
        ('trunk.pth', None, 'needs the tokenizer that the model was trained with, got weights without one'),
        ('trunk.pth', 'encoder.pth', 'needs a tokenizer with its decoder, got weights without one: give both files'),
        ('whole.pth', 'encoder.pth', 'needs a tokenizer with its decoder'),
    ],
)
def test_weights_without_a_whole_tokenizer_are_refused(weights, tokenizer, message, files, capsys):
    with pytest.raises(ValueError, match=message):
        reconstruct(
            files / 'small.py', files / 'images', files / weights, tokenizer and files / tokenizer, device='cpu'
        )
    printed = ''.join(capsys.readouterr()).replace('missing: none', '')
    assert 'missing' not in printed


def test_a_model_is_loaded_from_weights_or_goes_as_it_is(model, files):
    images = files / 'images'
    with pytest.raises(ValueError, match='weights must name a checkpoint for MaskedImageModel, got none'):
        reconstruct(files / 'small.py', images, device='cpu')
    with pytest.raises(ValueError, match='goes as it is, got weights and tokenizer and device and options beside it'):
        reconstruct(model, images, 'whole.pth', 'encoder.pth', device='cpu', options={})


def test_a_banner_is_reconstructed_at_four_to_one(model):
    (image,) = reconstruct(model, np.zeros((10, 600, 3), np.uint8))
    assert image['mask'].shape == (4, 16)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(size=(60, 64)), r'multiples of the patch size 16, got 60 x 64'),
        (dict(mask='all'), "mask must be one of blockwise, random, got 'all'"),
        (dict(num_masked=17), r'num_masked must be 1 to 16, the patches of a grid of 4 x 4, got 17'),
        (dict(num_masked=0), 'num_masked must be 1 to 16, .* got 0'),
    ],
)
def test_what_does_not_fit_is_refused(options, message, model, files):
    with pytest.raises(ValueError, match=message):
        reconstruct(model, files / 'images' / 'square.png', **options)


@pytest.fixture
def run_tool(files, monkeypatch):
    """tools/reconstruct.py in this process."""
    monkeypatch.syspath_prepend(ROOT / 'tools')
    import reconstruct as script

    def run(weights: str, *arguments: str) -> None:
        monkeypatch.setattr(
            sys,
            'argv',
            [
                'reconstruct.py',
                str(files / 'images'),
                '--model',
                str(files / 'small.py'),
                '--weights',
                str(files / weights),
                *map(str, arguments),
            ],
        )
        launch.run(script.main, script.parse_args())

    return run


def test_the_tool_writes_a_sheet_and_numbers(run_tool, tmp_path, capsys):
    run_tool('whole.pth', '--out', tmp_path / 'new' / 'sheet.png', '--json', tmp_path / 'numbers.json')
    lines = capsys.readouterr().out.splitlines()
    first, second = json.loads((tmp_path / 'numbers.json').read_text())
    assert lines[-3].endswith(
        f'wide.png\t15 of 40 patches masked\ttoken accuracy '
        f'{100 * second["token_accuracy"]:.1f} %\tperplexity {second["perplexity"]:.1f}'
    )
    assert np.shape(first['tokens']) == (4, 4) and np.sum(first['mask']) == 6
    assert Image.open(tmp_path / 'new' / 'sheet.png').width > 4 * 80


def test_a_sheet_shows_the_first_images_and_the_numbers_are_of_all(run_tool, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(writing, 'MAX_ROWS', 1)
    monkeypatch.setattr('reconstruct.MAX_ROWS', 1)
    run_tool(
        'whole.pth',
        '--out',
        tmp_path / 'sheet.png',
        '--json',
        tmp_path / 'numbers.json',
        '--cfg-options',
        'train_dataloader.dataset.pipeline.3.num_masked=98',
    )
    first, second = json.loads((tmp_path / 'numbers.json').read_text())
    assert np.sum(first['mask']) == 8 and np.sum(second['mask']) == 20  # half of the patches, as the option says
    assert f'wrote {tmp_path}/sheet.png, the first 1 of 2 images' in capsys.readouterr().out
    assert Image.open(tmp_path / 'sheet.png').height < 2 * 224


def test_the_tool_overwrites_no_image_and_writes_pictures_only(run_tool, files, capsys):
    image = files / 'images' / 'wide.png'
    before = image.read_bytes()
    for out, message in (
        (image, 'error: results must not overwrite images, got'),
        (files / 'sheet', 'error: --out must end in .png or .jpg or .pdf, got'),
    ):
        with pytest.raises(SystemExit, match='1'):
            run_tool('whole.pth', '--out', out)
        assert message in capsys.readouterr().err
    assert image.read_bytes() == before


def test_the_tool_ends_a_mistake_in_one_sentence(run_tool, capsys):
    with pytest.raises(SystemExit, match='1'):
        run_tool('trunk.pth')
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .startswith('error: reconstruction needs the tokenizer that the model was trained')
    )
