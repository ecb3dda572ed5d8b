"""Exported files give what the model gives, at the size of training and at another, and say how to be used."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from support.exported_models import build
from torch import nn

from beit_mm.apis import load_model
from beit_mm.checkpoint import read_checkpoint
from beit_mm.datasets.images import input_format, normalize
from beit_mm.export import export, FORMATS
from beit_mm.export.parts import Part
from beit_mm.models import BEiT


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


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
    with torch.no_grad():
        (sample,) = model.predict(normalize(torch.from_numpy(image).permute(2, 0, 1)[None], input_format(model)))
    scores = np.exp(logits[0] - logits.max())
    np.testing.assert_allclose(scores / scores.sum(), sample.pred_score.numpy(), atol=1e-5)
    assert logits.argmax() == sample.pred_label.item()


def test_a_segmentor_in_onnx_at_a_size_that_is_not_square(tmp_path):
    model = build('demo/segment')
    report = export(model, tmp_path / 'segmentor.onnx', size=(32, 96), opset=20)
    assert report.outputs == dict(logits=('N', 11, 32, 96)) and len(report.checks) == 2
    proto = onnx.load(report.path)
    assert [(one.domain, one.version) for one in proto.opset_import] == [('', 20)]
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
    report = export(model, tmp_path / 'segmentor.pt2')
    images = torch.randn(5, 3, 64, 64)
    with torch.no_grad():
        wanted = model.encode_decode(images, [dict(img_shape=(64, 64))])
        assert torch.allclose(load_program(report)(images), wanted, atol=1e-5)
    assert report.outputs == dict(logits=('N', 11, 64, 64)) and json.loads(report.metadata['num_classes']) == 11


def test_a_pyramid_of_a_trunk_with_shared_bias_in_torch_export_for_one_image(tmp_path):
    size = dict(img_size=64, embed_dim=32, depth=2, num_heads=2, out_type='featmap', out_indices=[0, 1])
    model = BEiT(**size, use_rel_pos_bias=False, use_shared_rel_pos_bias=True)
    nn.init.normal_(model.rel_pos_bias.relative_position_bias_table)
    report = export(model, tmp_path / 'trunk.pt2', size=(96, 32), batch=1)
    assert report.inputs == dict(images=(1, 3, 96, 32))
    assert report.outputs == dict(features_0=(1, 32, 6, 2), features_1=(1, 32, 6, 2))
    assert 'classes' not in report.metadata and report.metadata['out_type'] == 'featmap'
    program = load_program(report)
    images = torch.randn(1, 3, 96, 32)
    with torch.no_grad():
        given, wanted = program(images), model.eval()(images)
    assert len(given) == 2 and all(torch.allclose(*pair, atol=1e-5) for pair in zip(given, wanted))
    with pytest.raises((AssertionError, RuntimeError)):
        program(torch.randn(2, 3, 96, 32))


def test_safetensors_hold_the_weights_at_the_size_and_what_they_are(tmp_path):
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

    weights = read_checkpoint(report.path)
    assert len(weights['backbone.blocks.0.attn.relative_position_bias_table']) == 11 * 3 + 3
    config = model.cfg.copy()
    config.model.backbone.img_size = (96, 32)
    images = torch.randn(2, 3, 96, 32)
    with torch.no_grad():
        assert torch.allclose(load_model(config, report.path, 'cpu')(images), model(images), atol=1e-5)


def test_safetensors_of_a_trunk_load_without_the_heads(tmp_path):
    model = build('demo/segment')
    report = export(model, tmp_path / 'trunk.safetensors', part='trunk')
    assert all(name.startswith('backbone.') for name in read_checkpoint(report.path))
    loaded = load_model(model.cfg, report.path, 'cpu', trunk_only=True)
    assert torch.equal(loaded.backbone.blocks[1].attn.qkv.weight, model.backbone.blocks[1].attn.qkv.weight)
    whole = export(model, tmp_path / 'segmentor.safetensors')
    assert set(read_checkpoint(whole.path)) == set(model.state_dict())  # the auxiliary head, too: training goes on


def test_a_linear_probe_gives_the_logits_of_the_block_it_predicts_with(tmp_path):
    model = build('demo/linear_probe')
    report = export(model, tmp_path / 'probe.safetensors')
    assert report.outputs == dict(logits=('N', 10))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        samples = model.predict(images)
        logits = Part(model, 'classifier')(images)
    assert torch.allclose(logits.softmax(dim=1), torch.stack([sample.pred_score for sample in samples]))


@pytest.mark.parametrize('factor', [1.001, float('nan')])
def test_a_file_that_gives_something_else_is_not_left(factor, tmp_path, monkeypatch):
    write, run = FORMATS['.safetensors']

    def change(part, *rest):
        part.module.head.fc.weight.data.mul_(factor)
        write(part, *rest)

    monkeypatch.setitem(FORMATS, '.safetensors', (change, run))
    with pytest.raises(ValueError, match="logits of the exported file must be within .* of the model's for 1 images"):
        export(build('demo/finetune'), tmp_path / 'model.safetensors')
    assert not list(tmp_path.iterdir())
