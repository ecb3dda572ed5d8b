"""tools/analysis_tools/score_tokenizer.py: its numbers, and mistakes that end in one sentence."""

import re
import runpy

import numpy as np
import pytest
import torch
from PIL import Image
from support import ROOT
from support.tools import tool

from beit_mm.models import DiscreteVAE

TOOL = 'analysis_tools/score_tokenizer'
SIZES = dict(vocab_size=16, n_hid=8, n_init=8, blocks_per_group=1)


@pytest.fixture(scope='module')
def rows():
    return runpy.run_path(str(ROOT / 'tools' / f'{TOOL}.py'))['rows']


def result(tokens: list[int], agreement: float) -> dict:
    names = ('noise', 'colour jitter', 'a shift by one pixel', 'a shift by one patch', 'a horizontal flip')
    return dict(dict.fromkeys(names, agreement), tokens=torch.tensor(tokens), error=0.01)


def test_use_and_agreement_of_known_tokens(rows):
    found = {name: (value, good) for name, value, _, good in rows([result([0] * 60 + [1] * 20, 0.5)] * 2, 4)}
    assert found['vocabulary used, %'] == (50, False) and found['most frequent token, %'] == (75, False)
    assert found['perplexity'] == (pytest.approx(0.75**-0.75 * 0.25**-0.25), True)
    assert found['same after noise, %'] == (50, False) and found['PSNR of decoded tokens, dB'] == (
        pytest.approx(20),
        True,
    )
    few = {name: good for name, _, _, good in rows([result([0, 1, 2], 1.0)], 4)}
    assert few['vocabulary used, %'] is few['perplexity'] is None  # three patches say nothing of that


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A tokenizer, and images of which one cannot be read."""
    folder = tmp_path_factory.mktemp('score')
    torch.manual_seed(0)
    torch.save(DiscreteVAE(**SIZES).state_dict(), folder / 'tokenizer.pth')
    (folder / 'images').mkdir()
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (64, 80, 3), np.uint8)
        Image.fromarray(pixels).save(folder / 'images' / f'{index}.png')
    (folder / 'images' / 'bad.png').write_text('no picture')
    return folder


OPTIONS = ['--cfg-options', *(f'model.{key}={value}' for key, value in SIZES.items())]


def test_a_tokenizer_is_judged_on_the_images_that_can_be_read(folder):
    arguments = [folder / 'tokenizer.pth', folder / 'images']
    output = tool(TOOL, 'configs/demo/tokenizer.py', *arguments, *OPTIONS)
    assert 'DiscreteVAE, 16 tokens of 8 x 8 pixels; 3 images of 48 x 48 pixels, 108 patches' in output
    assert '1 of 4 images could not be read' in output and len(re.findall(r'^same after .*, %', output, re.M)) == 5


@pytest.mark.parametrize(
    'config, checkpoint, message',
    [
        ('configs/demo/finetune.py', 'tokenizer.pth', 'the checkpoint must hold the weights of this model'),
        ('configs/own_data/tokenizer_kmeans.py', 'tokenizer.pth', r'tokenizer.pth: the checkpoint .*'),
    ],
)
def test_a_wrong_file_is_one_sentence(folder, config, checkpoint, message):
    output = tool(TOOL, config, folder / checkpoint, folder / 'images', ok=False)
    assert re.search(f'^error: .*{message}', output, re.M) and 'Traceback' not in output
