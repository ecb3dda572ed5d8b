"""Exported files give what the model gives, at the size of training and at another, and say how to be used."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from support import CONFIGS
from support.tools import command
from torch import nn

from beit_mm.apis import load_model
from beit_mm.checkpoint import read_checkpoint
from beit_mm.datasets.images import input_format, normalize
from beit_mm.errors import UserError
from beit_mm.export import export, FORMATS, Part
from beit_mm.models import BEiT

TRUNK = {
    f'model.backbone.{key}': value
    for key, value in dict(img_size=64, embed_dim=32, depth=1, num_heads=2, init_cfg=None).items()
}
CLASSIFIER = {**TRUNK, 'model.head.in_channels': 32, 'model.head.init_cfg.std': 1.0}
SEGMENTOR = {
    **TRUNK,
    'model.backbone.out_indices': [0, 0, 0, 0],
    'model.neck.embed_dim': 32,
    'model.decode_head.in_channels': [32] * 4,
    'model.decode_head.channels': 16,
    'model.decode_head.pool_scales': [1, 6],
    'model.auxiliary_head.in_channels': 32,
}
OPTIONS = {
    'demo/finetune': CLASSIFIER,
    'demo/segment': SEGMENTOR,
    'demo/pretrain': {**TRUNK, 'model.target.tokenizer.init_cfg': None},
    'demo/linear_probe': {**TRUNK, 'model.backbone.out_indices': [0, 1], 'model.backbone.depth': 2},
}


def build(config: str) -> nn.Module:
    """A demonstration's model with a smaller trunk, whose biases and position embeddings are not zero."""
    model = load_model(f'{CONFIGS}/{config}.py', device='cpu', options=OPTIONS[config])
    for name, weight in model.named_parameters():
        if name.endswith('relative_position_bias_table') or name.endswith('gamma_1'):
            nn.init.normal_(weight)
    return model


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def test_a_classifier_in_onnx_predicts_as_the_model(tmp_path):
    model = build('demo/finetune')
    report = export(model, tmp_path / 'classifier.onnx')
    assert report.inputs == dict(images=('N', 3, 64, 64)) and report.outputs == dict(logits=('N', 10))
    assert [check.batch for check in report.checks] == [1, 3]
    assert all(0 < check.difference < 1e-5 * check.magnitude for check in report.checks)

    session = onnxruntime.InferenceSession(str(report.path), providers=['CPUExecutionProvider'])
    metadata = session.get_modelmeta().custom_metadata_map
    assert onnx.load(report.path).opset_import[0].version == 18
    assert metadata == report.metadata and json.loads(metadata['classes']) == [f'digit_{digit}' for digit in range(10)]
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)  # BGR
    assert metadata['channel_order'] == 'RGB'
    pixels = (image[..., ::-1] - np.float32(json.loads(metadata['mean']))) / np.float32(json.loads(metadata['std']))
    (logits,) = session.run(['logits'], dict(images=pixels.transpose(2, 0, 1)[None].astype(np.float32)))
    (sample,) = model.predict(normalize(torch.from_numpy(image).permute(2, 0, 1)[None], input_format(model)))
    scores = np.exp(logits[0] - logits.max())
    np.testing.assert_allclose(scores / scores.sum(), sample.pred_score.numpy(), atol=1e-5)
    assert logits.argmax() == sample.pred_label.item()


@pytest.mark.parametrize('batch', [1, pytest.param(None, marks=pytest.mark.long)])
def test_a_segmentor_in_onnx_at_a_size_that_is_not_square(batch, tmp_path):
    model = build('demo/segment')
    report = export(model, tmp_path / 'segmentor.onnx', size=(32, 64), batch=batch, opset=20)
    assert report.outputs == dict(logits=(batch or 'N', 11, 32, 64)) and len(report.checks) == (1 if batch else 2)
    proto = onnx.load(report.path)
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [('', 20)]
    assert not any('auxiliary' in tensor.name for tensor in proto.graph.initializer)
    assert not any(node.metadata_props for node in proto.graph.node)  # no traces of where it was made
    assert json.loads(report.metadata['test_cfg'])['stride'] == [64, 64]
    assert hasattr(model, 'auxiliary_head') and model.auxiliary_head is not None


