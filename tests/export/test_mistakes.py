"""What cannot be exported is one sentence; the tool prints it, and what it wrote."""

from pathlib import Path

import pytest
import torch
from support.exported_models import build, CLASSIFIER, CONFIGS
from support.tools import run_here
from torch import nn

from beit_mm.errors import UserError
from beit_mm.export import export, exporting

TOOL = Path(CONFIGS).parent / 'tools' / 'model_converters' / 'export.py'


@pytest.mark.parametrize(
    'choices, message',
    [
        (dict(path='model.pth'), r'an exported file must end in \.onnx, \.pt2, \.safetensors, got .*pth'),
        (dict(size=(64, 40)), r'multiples of the patch size 16, got 64 x 40'),
        (dict(part='segmentor'), "the part of ImageClassifier must be classifier or trunk, got 'segmentor'"),
        (dict(batch=0), r'a batch must be a positive number, .*, got 0'),
        (dict(path='model.safetensors', batch=2), r'for a graph \(\.onnx, \.pt2\), got 2'),
        (dict(opset=7), 'an opset must be 18 to 23, for an .onnx file, got 7'),
        (dict(path='model.pt2', opset=18), 'an opset must be .*, for an .onnx file, got 18'),
    ],
)
def test_choices_that_cannot_be(choices, message, tmp_path):
    choices = {'path': 'model.onnx', **choices}
    with pytest.raises(ValueError, match=message):
        export(build('demo/finetune'), tmp_path / choices.pop('path'), **choices)
    assert not list(tmp_path.iterdir())


def test_models_without_such_a_part(tmp_path):
    with pytest.raises(ValueError, match="the part of MaskedImageModel must be trunk, got 'classifier'"):
        export(build('demo/pretrain'), tmp_path / 'model.onnx', part='classifier')
    with pytest.raises(ValueError, match='a model must be or have a BEiT trunk, got Linear'):
        export(nn.Linear(2, 2), tmp_path / 'model.onnx')


def test_a_missing_package(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, 'find_spec', lambda name: None if name == 'onnxruntime' else name)
    with pytest.raises(UserError, match=r'^exporting to ONNX needs pip install "beit_mm\[export\]"$'):
        export(build('demo/finetune'), tmp_path / 'model.onnx')


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / 'model.pt2').write_text('mine')
    with pytest.raises(FileExistsError, match='model.pt2 exists and is not overwritten'):
        export(build('demo/finetune'), tmp_path / 'model.pt2')
    assert (tmp_path / 'model.pt2').read_text() == 'mine'


def test_the_tool_prints_what_it_wrote_and_what_is_wrong(tmp_path, capsys):
    torch.save(build('demo/finetune').state_dict(), tmp_path / 'weights.pth')
    options = [f'{key}={value}' for key, value in CLASSIFIER.items() if 'init_cfg' not in key]
    model = ['--model', f'{CONFIGS}/demo/finetune.py', '--cfg-options', *options]
    weights = ['--weights', tmp_path / 'weights.pth']
    run_here([TOOL, tmp_path / 'model.safetensors', *weights, *model])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3].startswith(f'{tmp_path}/model.safetensors: classifier, images (N, 3, 64, 64) -> logits (N, 10), ')
    assert lines[-1].startswith('batch of 3: differs from the model by at most 0.0e+00')
    no_start = 'model.backbone.init_cfg=None'
    for words, error in [
        ([*weights, '--size', '64', '40', *model], 'image height and width'),
        ([*model, no_start], 'weights must name a checkpoint for ImageClassifier'),
    ]:
        with pytest.raises(SystemExit) as stop:
            run_here([TOOL, tmp_path / 'model.onnx', *words])
        assert stop.value.code == 1 and f'error: {error}' in capsys.readouterr().err
    assert not (tmp_path / 'model.onnx').exists()
