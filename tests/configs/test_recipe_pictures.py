"""Pictures that the pipelines of the recipes give, in training and in tests."""

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from support.data import CLASSES_ADE20K, SIDES, write_pixels
from support.recipe_table import NAMES
from support.recipes import load

HEIGHT, WIDTH = SIDES


@pytest.fixture
def sample(tmp_path) -> dict:
    """A picture with a class and a label map, as the data sets give it."""
    rng = np.random.default_rng(0)
    write_pixels(tmp_path / 'a.png', rng, SIDES, CLASSES_ADE20K + 1)
    write_pixels(tmp_path / 'a.jpg', rng, (*SIDES, 3))
    return dict(
        img_path=str(tmp_path / 'a.jpg'),
        gt_label=0,
        seg_map_path=str(tmp_path / 'a.png'),
        label_map=None,
        reduce_zero_label=True,
        seg_fields=[],
    )


@pytest.mark.parametrize('name', [name for name in NAMES if 'pretrain' in name and 'tokenizer' not in name])
def test_pre_training_sees_two_views_and_a_mask(name, sample):
    actual = Compose(load(name).train_dataloader.dataset.pipeline)(sample)
    side = 224 if 'v2' in name else 112
    assert (actual['inputs'].shape, actual['views'].shape) == ((3, 224, 224), (3, side, side))
    assert actual['mask'].shape == (14, 14) and actual['mask'].sum() == 75


@pytest.mark.parametrize('name', [name for name in NAMES if 'classify' in name or 'finetune' in name])
def test_classification_sees_the_size_in_the_name_and_the_releases_augmentation(name, sample):
    """The rate of crops: 0.875 at 224 but 0.9 for the published 22k-to-1k scores, 1.0 from 384 up.

    RandAugment 9 / 0.5 increasing, erasing at 0.25 but not for CIFAR-100, filled with what becomes zero.
    """
    cfg = load(name)
    side = next((side for side in (384, 512) if f'_{side}_' in name), 224)
    assert cfg.model.backbone.img_size == side
    if 'cifar' in name:
        sample = dict(img=np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8), gt_label=0)
    pipeline = cfg.train_dataloader.dataset.pipeline
    for steps in (pipeline, cfg.test_dataloader.dataset.pipeline):
        assert Compose(steps)(dict(sample))['inputs'].shape == (3, side, side)
    resize, crop = cfg.test_dataloader.dataset.pipeline[-3:-1]
    ratio = 1.0 if side > 224 else 0.9 if '_22k_to_1k' in name else 0.875
    assert (resize.type, resize.edge, resize.scale) == ('beit_mm.ResizeEdge', 'short', int(side / ratio))
    assert (crop.type, crop.crop_size) == ('CenterCrop', side)
    assert not cfg.get('val_dataloader') or cfg.val_dataloader == cfg.test_dataloader

    preprocessor = cfg.model.data_preprocessor
    mean, std = np.array(preprocessor.mean)[::-1], np.array(preprocessor.std)[::-1]  # pipelines have BGR
    assert preprocessor.to_rgb
    augment = next(step for step in pipeline if step.type == 'beit_mm.RandAugment')
    assert (augment.policies, augment.num_policies) == ('timm_increasing', 2)
    assert (augment.magnitude_level, augment.total_level, augment.magnitude_std) == (9, 10, 0.5)
    assert np.abs(np.broadcast_to(augment.hparams.pad_val, 3) - mean).max() <= 0.5
    erasing = [step for step in pipeline if step.type == 'beit_mm.RandomErasing']
    assert [(step.erase_prob, step.mode) for step in erasing] == ([] if 'cifar' in name else [(0.25, 'rand')])
    assert all(np.allclose(step.fill_color, mean) and np.allclose(step.fill_std, std) for step in erasing)


@pytest.mark.parametrize('name', [name for name in NAMES if 'segment' in name])
def test_segmentation_sees_crops_and_windows_of_the_size_in_the_name(name, sample):
    cfg = load(name)
    side = 640 if '_640_' in name else 512
    assert cfg.model.backbone.img_size == side
    assert cfg.model.data_preprocessor.size == cfg.model.data_preprocessor.test_cfg.size == (side, side)
    assert cfg.model.test_cfg == dict(mode='slide', crop_size=(side, side), stride=({512: 341, 640: 426}[side],) * 2)
    resize, crop = cfg.train_dataloader.dataset.pipeline[2:4]
    assert (resize.scale, resize.ratio_range) == ((4 * side, side), (0.5, 2.0))
    assert (crop.crop_size, crop.cat_max_ratio) == ((side, side), 0.75)
    # A picture may be drawn smaller than the crop; the preprocessor pads it.
    assert max(Compose(cfg.train_dataloader.dataset.pipeline)(dict(sample))['inputs'].shape[1:]) <= side
    actual = Compose(cfg.test_dataloader.dataset.pipeline)(dict(sample))['inputs']
    assert actual.shape == (3, side, side * WIDTH // HEIGHT)

    # No view is smaller than the window: ratios 0.5 and 0.75 are lifted to 1. Every view comes straight and flipped.
    views = Compose(cfg.tta_pipeline)(sample)['inputs']
    heights = [round(side * ratio) for ratio in (1, 1, 1, 1.25, 1.5, 1.75) for _ in range(2)]
    assert [view.shape[1] for view in views] == heights
    assert all(torch.equal(views[index + 1], views[index].flip(2)) for index in range(0, 12, 2))
