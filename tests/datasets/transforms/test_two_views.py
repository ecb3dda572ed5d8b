"""Two views of one crop, from the transform to the model's tensors."""

import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from PIL import Image

from beit_mm.datasets import PackTwoViews, TwoViewRandomResizedCrop
from beit_mm.models import TwoViewPreprocessor

IMAGE = np.random.default_rng(0).integers(0, 256, (180, 240, 3), dtype=np.uint8)
BICUBIC, BILINEAR, LANCZOS = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.LANCZOS
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


@pytest.mark.parametrize(
    'scales, sizes, names, filters',
    [
        (((40, 56), (24, 16)), ((40, 56), (24, 16)), {}, (BICUBIC, LANCZOS)),
        ((48, 24), ((48, 48), (24, 24)), dict(crop_ratio_range=(0.1, 0.2)), (BICUBIC, LANCZOS)),
        (
            ([64, 32], 40),
            ((64, 32), (40, 40)),
            dict(interpolation='bilinear', second_interpolation='bicubic'),
            (BILINEAR, BICUBIC),
        ),
    ],
)
def test_both_views_are_pillows_crop_of_the_window_drawn(scales, sizes, names, filters):
    transform = TwoViewRandomResizedCrop(*scales, **names)
    image = IMAGE.copy()
    for seed in range(5):
        np.random.seed(seed)
        top, left, height, width = transform.rand_crop_params(image)
        np.random.seed(seed)
        results = transform.transform(dict(img=image))
        crop = Image.fromarray(image).crop((left, top, left + width, top + height))
        for key, size, resample in zip(('img', 'view'), sizes, filters):
            assert np.array_equal(results[key], np.asarray(crop.resize(size[::-1], resample)))
        assert results['img_shape'] == (*sizes[0], 3)
        if 'crop_ratio_range' in names:
            assert 0.09 < height * width / image[..., 0].size < 0.21
    assert np.array_equal(image, IMAGE), 'the image is not written to'


def test_the_text_form_has_both_sizes_and_filters():
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
    packed = PackTwoViews().transform(dict(img=IMAGE, view=IMAGE[:8, :16], mask=np.eye(2, 3, dtype=bool), label=3))
    assert set(packed) == {'inputs', 'views', 'mask'}
    assert packed['inputs'].dtype == packed['views'].dtype == torch.uint8 and packed['mask'].dtype == torch.bool
    assert packed['inputs'].is_contiguous() and packed['inputs'].shape == (3, 180, 240)
    assert np.array_equal(packed['views'].numpy(), IMAGE[:8, :16].transpose(2, 0, 1))
    assert packed['mask'].tolist() == [[True, False, False], [False, True, False]]


@pytest.mark.parametrize('to_rgb', [True, False])
def test_a_collated_batch_becomes_normalised_images_and_views_in_zero_to_one(to_rgb):
    batch = default_collate([PackTwoViews().transform(sample(index)) for index in range(2)])
    preprocessor = TwoViewPreprocessor(MEAN, STD, to_rgb=to_rgb)
    data = preprocessor(batch, training=True)
    assert set(data) == {'inputs', 'views', 'mask'}
    assert data['inputs'].shape == (2, 3, 32, 48) and data['views'].shape == (2, 3, 16, 24)
    assert data['inputs'].dtype == data['views'].dtype == torch.float32
    pixels = torch.tensor([255.0, 100.0, 0.0] if to_rgb else [0.0, 100.0, 255.0])
    expected = (pixels - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(data['inputs'], expected.view(1, 3, 1, 1).expand(2, 3, 32, 48))
    for index in range(2):
        view = torch.tensor([51.0, 102.0 + index, 0.0]) / 255
        view = view if to_rgb else view.flip(0)
        torch.testing.assert_close(data['views'][index], view.view(3, 1, 1).expand(3, 16, 24))
    assert data['mask'].dtype == torch.bool and data['mask'].nonzero().tolist() == [[0, 0, 2], [1, 1, 2]]
    assert not preprocessor.state_dict(), 'its numbers are no part of a checkpoint'


def test_views_of_any_bytes_stay_in_zero_to_one():
    views = torch.tensor([0, 255], dtype=torch.uint8).repeat(1, 3, 4, 4)
    batch = dict(inputs=torch.zeros(1, 3, 8, 8, dtype=torch.uint8), mask=torch.ones(1, 1, 1, dtype=torch.bool))
    assert TwoViewPreprocessor([0.0] * 3, [1.0] * 3)(dict(batch, views=views))['views'].unique().tolist() == [0, 1]
