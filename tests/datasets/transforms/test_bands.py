"""Images of 1, 3, 4 and 13 bands, of 8 and 16 bits, go through the steps of the recipes as three bands of 8 bits do."""

import io

import mmpretrain.datasets.transforms as mmpretrain
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate
from mmengine.registry import DefaultScope
from PIL import Image
from support import CONFIGS

from beit_mm import datasets
from beit_mm.models import TwoViewPreprocessor


def smooth(bands: int) -> np.ndarray:
    """Uint8 (90, 120, bands); the first three are always the same."""
    rng = np.random.default_rng(0)
    small = [Image.fromarray(rng.integers(0, 256, (9, 12), dtype=np.uint8)) for _ in range(bands)]
    return np.stack([np.asarray(image.resize((120, 90), Image.Resampling.BICUBIC)) for image in small], axis=2)


def deep(image: np.ndarray) -> np.ndarray:
    return image.astype(np.uint16) * 257


def run(step, image: np.ndarray, seed: int) -> np.ndarray:
    np.random.seed(seed)
    return step(dict(img=image.copy()))['img']


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize('bands', [1, 3, 4, 13])
@pytest.mark.parametrize(
    'name', ['beit_pretrain.py', 'beit_tokenizer.py', 'beit_finetune.py', 'val of beit_finetune.py', 'beit_segment.py']
)
def test_every_pipeline_takes_them(name, bands, dtype, tmp_path):
    """From an .npy file to a packed sample. Of constant bands all steps but those of colour keep the values."""
    split, _, name = name.rpartition(' of ')
    cfg = Config.fromfile(CONFIGS / name)
    steps = [dict(step) for step in cfg[f'{split or "train"}_dataloader'].dataset.pipeline]
    steps[0]['color_type'] = 'unchanged'
    values = np.arange(1, bands + 1, dtype=dtype) * (np.iinfo(dtype).max // 16)
    target = io.BytesIO()
    np.save(target, np.broadcast_to(values, (600, 700, bands)))
    Image.fromarray(np.random.default_rng(0).integers(0, 9, (600, 700), np.uint8)).save(tmp_path / 'a.png')
    info = dict(img_path='a.npy', gt_label=1, seg_map_path=str(tmp_path / 'a.png'), seg_fields=[])
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        pipeline = Compose(steps)
        for seed in range(6):
            np.random.seed(seed)
            given = dict(info, img_bytes=target.getvalue(), reduce_zero_label=True, label_map=None)
            packed = pipeline(given)
            images = [packed[key] for key in ('inputs', 'views') if key in packed]
            dtypes = (torch.uint8,) if dtype == np.uint8 else (torch.int32, torch.uint16)  # the second by the hosts
            assert all(image.dtype in dtypes and torch.stack([image]).float().max() > 1 for image in images)
            assert {len(image) for image in images} == {bands} and all(image.is_contiguous() for image in images)
            if split or name in ('beit_pretrain.py', 'beit_tokenizer.py'):
                assert all(
                    (image.int() == torch.from_numpy(values.astype(int))[:, None, None]).all() for image in images
                )


@pytest.mark.parametrize('backend', ['pillow', 'torch'])
@pytest.mark.parametrize('interpolation', ['bicubic', 'lanczos'])
def test_crops_and_resizing_treat_each_band_alone(backend, interpolation):
    options = dict(interpolation=interpolation, resize_backend=backend)
    crops = datasets.RandomResizedCrop(40, **options), datasets.TwoViewRandomResizedCrop(40, flip_prob=0.5, **options)
    edge = datasets.ResizeEdge(40, backend='pillow', interpolation=interpolation)
    host = mmpretrain.ResizeEdge(40, backend='pillow', interpolation=interpolation)
    assert np.array_equal(run(edge, smooth(3), 0), run(host, smooth(3), 0))
    for seed in range(4):
        for step in (*crops, edge, datasets.RandomFlip(prob=0.5)):
            expected = run(step, smooth(3), seed).astype(float)
            for image in (smooth(4), smooth(13), deep(smooth(4)), deep(smooth(13))):
                found = run(step, image, seed)
                assert found.dtype == image.dtype and found.shape == (*expected.shape[:2], image.shape[2])
                difference = np.abs(found[..., :3] / (257 if image.dtype == np.uint16 else 1) - expected)
                assert difference.mean() < (2 if interpolation == 'lanczos' else 0.5)
            gray, band = run(step, smooth(1)[..., 0], seed), run(step, smooth(1), seed)
            assert gray.ndim == 2 and np.abs(gray - band.squeeze().astype(float)).mean() < 1


def test_an_edge_that_would_make_an_image_huge_is_refused():
    edge = datasets.ResizeEdge(48, backend='pillow')
    with pytest.raises(datasets.BadImage, match='of 100000 x 1 pixels it would be resized to 4800000 x 48'):
        run(edge, np.zeros((1, 100_000, 3), np.uint8), 0)


def test_augmentation_changes_three_bands_at_a_time_by_the_same_draws():
    cfg = Config.fromfile(CONFIGS / 'beit_finetune.py')
    options = {key: value for key, value in cfg.augment.items() if key != 'type'}
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        ours, host = datasets.RandAugment(**options), mmpretrain.RandAugment(**options)
    changed = 0
    for seed in range(30):
        expected = run(host, smooth(3), seed)
        assert np.array_equal(run(ours, smooth(3), seed), expected)
        twice = run(ours, np.concatenate([smooth(3), smooth(3), smooth(1)], axis=2), seed)
        assert np.array_equal(twice[..., :3], expected) and np.array_equal(twice[..., 3:6], expected)
        found = run(ours, deep(smooth(4)), seed)
        assert found.dtype == np.uint16 and found.shape == (90, 120, 4)
        changed += not np.array_equal(found, deep(smooth(4)))
    assert 3 < changed < 30, 'turned, sheared or moved'


@pytest.mark.parametrize('mode', ['const', 'rand'])
def test_erasing_fills_all_bands_of_the_same_rectangle(mode):
    options = dict(erase_prob=1.0, mode=mode, fill_color=[100.0, 120.0, 140.0], fill_std=[10.0] * 3)
    ours, host = datasets.RandomErasing(**options), mmpretrain.RandomErasing(**options)
    for seed in range(5):
        expected = run(host, np.zeros((90, 120, 3), np.uint8), seed)
        assert np.array_equal(run(ours, np.zeros((90, 120, 3), np.uint8), seed), expected)
        for shape, dtype in (((90, 120, 4), np.uint8), ((90, 120, 13), np.uint16), ((90, 120), np.uint8)):
            found = np.atleast_3d(run(ours, np.zeros(shape, dtype), seed))
            assert np.array_equal((found > 0).all(axis=2), (expected > 0).all(axis=2))
            assert found[found > 0].mean() / (257 if dtype == np.uint16 else 1) == pytest.approx(120, abs=3)


def test_distortion_keeps_a_fourth_band_and_the_depth():
    """Brightness and contrast change each band by the same draws."""
    step = datasets.PhotoMetricDistortion()
    for seed in range(40):
        alone = run(step, smooth(1)[..., 0], seed)
        for bands in (1, 4, 13):
            found, of_16_bits = run(step, smooth(bands), seed), run(step, deep(smooth(bands)), seed)
            assert found.shape == of_16_bits.shape == (90, 120, bands) and of_16_bits.dtype == np.uint16
            assert np.array_equal(found[..., 0], alone)
            assert np.abs(of_16_bits / 257 - found).max() < 2.5, (
                'less than 1 is cut off, made larger by 1.5, and cut off'
            )


def test_two_views_of_16_bits_are_those_of_8_times_257():
    draw = datasets.DrawColorJitter(0.4, 0.4, 0.4)
    batches = []
    for image, top in ((smooth(4), 255), (deep(smooth(4)), 65535)):
        np.random.seed(0)
        sample = draw(dict(img=image, view=image[:32, :32], mask=np.eye(2, dtype=bool)))
        preprocessor = TwoViewPreprocessor([0.0] * 4, [float(top)] * 4)
        batches.append(preprocessor(default_collate([datasets.PackTwoViews()(sample)])))
    for key in ('inputs', 'views'):
        torch.testing.assert_close(batches[0][key], batches[1][key], rtol=0, atol=1e-4)
        assert 0.2 < batches[0][key].mean() < 0.8
