"""tools/analysis_tools/visualize_attention.py as a user runs it."""

import importlib.util
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from support import ROOT
from support.tools import tool

from beit_mm.apis import load_model
from beit_mm.engine.runners.launch import run

DEMO = str(ROOT / 'configs/demo/finetune.py')


@pytest.fixture
def arguments(tmp_path) -> list:
    """A picture of 64 x 40 pixels and the demonstration's classifier, 6 x 6 patches, 4 blocks, 4 heads."""
    Image.effect_noise((64, 40), 60).convert('RGB').save(tmp_path / 'image.png')
    model = load_model(DEMO, device='cpu', options={'model.backbone.init_cfg': None})
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'weights.pth')
    return [
        str(tmp_path / 'image.png'),
        '--model',
        DEMO,
        '--weights',
        str(tmp_path / 'weights.pth'),
        '--out',
        str(tmp_path / 'new/attention.png'),
    ]


@pytest.fixture
def in_process(monkeypatch):
    """The tool without a process of its own."""
    script = ROOT / 'tools/analysis_tools/visualize_attention.py'
    spec = importlib.util.spec_from_file_location('visualize_attention', script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def call(*arguments: str) -> None:
        monkeypatch.setattr(sys, 'argv', ['visualize_attention.py', *arguments])
        run(module.main, module.parse_args())

    return call


def test_a_figure_and_the_maps_are_written(arguments, tmp_path):
    output = tool(
        'analysis_tools/visualize_attention',
        *arguments,
        '--points',
        '0,0',
        '63,39',
        '--block',
        '0',
        '-1',
        '--heads',
        '3',
        '--npz',
        str(tmp_path / 'new/maps.npz'),
    )
    assert f'wrote {tmp_path}/new/attention.png\nwrote {tmp_path}/new/maps.npz' in output
    figure = Image.open(tmp_path / 'new/attention.png')
    assert figure.width > 5 * 2.2 * 150 and figure.height > 2 * 40 / 64 * 2.2 * 150  # point, and two maps of two blocks
    with np.load(tmp_path / 'new/maps.npz') as maps:
        assert set(maps) == {'points', 'block_0', 'block_3'} and maps['points'].tolist() == [[0, 0], [63, 39]]
        assert maps['block_3'].shape == (2, 4, 6, 10) and 0.9 < maps['block_3'][0, 0].sum() < 1


def test_a_grid_of_points_and_all_heads_at_another_size(arguments, in_process, capsys, tmp_path):
    in_process(*arguments, '--grid', '1', '2', '--heads', 'all', '--size', '32', '48', '--npz', str(tmp_path / 'maps'))
    with np.load(tmp_path / 'maps') as maps:
        assert maps['points'].tolist() == [[16, 20], [48, 20]] and maps['block_3'].shape == (2, 4, 2, 3)
    assert Image.open(tmp_path / 'new/attention.png').width > 6 * 2.2 * 150
    in_process(*arguments, '--grid', '1', '1')  # over the first
    assert Image.open(tmp_path / 'new/attention.png').width < 3 * 2.2 * 150


@pytest.mark.parametrize(
    'mistake, sentence',
    [
        (['--points', '64,0'], 'error: a point must be in the image, x from 0 to 63 and y from 0 to 39, got 64,0\n'),
        (['--block', '4'], 'error: blocks must be 0 to 3 (or -4 to -1) for depth 4, got [4]\n'),
        (['--heads', '0', '4'], 'error: a head must be 0 to 3, got 4\n'),
        (['--size', '40', '96'], 'must be multiples of the patch size 16, got 40 x 96\n'),
        (['--grid', '0', '2'], 'error: a grid of points must have at least one row and one column, got 0 x 2\n'),
        (['--device', 'gpu'], 'GPUs, got gpu\n'),
        (['--model', 'beit-giant'], 'error: a model must be a config file or one of '),
    ],
)
def test_a_mistake_is_one_sentence(mistake, sentence, arguments, in_process, capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        in_process(*arguments, *mistake)
    error = capsys.readouterr().err
    assert ended.value.code == 1 and sentence in error
    assert error.count('\n') == 2 and error.splitlines()[1].startswith('(traceback in ')
    assert not (tmp_path / 'new').exists()


def test_the_image_is_not_overwritten(arguments, in_process, capsys, tmp_path):
    before = (tmp_path / 'image.png').read_bytes()
    with pytest.raises(SystemExit):
        in_process(*arguments, '--out', str(tmp_path / 'image.png'))
    assert 'error: results must not overwrite images' in capsys.readouterr().err
    assert (tmp_path / 'image.png').read_bytes() == before


def test_a_point_that_is_none_is_refused_with_an_example(arguments, in_process, capsys):
    with pytest.raises(SystemExit):
        in_process(*arguments, '--points', '12;3')
    assert 'a point must be X,Y in whole pixels, such as 120,80, got 12;3' in capsys.readouterr().err
