"""Inference on an image file gives what the evaluation of a recipe gives for the same image in its data set.

Of the recipes with the same data set, test pipeline, preprocessor and windows one is tried.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image
from support.data import enter, write_own
from support.recipes import load, RECIPES, shrink_model
from support.tiny import make

from beit_mm.apis import classify, segment


def what_an_image_meets(name: str) -> str:
    cfg = load(name)
    parts = [cfg.test_dataloader.dataset, cfg.model.data_preprocessor, cfg.model.get('test_cfg')]
    return json.dumps([part and part.to_dict() for part in parts])


DIFFERENT = {
    what_an_image_meets(name): name
    for name in RECIPES
    if {'head', 'decode_head'} & set(load(name).model) and 'neighbours' not in name  # which has no random weights
}.values()


@pytest.fixture(scope='module')
def folder(data, digits, tmp_path_factory) -> Path:
    """`data` with small data for every recipe."""
    folder = tmp_path_factory.mktemp('recipes')
    (folder / 'data').mkdir()
    for source in (data / 'data').iterdir():
        if source.name != 'own':
            (folder / 'data' / source.name).symlink_to(source)
    (folder / 'data' / 'digits').symlink_to(digits)
    write_own(folder / 'data' / 'own', ['bird', 'cat', 'dog'])
    return folder


def test_every_data_set_with_classes_is_tried():
    types = {load(name).test_dataloader.dataset.type.removeprefix('beit_mm.') for name in DIFFERENT}
    assert types >= {'ImageNet', 'ImageNet21k', 'CIFAR100', 'ClassFolders', 'ADE20KDataset', 'SegFolders'}
    assert {name.split('/')[0] for name in DIFFERENT} >= {'classify', 'segment', 'own_data', 'demo'}


@pytest.mark.parametrize('name', DIFFERENT)
def test_inference_equals_evaluation(name, folder, tmp_path, monkeypatch):
    enter(folder, monkeypatch)
    options = shrink_model(load(name))
    if 'linear_probe_base' in name:  # it reads every block
        options['model.backbone.depth'] = 12
    model = make(tmp_path, name, options, 'model.backbone.init_cfg').load()
    with DefaultScope.overwrite_default_scope(model.cfg.default_scope):
        dataset = DATASETS.build(model.cfg.test_dataloader.dataset)
        info, batch = dataset.get_data_info(1), pseudo_collate([dataset[1]])
        with torch.inference_mode():
            expected = model.eval().test_step(batch)[0]
    image = info.get('img_path') or save_as_file(info['img'], tmp_path / 'image.png')
    if 'decode_head' in model.cfg.model:
        (result,) = segment(model, [image])
        assert np.array_equal(result['labels'], expected.pred_sem_seg.data[0].numpy())
        return
    pixels = np.asarray(Image.open(image).convert('RGB'))
    turned = save_as_file(pixels, tmp_path / 'red for blue.png')
    result, other = (each['pred_scores'] for each in classify(model, [image, turned]))
    assert np.allclose(result, expected.pred_score.numpy(), rtol=1e-5, atol=1e-8)
    assert not np.allclose(result, other, rtol=1e-3), 'else the order of channels could not be seen'


def save_as_file(pixels: np.ndarray, path: Path) -> str:
    """A BGR image of a data set, which has no file, or an RGB image with red for blue."""
    Image.fromarray(pixels[..., ::-1]).save(path)
    return str(path)
