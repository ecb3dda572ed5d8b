"""Inference on an image file gives what the evaluation of a recipe gives for the same image in its data set."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope
from mmpretrain.datasets import CIFAR100
from PIL import Image
from support.tiny import CLASSIFIER, make, SEGMENTOR, TRUNK

from beit_mm.apis import classify, segment

CIFAR_OPTIONS = {
    **TRUNK,
    'model.head.in_channels': 32,
    'test_dataloader.dataset.pipeline.0.scale': 36,
    'test_dataloader.dataset.pipeline.1.crop_size': 32,
}


def evaluate(model, index: int):
    """The data set's sample, and the model's prediction for it."""
    with DefaultScope.overwrite_default_scope(model.cfg.default_scope):
        dataset = DATASETS.build(model.cfg.test_dataloader.dataset)
        batch = pseudo_collate([dataset[index]])
        with torch.inference_mode():
            return dataset.get_data_info(index), model.eval().test_step(batch)[0]


@pytest.mark.parametrize('name', ['beit_finetune.py', 'classify/beit_base_224_22k_to_1k.py'])
def test_imagenet(name, in_data, tmp_path):
    model = make(tmp_path, name, CLASSIFIER, 'model.backbone.init_cfg').load()
    info, expected = evaluate(model, 1)
    (result,) = classify(model, [info['img_path']])
    assert np.allclose(result['pred_scores'], expected.pred_score.numpy(), rtol=1e-5, atol=1e-8)


def test_cifar100_in_a_png(in_data, tmp_path, monkeypatch):
    folder = Path('data/cifar100/cifar-100-python')
    sums = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in ('train', 'test', 'meta')}
    for split in ('train', 'test'):
        monkeypatch.setattr(CIFAR100, f'{split}_list', [[split, sums[split]]])
    monkeypatch.setattr(CIFAR100, 'meta', dict(CIFAR100.meta, md5=sums['meta']))
    name = 'classify/beit_base_224_pt1k_to_cifar100.py'
    model = make(tmp_path, name, CIFAR_OPTIONS, 'model.backbone.init_cfg').load()
    _, expected = evaluate(model, 1)
    image = CIFAR100(data_root='data', data_prefix='cifar100', split='test', download=False)[1]['img']  # in RGB
    Image.fromarray(image).save(tmp_path / 'image.png')
    Image.fromarray(image[..., ::-1]).save(tmp_path / 'red for blue.png')
    result, other = classify(model, [tmp_path / 'image.png', tmp_path / 'red for blue.png'])
    assert np.allclose(result['pred_scores'], expected.pred_score.numpy(), rtol=1e-5, atol=1e-8)
    assert not np.allclose(result['pred_scores'], other['pred_scores'], rtol=1e-2)


def test_ade20k(in_data, tmp_path):
    model = make(tmp_path, 'beit_segment.py', SEGMENTOR, 'model.backbone.init_cfg').load()
    info, expected = evaluate(model, 1)
    (result,) = segment(model, [info['img_path']])
    assert np.array_equal(result['labels'], expected.pred_sem_seg.data[0].numpy())
