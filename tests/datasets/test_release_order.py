"""The order of steps in the recipes of pre-training gives the views of the release's order, from the same draws."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate
from mmengine.registry import DefaultScope
from PIL import Image
from support.tools import import_tool
from torchvision.transforms import functional as TF

from beit_mm.models import TwoViewPreprocessor

write_photographs = import_tool('benchmark', 'photographs').write_photographs
CONFIGS = Path(__file__).parents[2] / 'configs'
STEPS = TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation


def compose(steps) -> list:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return Compose(steps).transforms


@pytest.fixture(scope='module')
def cfg() -> Config:
    return Config.fromfile(CONFIGS / 'beit_pretrain.py')


def test_views_are_those_of_the_releases_order(tmp_path, cfg):
    load, draw, crop, mask, pack = compose(cfg.train_dataloader.dataset.pipeline)
    releases_crop = compose(cfg.release_order)[3]
    releases_crop.flip_prob = crop.flip_prob  # the draw is then the crop's, as in ours
    preprocessor = TwoViewPreprocessor([0.0] * 3, [1.0] * 3)
    differences = []
    paths = write_photographs(tmp_path, 4)
    for seed in range(40):
        np.random.seed(seed)
        results = draw(load(dict(img_path=str(paths[seed % 4]))))
        state = np.random.get_state()
        image = Image.open(paths[seed % 4]).convert('RGB')
        for kind in results['jitter'][3:].astype(int):
            image = STEPS[kind](image, float(results['jitter'][kind]))
        ours = preprocessor(default_collate([pack(mask(crop(results)))]))
        np.random.set_state(state)
        releases = releases_crop(dict(img=np.asarray(image)))
        images = ours['inputs'][0].permute(1, 2, 0).numpy(), 255 * ours['views'][0].permute(1, 2, 0).numpy()
        differences.append([np.abs(image - releases[key]).mean() for key, image in zip(('img', 'view'), images)])
    differences = np.array(differences)
    # Pillow rounds and cuts after each step, before it resizes. About the crop's own mean, it would be 3.7 and 18.
    assert (differences.mean(axis=0) < 2).all() and differences.max() < 6


@pytest.mark.parametrize(
    'name', ['beit_pretrain.py', *(f'pretrain/{path.name}' for path in (CONFIGS / 'pretrain').glob('beit_[bl]*.py'))]
)
def test_a_recipe_takes_the_releases_order_by_one_line(name, tmp_path):
    base = CONFIGS / '_base_' / 'datasets' / 'imagenet_pretrain_release_order.py'
    (line,) = [line[1:].strip() for line in base.read_text().splitlines() if line.startswith('#   ')]
    (tmp_path / 'recipe.py').write_text(f'_base_ = {str(CONFIGS / name)!r}\n{line}\n')
    recipe, changed = Config.fromfile(CONFIGS / name), Config.fromfile(tmp_path / 'recipe.py')
    mask, pack = changed.train_dataloader.dataset.pipeline[-2:]
    assert [mask, pack] == recipe.train_dataloader.dataset.pipeline[-2:]
    assert changed.train_dataloader.batch_size == recipe.train_dataloader.batch_size
    steps = compose(changed.train_dataloader.dataset.pipeline)
    names = [type(step).__name__ for step in steps[:4]]
    assert names == ['LoadImage', 'ColorJitter', 'RandomFlip', 'TwoViewRandomResizedCrop']
    path = write_photographs(tmp_path, 1)[0]
    for info in (dict(img_path=str(path)), dict(img_path='shard.tar/1.jpg', img_bytes=path.read_bytes())):
        found = Compose(steps)(info)
        assert set(found) == {'inputs', 'views', 'mask'} and found['views'].shape == (3, 112, 112)


@pytest.mark.parametrize(
    'name', ['beit_pretrain.py', 'beit_finetune.py', 'beit_tokenizer.py', 'classify/linear_probe_base_224_1k.py']
)
@pytest.mark.parametrize(
    'mode, suffix', [('RGBA', 'png'), ('L', 'png'), ('I;16', 'png'), ('P', 'gif'), ('CMYK', 'jpg')]
)
def test_images_of_every_mode_go_through_every_pipeline(name, mode, suffix, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16))
    image = deep if mode == 'I;16' else Image.fromarray(pixels).convert(mode)
    image.save(tmp_path / f'a.{suffix}')
    steps = Compose(compose(Config.fromfile(CONFIGS / name).train_dataloader.dataset.pipeline))
    for seed in range(3):
        np.random.seed(seed)
        assert steps(dict(img_path=str(tmp_path / f'a.{suffix}'), gt_label=0))['inputs'].dtype == torch.uint8
