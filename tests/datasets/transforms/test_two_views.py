"""Two views of one crop, from the transform to the model's tensors."""

import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from PIL import Image

from beit_mm.datasets import PackTwoViews, TwoViewRandomResizedCrop
from beit_mm.models import TwoViewPreprocessor

HEIGHT, WIDTH = 180, 240


def gradient() -> np.ndarray:
    """Channel 0 holds the row, channel 1 the column."""
    rows, columns = np.meshgrid(np.arange(HEIGHT), np.arange(WIDTH), indexing='ij')
    return np.stack([rows, columns, np.full_like(rows, 77)], axis=2).astype(np.uint8)


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def window(view: np.ndarray) -> np.ndarray:
    """Top, bottom, left and right of the crop of the gradient image that a view shows."""
    edges = []
    for axis, size in enumerate(view.shape[:2]):
        profile = view[..., axis].mean(axis=1 - axis)
        inner = slice(size // 8, size - size // 8)  # filters bend the ends
        slope, start = np.polyfit(np.arange(size)[inner] + 0.5, profile[inner], 1)
        edges += [start + 0.5, start + 0.5 + slope * size]
    return np.array(edges)


@pytest.mark.parametrize(
    'scale, second_scale, shapes',
    [
        (48, 24, [(48, 48, 3), (24, 24, 3)]),
        ((32, 64), (16, 32), [(32, 64, 3), (16, 32, 3)]),
        ([64, 32], 40, [(64, 32, 3), (40, 40, 3)]),
    ],
)
def test_views_have_the_sizes_asked_for(scale, second_scale, shapes):
    results = TwoViewRandomResizedCrop(scale, second_scale).transform(dict(img=noise()))
    assert [results['img'].shape, results['view'].shape] == shapes
    assert results['img'].dtype == results['view'].dtype == np.uint8
    assert results['img_shape'] == shapes[0]


@pytest.mark.parametrize('scale, second_scale', [(64, 32), ((48, 96), (32, 56))])
def test_both_views_show_the_same_window(scale, second_scale):
    np.random.seed(0)
    transform = TwoViewRandomResizedCrop(scale, second_scale, crop_ratio_range=(0.1, 1.0))
    windows = []
    for _ in range(30):
        results = transform.transform(dict(img=gradient()))
        windows.append(window(results['img']))
        assert np.abs(windows[-1] - window(results['view'])).max() < 1
    assert np.std(windows, axis=0).min() > 5


def test_the_window_is_the_one_drawn():
    transform = TwoViewRandomResizedCrop(64, 32)
    for seed in range(10):
        np.random.seed(seed)
        top, left, height, width = transform.rand_crop_params(gradient())
        np.random.seed(seed)
        found = window(transform.transform(dict(img=gradient()))['img'])
        assert np.abs(found - [top, top + height, left, left + width]).max() < 1


@pytest.mark.parametrize(
    'names, filters',
    [
        ({}, (Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)),
        (
            dict(interpolation='bilinear', second_interpolation='bicubic'),
            (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC),
        ),
    ],
)
def test_views_equal_pillows_own_crop_and_resize(names, filters):
    transform = TwoViewRandomResizedCrop((40, 56), (24, 16), **names)
    for seed in range(5):
        np.random.seed(seed)
        top, left, height, width = transform.rand_crop_params(noise())
        np.random.seed(seed)
        results = transform.transform(dict(img=noise()))
        crop = Image.fromarray(noise()).crop((left, top, left + width, top + height))
        assert np.array_equal(results['img'], np.asarray(crop.resize((56, 40), filters[0])))
        assert np.array_equal(results['view'], np.asarray(crop.resize((16, 24), filters[1])))


@pytest.mark.parametrize('low, high', [(0.08, 0.12), (0.2, 0.4), (0.5, 0.6)])
def test_the_crops_share_of_the_image_lies_in_its_range(low, high):
    np.random.seed(0)
    transform = TwoViewRandomResizedCrop(64, 32, crop_ratio_range=(low, high), aspect_ratio_range=(0.9, 1.1))
    shares = []
    for _ in range(30):
        top, bottom, left, right = window(transform.transform(dict(img=gradient()))['img'])
        shares.append((bottom - top) * (right - left) / (HEIGHT * WIDTH))
        assert 0.85 < (right - left) / (bottom - top) < 1.15
    assert low - 0.02 < min(shares) and max(shares) < high + 0.02
    assert max(shares) - min(shares) > (high - low) / 2


def test_the_image_is_not_written_to():
    image = noise()
    TwoViewRandomResizedCrop(32, 16).transform(dict(img=image))
    assert np.array_equal(image, noise())


def test_the_text_form_tells_both_sizes_and_filters():
    text = repr(TwoViewRandomResizedCrop(32, (16, 24)))
    assert text.startswith('TwoViewRandomResizedCrop(scale=(32, 32)')
    for part in ('second_scale=(16, 24)', 'interpolation=bicubic', 'second_interpolation=lanczos'):
        assert part in text


# To the model


def colours(red, green, blue, shape) -> np.ndarray:
    """An image of one colour as MMCV loads it: blue, green, red."""
    return np.broadcast_to(np.array([blue, green, red], dtype=np.uint8), (*shape, 3)).copy()


def sample(index: int) -> dict:
    mask = np.zeros((2, 3), dtype=bool)
    mask[index, 2] = True
    return dict(img=colours(255, 100, 0, (32, 48)), view=colours(51, 102 + index, 0, (16, 24)), mask=mask, label=3)


def test_packing_gives_bytes_with_the_channels_first_and_nothing_else():
    image = noise()
    packed = PackTwoViews().transform(dict(img=image, view=image[:8, :16], mask=np.eye(2, 3, dtype=bool), label=3))
    assert set(packed) == {'inputs', 'views', 'mask'}
    assert packed['inputs'].dtype == packed['views'].dtype == torch.uint8 and packed['mask'].dtype == torch.bool
    assert packed['inputs'].is_contiguous() and packed['inputs'].shape == (3, HEIGHT, WIDTH)
    assert np.array_equal(packed['views'].numpy(), image[:8, :16].transpose(2, 0, 1))
    assert packed['mask'].tolist() == [[True, False, False], [False, True, False]]


@pytest.mark.parametrize('to_rgb', [True, False])
def test_a_collated_batch_becomes_normalised_images_and_views_in_zero_to_one(to_rgb):
    batch = default_collate([PackTwoViews().transform(sample(index)) for index in range(2)])
    preprocessor = TwoViewPreprocessor([123.675, 116.28, 103.53], [58.395, 57.12, 57.375], to_rgb=to_rgb)
    data = preprocessor(batch, training=True)
    assert set(data) == {'inputs', 'views', 'mask'}
    assert data['inputs'].shape == (2, 3, 32, 48) and data['views'].shape == (2, 3, 16, 24)
    assert data['inputs'].dtype == data['views'].dtype == torch.float32
    first, last = (255, 0) if to_rgb else (0, 255)
    expected = [(first - 123.675) / 58.395, (100 - 116.28) / 57.12, (last - 103.53) / 57.375]
    for channel in range(3):
        torch.testing.assert_close(data['inputs'][:, channel], torch.full((2, 32, 48), expected[channel]))
    for index in range(2):
        view = [0.2, (102 + index) / 255, 0.0]
        for channel, value in enumerate(view if to_rgb else view[::-1]):
            torch.testing.assert_close(data['views'][index, channel], torch.full((16, 24), value))
    assert data['mask'].dtype == torch.bool and data['mask'].shape == (2, 2, 3)
    assert data['mask'].nonzero().tolist() == [[0, 0, 2], [1, 1, 2]]


def test_views_of_any_bytes_stay_in_zero_to_one():
    data = TwoViewPreprocessor([0.0] * 3, [1.0] * 3)(
        dict(
            inputs=torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
            mask=torch.ones(1, 1, 1, dtype=torch.bool),
            views=torch.tensor([0, 255], dtype=torch.uint8).repeat(1, 3, 4, 4),
        )
    )
    assert data['views'].unique().tolist() == [0, 1]


def test_the_preprocessors_numbers_are_no_part_of_a_checkpoint():
    preprocessor = TwoViewPreprocessor([1, 2, 3], [4, 5, 6])
    assert not preprocessor.state_dict() and len(list(preprocessor.buffers())) == 2
