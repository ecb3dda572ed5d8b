"""beit-mm convert as a user runs it."""

import json
from contextlib import nullcontext

import pytest
import torch
from support import ROOT
from support.tools import command
from transformers import BeitForImageClassification

from beit_mm.models import BEiT


def convert(capsys, *arguments: object, ok: bool = True) -> str:
    with nullcontext() if ok else pytest.raises(SystemExit, match='1'):
        command('convert', *arguments)
    return ''.join(capsys.readouterr())


def test_weights_go_to_transformers_and_back_and_the_way_is_printed(tmp_path, capsys):
    trunk = BEiT(img_size=32, embed_dim=32, depth=2, num_heads=2).state_dict()
    weights = {f'backbone.{name}': tensor for name, tensor in trunk.items()}
    weights.update({'head.fc.weight': torch.randn(5, 32), 'head.fc.bias': torch.randn(5)})
    ours, folder, back = tmp_path / 'ours.pth', tmp_path / 'folder', tmp_path / 'back.pth'
    torch.save(dict(state_dict=weights, meta={}), ours)
    assert '  head.fc.weight -> classifier.weight' in convert(capsys, ours, folder, '--to', 'transformers')
    assert BeitForImageClassification.from_pretrained(folder).config.num_labels == 5
    output = convert(capsys, folder, back, '--to', 'beit_mm')
    assert 'classify weights, layout transformers, prefix beit.' in output
    actual = torch.load(back)['state_dict']
    assert set(actual) == set(weights) and all(torch.equal(actual[name], tensor) for name, tensor in weights.items())
    output = convert(capsys, ours, back, '--to', 'timm', ok=False)
    assert f'error: {back} exists and is not overwritten' in output and 'Traceback' not in output


MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


@pytest.mark.parametrize(
    'settings, is_used',
    [
        (dict(mean=MEAN, std=STD, to_rgb=True), True),
        (dict(mean=MEAN, std=STD, bgr_to_rgb=True), True),
        (dict(mean=MEAN, std=STD, to_rgb=False), False),
        (dict(mean=MEAN, std=[58.0, 0.0, 57.0], to_rgb=True), False),
        (dict(mean=MEAN[:2], std=STD, to_rgb=True), False),
        (dict(mean=[1e999] * 3, std=STD, to_rgb=True), False),
        (dict(mean=MEAN, std='[' * 100_000, to_rgb=True), False),
        (None, False),
    ],
    ids=str,
)
def test_transformers_normalises_images_as_the_run_did_if_its_checkpoint_says_so(settings, is_used, tmp_path, capsys):
    trunk = BEiT(img_size=32, embed_dim=32, depth=1, num_heads=2).state_dict()
    texts = {f'model.data_preprocessor.{key}': str(value) for key, value in (settings or {}).items()}
    weights = {f'backbone.{name}': tensor for name, tensor in trunk.items()}
    torch.save(dict(state_dict=weights, meta=dict(beit_mm_settings=texts) if settings else {}), tmp_path / 'a.pth')
    output = convert(capsys, tmp_path / 'a.pth', tmp_path / 'folder', '--to', 'transformers')
    written = json.loads((tmp_path / 'folder' / 'preprocessor_config.json').read_text())
    assert written['image_mean'] == ([value / 255 for value in MEAN] if is_used else [0.5] * 3)
    assert written['image_std'] == ([value / 255 for value in STD] if is_used else [0.5] * 3)
    assert ('preprocessor_config.json: of the run' in output) == is_used
    assert ('of the released models, 0.5; change them if yours differ' in output) != is_used


def test_a_file_without_a_beit_ends_in_one_sentence(tmp_path, capsys):
    output = convert(capsys, ROOT / 'README.md', tmp_path / 'out.pth', '--to', 'timm', ok=False)
    assert 'error: ' in output and 'must be a complete checkpoint' in output and 'Traceback' not in output
    assert not (tmp_path / 'out.pth').exists()