def load_program(report):
    extra = {'metadata.json': ''}
    program = torch.export.load(report.path, extra_files=extra)
    assert json.loads(extra['metadata.json']) == report.metadata
    assert not any('auxiliary' in name or name.startswith('trunk.') for name in program.state_dict)  # each weight once
    return program.module()


def test_a_segmentor_in_torch_export(tmp_path):
    model = build('demo/segment')
    report = export(model, tmp_path / 'segmentor.pt2', batch=2)
    images = torch.randn(2, 3, 64, 64)
    wanted = model.encode_decode(images, [dict(img_shape=(64, 64))])
    program = load_program(report)
    assert torch.allclose(program(images), wanted, atol=1e-5)
    assert report.outputs == dict(logits=(2, 11, 64, 64)) and json.loads(report.metadata['num_classes']) == 11
    with pytest.raises((AssertionError, RuntimeError)):
        program(torch.randn(1, 3, 64, 64))


def test_a_pyramid_of_a_trunk_with_shared_bias_in_torch_export_for_any_number_of_images(tmp_path):
    size = dict(img_size=64, embed_dim=32, depth=2, num_heads=2, out_type='featmap', out_indices=[0, 1])
    model = BEiT(**size, use_rel_pos_bias=False, use_shared_rel_pos_bias=True)
    nn.init.normal_(model.rel_pos_bias.relative_position_bias_table)
    report = export(model, tmp_path / 'trunk.pt2', size=(96, 32))
    assert report.inputs == dict(images=('N', 3, 96, 32))
    assert report.outputs == dict(features_0=('N', 32, 6, 2), features_1=('N', 32, 6, 2))
    assert 'classes' not in report.metadata and report.metadata['out_type'] == 'featmap'
    program, images = load_program(report), torch.randn(5, 3, 96, 32)
    actual, expected = program(images), model.eval()(images)
    assert len(actual) == 2 and all(torch.allclose(*pair, atol=1e-5) for pair in zip(actual, expected))


def test_safetensors_hold_the_weights_at_the_size_and_how_to_use_them(tmp_path):
    model = build('demo/finetune')
    torch.save(model.state_dict(), tmp_path / 'weights.pth')
    report = export(model, tmp_path / 'model.safetensors', size=(96, 32), weights=tmp_path / 'weights.pth')
    with safe_open(report.path, 'pt') as file:
        metadata, names = file.metadata(), set(file.keys())
    assert names == set(model.state_dict())
    expected = dict(format='pt', layout='beit_mm', kind='classify', part='classifier', channel_order='RGB')
    expected.update(image_size='[96, 32]', grid='[6, 2]', patch_size='16', embed_dim='32', depth='1', num_heads='2')
    expected.update(mean='[123.675, 116.28, 103.53]', std='[58.395, 57.12, 57.375]', weights='weights.pth')
    assert {name: metadata[name] for name in expected} == expected and len(metadata['weights_sha256']) == 64
    assert json.loads(metadata['test_pipeline'])[0]['type'] == 'beit_mm.LoadImage'

    assert len(read_checkpoint(report.path)['backbone.blocks.0.attn.relative_position_bias_table']) == 11 * 3 + 3
    config = model.cfg.copy()
    config.model.backbone.img_size = (96, 32)
    images = torch.randn(2, 3, 96, 32)
    assert torch.allclose(load_model(config, report.path, 'cpu')(images), model(images), atol=1e-5)


def test_safetensors_of_a_trunk_load_without_the_heads(tmp_path):
    model = build('demo/segment')
    report = export(model, tmp_path / 'trunk.safetensors', part='trunk')
    assert all(name.startswith('backbone.') for name in read_checkpoint(report.path))
    loaded = load_model(model.cfg, report.path, 'cpu', trunk_only=True)
    assert torch.equal(loaded.backbone.blocks[0].attn.qkv.weight, model.backbone.blocks[0].attn.qkv.weight)
    whole = export(model, tmp_path / 'segmentor.safetensors')
    assert set(read_checkpoint(whole.path)) == set(model.state_dict())  # the auxiliary head, too: training goes on


