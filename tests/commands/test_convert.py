"""beit-mm convert as a user runs it."""

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


def test_a_file_without_a_beit_ends_in_one_sentence(tmp_path, capsys):
    output = convert(capsys, ROOT / 'README.md', tmp_path / 'out.pth', '--to', 'timm', ok=False)
    assert 'error: ' in output and 'must be a complete checkpoint' in output and 'Traceback' not in output
    assert not (tmp_path / 'out.pth').exists()
