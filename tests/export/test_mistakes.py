"""What cannot be exported is one sentence; the tool prints it, and what it wrote."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from support.exported_models import build, CLASSIFIER, CONFIGS
from torch import nn

from beit_mm.errors import UserError
from beit_mm.export import export, exporting
from beit_mm.models import DiscreteVAE

TOOL = Path(CONFIGS).parent / 'tools' / 'model_converters' / 'export.py'


@pytest.mark.parametrize(
    'choices, message',
    [
        (dict(path='model.pth'), r'an exported file must end in \.onnx, \.pt2, \.safetensors, got .*pth'),
        (dict(size=(64, 40)), r'multiples of the patch size 16, got 64 x 40'),
        (dict(part='segmentor'), "the part of ImageClassifier must be classifier or trunk, got 'segmentor'"),
        (dict(batch=0), r'a batch must be a positive number of images .*, got 0'),
        (dict(path='model.safetensors', batch=2), r'a batch must be .* a graph takes \(\.onnx, \.pt2\), got 2'),
        (dict(opset=7), 'an opset must be one of 18 to 23, for an .onnx file, got 7'),
        (dict(path='model.pt2', opset=18), 'an opset must be one of .*, for an .onnx file, got 18'),
    ],
)
def test_choices_that_cannot_be(choices, message, tmp_path):
    choices = {'path': 'model.onnx', **choices}
    with pytest.raises(ValueError, match=message):
        export(build('demo/finetune'), tmp_path / choices.pop('path'), **choices)
    assert not list(tmp_path.iterdir())


def test_a_pre_training_model_has_a_trunk_only(tmp_path):
    with pytest.raises(ValueError, match="the part of MaskedImageModel must be trunk, got 'classifier'"):
        export(build('demo/pretrain'), tmp_path / 'model.onnx', part='classifier')


@pytest.mark.parametrize('model', [nn.Linear(2, 2), DiscreteVAE(vocab_size=16, n_hid=8, n_init=8, blocks_per_group=1)])
def test_models_without_a_trunk(model, tmp_path):
    with pytest.raises(ValueError, match=f'a model must be or have a BEiT trunk, got {type(model).__name__}'):
        export(model, tmp_path / 'model.onnx')


def test_a_missing_package(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, 'find_spec', lambda name: None if name == 'onnxruntime' else name)
    with pytest.raises(UserError, match=r'^exporting to ONNX needs pip install "beit_mm\[export\]"$'):
        export(build('demo/finetune'), tmp_path / 'model.onnx')


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / 'model.pt2').write_text('mine')
    with pytest.raises(FileExistsError, match='model.pt2 exists and is not overwritten'):
        export(build('demo/finetune'), tmp_path / 'model.pt2')
    assert (tmp_path / 'model.pt2').read_text() == 'mine'


def run_tool(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, arguments)])
    runpy.run_path(str(TOOL), run_name='__main__')


def test_the_tool_says_what_it_wrote_and_what_is_wrong(tmp_path, monkeypatch, capsys):
    torch.save(build('demo/finetune').state_dict(), tmp_path / 'weights.pth')
    command = [
        '--model',
        f'{CONFIGS}/demo/finetune.py',
        '--weights',
        tmp_path / 'weights.pth',
        '--cfg-options',
        *(f'{key}={value}' for key, value in CLASSIFIER.items() if 'init_cfg' not in key),
    ]
    run_tool(monkeypatch, tmp_path / 'model.safetensors', *command)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3].startswith(f'{tmp_path}/model.safetensors: classifier, images (N, 3, 64, 64) -> logits (N, 10), ')
    assert lines[-1].startswith('batch of 3: differs from the model by at most 0.0e+00')
    with pytest.raises(SystemExit) as stop:
        run_tool(monkeypatch, tmp_path / 'model.onnx', '--size', '64', '40', *command)
    assert stop.value.code == 1 and 'error: image height and width' in capsys.readouterr().err


def test_the_tool_needs_weights(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        run_tool(
            monkeypatch,
            tmp_path / 'model.onnx',
            '--model',
            f'{CONFIGS}/demo/finetune.py',
            '--cfg-options',
            *(f'{key}={value}' for key, value in CLASSIFIER.items()),
        )
    assert stop.value.code == 1
    assert 'error: weights must name a checkpoint for ImageClassifier' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
