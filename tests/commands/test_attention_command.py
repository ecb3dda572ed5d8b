"""beit-mm attention as a user runs it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import CONFIGS
from support.tools import command

from beit_mm.apis import load_model

DEMO = CONFIGS / 'demo' / 'finetune.py'


@pytest.fixture(scope='module')
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp('weights') / 'weights.pth'
    model = load_model(str(DEMO), device='cpu', options={'model.backbone.init_cfg': None})
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


@pytest.fixture
def visualize(weights, tmp_path) -> Callable:
    """Draw an image of 64 x 40 pixels by the demonstration's classifier, 6 x 6 patches, 4 blocks, 4 heads."""
    Image.effect_noise((64, 40), 60).convert('RGB').save(tmp_path / 'image.png')
    files = [tmp_path / 'image.png', '--model', DEMO, '--weights', weights, '--out', tmp_path / 'new' / 'attention.png']
    return lambda *arguments: command('attention', *files, *arguments)


def test_a_figure_and_the_maps_are_written(visualize, capsys, tmp_path):
    npz = tmp_path / 'new' / 'maps.npz'
    visualize('--points', '0,0', '63,39', '--block', 0, -1, '--heads', 3, '--npz', npz)
    assert capsys.readouterr().out == f'wrote {tmp_path}/new/attention.png\nwrote {npz}\n'
    figure = Image.open(tmp_path / 'new' / 'attention.png')
    assert figure.width > 5 * 2.2 * 150 and figure.height > 2 * 40 / 64 * 2.2 * 150  # point, and two maps of two blocks
    with np.load(npz) as maps:
        assert set(maps) == {'points', 'block_0', 'block_3'} and maps['points'].tolist() == [[0, 0], [63, 39]]
        assert maps['block_3'].shape == (2, 4, 6, 10) and 0.9 < maps['block_3'][0, 0].sum() < 1


def test_a_grid_of_points_and_all_heads_at_another_size(visualize, tmp_path):
    visualize('--grid', 1, 2, '--heads', 'all', '--size', 32, 48, '--npz', tmp_path / 'maps.npz')
    with np.load(tmp_path / 'maps.npz') as maps:
        assert maps['points'].tolist() == [[16, 20], [48, 20]] and maps['block_3'].shape == (2, 4, 2, 3)
    assert Image.open(tmp_path / 'new' / 'attention.png').width > 6 * 2.2 * 150
    visualize('--grid', 1, 1)  # over the first
    assert Image.open(tmp_path / 'new' / 'attention.png').width < 3 * 2.2 * 150


@pytest.mark.parametrize(
    'mistake, sentence',
    [
        (['--points', '64,0'], 'error: a point must be in the image, x from 0 to 63 and y from 0 to 39, got 64,0\n'),
        (['--points', '12;3'], 'argument --points: must be X,Y in whole pixels, such as 120,80, got 12;3'),
        (['--heads', '-1'], "argument --heads: must be numbers of heads, from 0, or 'all', got -1"),
        (['--out', 'image.png'], 'error: results must not overwrite images'),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(mistake, sentence, visualize, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = (tmp_path / 'image.png').read_bytes()
    with pytest.raises(SystemExit):
        visualize(*mistake)
    error = capsys.readouterr().err
    assert sentence in error and 'Traceback' not in error
    assert not (tmp_path / 'new').exists() and (tmp_path / 'image.png').read_bytes() == before
