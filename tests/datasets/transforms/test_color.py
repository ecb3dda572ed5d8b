"""Colour jitter on the device against Pillow's, step by step."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as TF

from beit_mm.datasets.transforms.color import DrawColorJitter
from beit_mm.models.data_preprocessors import jitter_colors, TwoViewPreprocessor

STEPS = TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation


def mean_color(images: torch.Tensor) -> torch.Tensor:
    return images.mean(dim=(2, 3))


def picture(seed: int) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((64, 48)))


@pytest.mark.parametrize('order', [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
@pytest.mark.parametrize('factors', [(0.6, 1.4, 0.6), (1.3, 0.7, 1.4), (1.0, 1.0, 1.0)])
def test_it_is_torchvisions(factors, order):
    """Equal on tensors whose mean no cutting to [0, 255] moves; Pillow cuts to whole numbers after each step."""
    pixels = picture(0) // 4 + 90
    image = Image.fromarray(pixels)
    tensor = TF.to_tensor(image)
    for kind in order:
        image, tensor = STEPS[kind](image, factors[kind]), STEPS[kind](tensor, factors[kind])
    given = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    actual = jitter_colors(given, torch.tensor([[*factors, *order]], dtype=torch.float32), mean_color(given))[0]
    assert (actual - 255 * tensor).abs().max() < 0.05, 'torchvision rounds the weight of red to 0.2989'
    difference = (actual - 255 * TF.to_tensor(image)).abs()
    assert difference.max() < 4 and difference.mean() < 2


def test_every_image_of_a_batch_has_its_own():
    images = torch.stack([torch.from_numpy(picture(seed).copy()).permute(2, 0, 1) for seed in range(3)]).float()
    jitter = torch.tensor([[0.7, 1.2, 1.3, 0, 1, 2], [1.2, 0.9, 0.6, 2, 1, 0], [1, 1, 1, 1, 0, 2]])
    together = jitter_colors(images, jitter, mean_color(images))
    for inputs in zip(together.split(1), images.split(1), jitter.split(1), mean_color(images).split(1)):
        assert torch.equal(inputs[0], jitter_colors(*inputs[1:]))
    assert torch.allclose(together[2], images[2], atol=1e-4), 'factors of one change nothing'


def test_factors_and_orders_are_uniform():
    np.random.seed(0)
    draw = DrawColorJitter(brightness=0.4, contrast=0.4, saturation=(0.5, 0.8))
    drawn = np.stack([draw.transform(dict(img=picture(0)))['jitter'] for _ in range(6000)])
    assert drawn.dtype == np.float32
    for column, (low, high) in enumerate([(0.6, 1.4), (0.6, 1.4), (0.5, 0.8)]):
        assert drawn[:, column].min() >= low and drawn[:, column].max() <= high
        assert np.histogram(drawn[:, column], 4, (low, high))[0] == pytest.approx([1500] * 4, rel=0.12)
    orders, counts = np.unique(drawn[:, 3:], axis=0, return_counts=True)
    assert len(orders) == 6 and counts == pytest.approx([1000] * 6, rel=0.12)


@pytest.mark.parametrize('value', [-0.1, (1.2, 0.8), (-1, 1)])
def test_other_ranges_are_refused(value):
    with pytest.raises(ValueError, match='contrast must be'):
        DrawColorJitter(contrast=value)


def test_both_views_get_the_jitter_before_they_are_normalised():
    preprocessor = TwoViewPreprocessor(mean=[100.0] * 3, std=[50.0] * 3, to_rgb=True)
    bgr = torch.from_numpy(picture(1).copy()).permute(2, 0, 1)[None]
    jitter = torch.tensor([[0.7, 1.2, 1.3, 2, 0, 1]])
    mask, mean_bgr = torch.zeros(1, 3, 4, dtype=torch.bool), torch.tensor([[10.0, 20.0, 200.0]])
    batch = preprocessor(dict(inputs=bgr, views=bgr[:, :, :16, :16], mask=mask, jitter=jitter, mean_color=mean_bgr))
    mean = torch.tensor([[200.0, 20.0, 10.0]])
    expected = jitter_colors(bgr.flip(1).float(), jitter, mean)
    assert torch.allclose(batch['inputs'], (expected - 100) / 50, atol=1e-5)
    expected = jitter_colors(bgr.flip(1)[:, :, :16, :16].float(), jitter, mean)
    assert torch.allclose(batch['views'], expected / 255, atol=1e-6)


def test_the_mean_colour_is_that_of_every_fourth_row_in_the_order_of_the_image():
    image = picture(2).repeat(4, axis=0)  # every fourth row is a row of the picture
    given = DrawColorJitter().transform(dict(img=image))['mean_color']
    assert given.dtype == np.float32 and given == pytest.approx(image.mean(axis=(0, 1)), abs=1e-3)


def test_contrast_is_about_the_mean_of_the_whole_image():
    """A crop of one grey value is moved towards or away from the mean of the whole, made brighter before or after."""
    crop = torch.full((1, 3, 2, 2), 100.0)
    mean = torch.tensor([[50.0, 50.0, 50.0]])
    for order, expected in (((0, 1, 2), 1.5 * 110 - 0.5 * 55), ((1, 0, 2), 1.1 * (1.5 * 100 - 0.5 * 50))):
        jitter = torch.tensor([[1.1, 1.5, 1.0, *order]])
        assert jitter_colors(crop, jitter, mean).unique().item() == pytest.approx(expected, abs=1e-3)
