"""Colour jitter on the device against Pillow's, step by step."""
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as TF

from beit_mm.datasets.color_jitter import DrawColorJitter, jitter_colors
from beit_mm.datasets.preprocessor import TwoViewPreprocessor

STEPS = TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation


def picture(seed: int) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((64, 48)))


@pytest.mark.parametrize('order', [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
@pytest.mark.parametrize('factors', [(0.6, 1.4, 0.6), (1.3, 0.7, 1.4), (1.0, 1.0, 1.0)])
def test_it_is_torchvision_s(factors, order):
    """Equal on tensors; Pillow's images are cut to whole numbers after each step."""
    image = Image.fromarray(picture(0))
    tensor = TF.to_tensor(image)
    for kind in order:
        image, tensor = STEPS[kind](image, factors[kind]), STEPS[kind](tensor, factors[kind])
    given = torch.from_numpy(picture(0).copy()).permute(2, 0, 1)[None].float()
    actual = jitter_colors(given, torch.tensor([[*factors, *order]], dtype=torch.float32))[0]
    assert (actual - 255 * tensor).abs().max() < 0.05, 'torchvision rounds the weight of red to 0.2989'
    difference = (actual - 255 * TF.to_tensor(image)).abs()
    assert difference.max() < 4 and difference.mean() < 1.5


def test_every_image_of_a_batch_has_its_own():
    images = torch.stack([torch.from_numpy(picture(seed).copy()).permute(2, 0, 1) for seed in range(4)]).float()
    jitter = torch.tensor([[0.7, 1.2, 1.3, 0, 1, 2], [1.2, 0.9, 0.6, 2, 1, 0], [1, 1, 1, 1, 0, 2], [1.4, 0.6, 1, 1, 2, 0]])
    together = jitter_colors(images, jitter)
    for index in range(4):
        assert torch.equal(together[index], jitter_colors(images[index:index + 1], jitter[index:index + 1])[0])
    assert torch.allclose(together[2], images[2], atol=1e-4), 'factors of one change nothing'


def test_factors_and_orders_are_uniform():
    np.random.seed(0)
    draw = DrawColorJitter(brightness=0.4, contrast=0.4, saturation=(0.5, 0.8))
    drawn = np.stack([draw.transform({})['jitter'] for _ in range(6000)])
    assert drawn.dtype == np.float32
    for column, (low, high) in enumerate([(0.6, 1.4), (0.6, 1.4), (0.5, 0.8)]):
        assert drawn[:, column].min() >= low and drawn[:, column].max() <= high
        assert np.histogram(drawn[:, column], 4, (low, high))[0] == pytest.approx([1500] * 4, rel=0.12)
    orders, counts = np.unique(drawn[:, 3:], axis=0, return_counts=True)
    assert len(orders) == 6 and counts == pytest.approx([1000] * 6, rel=0.12)


@pytest.mark.parametrize('value', [-0.1, (1.2, 0.8), (-1, 1)])
def test_a_range_that_is_none_is_refused(value):
    if value == -0.1:
        assert DrawColorJitter(brightness=0.0).ranges[0] == (1.0, 1.0)
    with pytest.raises(ValueError, match='contrast must be'):
        DrawColorJitter(contrast=value)


def test_both_views_get_the_jitter_before_they_are_normalised():
    preprocessor = TwoViewPreprocessor(mean=[100.0] * 3, std=[50.0] * 3, to_rgb=True)
    bgr = torch.from_numpy(picture(1).copy()).permute(2, 0, 1)[None]
    jitter = torch.tensor([[0.7, 1.2, 1.3, 2, 0, 1]])
    batch = preprocessor(dict(inputs=bgr, views=bgr[:, :, :16, :16], mask=torch.zeros(1, 3, 4, dtype=torch.bool),
                              jitter=jitter))
    expected = jitter_colors(bgr.flip(1).float(), jitter)
    assert torch.allclose(batch['inputs'], (expected - 100) / 50, atol=1e-5)
    assert torch.allclose(batch['views'], jitter_colors(bgr.flip(1)[:, :, :16, :16].float(), jitter) / 255, atol=1e-6)