def test_a_linear_probe_gives_the_logits_of_the_block_it_predicts_with(tmp_path):
    model = build('demo/linear_probe')
    assert export(model, tmp_path / 'probe.safetensors').outputs == dict(logits=('N', 10))
    images = torch.randn(2, 3, 64, 64)
    scores = torch.stack([sample.pred_score for sample in model.predict(images)])
    assert torch.allclose(Part(model, 'classifier')(images).softmax(dim=1), scores)


@pytest.mark.parametrize('factor', [1.001, float('nan')])
def test_a_file_that_computes_something_else_is_not_left(factor, tmp_path, monkeypatch):
    write, run = FORMATS['.safetensors']

    def change(part, *rest):
        part.module.head.fc.weight.data.mul_(factor)
        write(part, *rest)

    monkeypatch.setitem(FORMATS, '.safetensors', (change, run))
    with pytest.raises(ValueError, match="logits of the exported file must be within .* of the model's for 1 images"):
        export(build('demo/finetune'), tmp_path / 'model.safetensors')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(path='model.pth'), r'an exported file must end in \.onnx, \.pt2, \.safetensors, got .*pth'),
        (dict(size=(64, 40)), r'multiples of the patch size 16, got 64 x 40'),
        (dict(part='segmentor'), "the part of ImageClassifier must be classifier or trunk, got 'segmentor'"),
        (dict(batch=0), r'a batch must be a positive number, .*, got 0'),
        (dict(path='model.safetensors', batch=2), r'for a graph \(\.onnx, \.pt2\), got 2'),
        (dict(opset=7), 'an opset must be 18 to 23, for an .onnx file, got 7'),
        (dict(path='model.pt2', opset=18), 'an opset must be .*, for an .onnx file, got 18'),
        (
            dict(model='demo/pretrain', part='classifier'),
            "the part of MaskedImageModel must be trunk, got 'classifier'",
        ),
    ],
)
def test_wrong_options_and_missing_parts_are_named(options, message, tmp_path):
    options = {'path': 'model.onnx', **options}
    with pytest.raises(ValueError, match=message):
        export(build(options.pop('model', 'demo/finetune')), tmp_path / options.pop('path'), **options)
    assert not list(tmp_path.iterdir())


def test_other_models_missing_packages_and_files_that_exist_are_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match='a model must be or have a BEiT trunk, got Linear'):
        export(nn.Linear(2, 2), tmp_path / 'model.onnx')
    monkeypatch.setattr('beit_mm.export.find_spec', lambda name: None if name == 'onnxruntime' else name)
    with pytest.raises(UserError, match=r'^exporting to ONNX needs pip install "beit_mm\[export\]"$'):
        export(build('demo/finetune'), tmp_path / 'model.onnx')
    (tmp_path / 'model.pt2').write_text('mine')
    with pytest.raises(FileExistsError, match='model.pt2 exists and is not overwritten'):
        export(build('demo/finetune'), tmp_path / 'model.pt2')
    assert (tmp_path / 'model.pt2').read_text() == 'mine'


def test_the_command_prints_what_it_wrote_and_what_is_wrong(tmp_path, capsys):
    torch.save(build('demo/finetune').state_dict(), tmp_path / 'weights.pth')
    options = [f'{key}={value}' for key, value in CLASSIFIER.items() if 'init_cfg' not in key]
    model = ['--model', f'{CONFIGS}/demo/finetune.py', '--cfg-options', *options]
    weights = ['--weights', tmp_path / 'weights.pth']
    command('export', tmp_path / 'model.safetensors', *weights, *model)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3].startswith(f'{tmp_path}/model.safetensors: classifier, images (N, 3, 64, 64) -> logits (N, 10), ')
    assert lines[-1].startswith('batch of 3: differs from the model by at most 0.0e+00')
    for words, error in [
        ([*weights, '--size', '64', '40', *model], 'image height and width'),
        ([*model, 'model.backbone.init_cfg=None'], 'weights must name a checkpoint for ImageClassifier'),
    ]:
        with pytest.raises(SystemExit) as stop:
            command('export', tmp_path / 'model.onnx', *words)
        assert stop.value.code == 1 and f'error: {error}' in capsys.readouterr().err
    assert not (tmp_path / 'model.onnx').exists()
