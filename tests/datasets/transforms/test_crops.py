"""Crops, mirroring and packing of training images are the hosts', and two views are of one crop."""

import mmpretrain.datasets.transforms as mmpretrain
import mmseg.datasets.transforms as mmseg
import numpy as np
import pytest
import torch
from mmcv.transforms import RandomFlip as HostRandomFlip
from mmengine.dataset import default_collate
from PIL import Image
from torch.nn import functional as F

from beit_mm.datasets import (
    PackInputs,
    PackSegInputs,
    PackTwoViews,
    RandomFlip,
    RandomResizedCrop,
    TwoViewRandomResizedCrop,
)
from beit_mm.datasets.transforms.crops import channels_first, TORCH_HAS_LANCZOS
from beit_mm.models import TwoViewPreprocessor

HEIGHT, WIDTH = 90, 120
BICUBIC, BILINEAR, LANCZOS = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.LANCZOS
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def noise(*shape) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape or (HEIGHT, WIDTH, 3), dtype=np.uint8)


def smooth() -> np.ndarray:
    return np.asarray(Image.fromarray(noise(9, 12, 3)).resize((WIDTH, HEIGHT), BICUBIC))


@pytest.mark.parametrize('interpolation', ['bicubic', 'bilinear', 'lanczos'])
def test_crops_are_the_hosts(interpolation):
    hosts = mmpretrain.RandomResizedCrop((40, 56), interpolation=interpolation, backend='pillow')
    for seed in range(10):
        np.random.seed(seed)
        expected = hosts(dict(img=smooth()))['img'].astype(int)
        for backend, mean, highest in (('pillow', 0, 0), ('torch', 0.2, 3)):
            np.random.seed(seed)
            ours = RandomResizedCrop((40, 56), interpolation=interpolation, resize_backend=backend)
            results = ours(dict(img=smooth()))
            assert results['img'].dtype == np.uint8 and results['img'].flags.c_contiguous
            assert results['img_shape'] == (40, 56, 3)
            difference = np.abs(results['img'] - expected)
            assert difference.mean() <= mean and difference.max() <= highest


def test_torch_resizes_with_every_filter_that_it_has():
    assert TORCH_HAS_LANCZOS == ('lanczos' in F.interpolate.__doc__)


@pytest.mark.parametrize('backend', ['pillow', 'torch'])
@pytest.mark.parametrize('axis', [1, 2], ids=['mirrored', 'channels reversed'])
@pytest.mark.parametrize('crop', [RandomResizedCrop, TwoViewRandomResizedCrop])
def test_crops_of_views_are_those_of_copies(crop, axis, backend):
    found, view = [], np.flip(smooth(), axis)
    for image in (view, view.copy()):
        np.random.seed(0)
        found.append(crop(32, resize_backend=backend)(dict(img=image))['img'])
    assert np.array_equal(*found)


@pytest.mark.parametrize(
    'crop, options, words',
    [
        (RandomResizedCrop, dict(interpolation='nearest'), "interpolation .* bilinear, lanczos, got 'nearest'"),
        (TwoViewRandomResizedCrop, dict(second_interpolation='area'), "second_interpolation .* got 'area'"),
        (RandomResizedCrop, dict(resize_backend='cv2'), "resize_backend must be one of pillow, torch, got 'cv2'"),
    ],
)
def test_other_filters_and_resizers_are_refused(crop, options, words):
    with pytest.raises(ValueError, match=words):
        crop(32, **options)


@pytest.mark.parametrize('direction', ['horizontal', 'vertical', 'diagonal'])
def test_mirroring_is_the_hosts_in_new_memory(direction):
    flips = 0
    for seed in range(10):
        results = []
        for cls in (RandomFlip, HostRandomFlip):
            np.random.seed(seed)
            results.append(cls(prob=0.5, direction=direction)(dict(img=noise(), gt_seg_map=noise(4, 5))))
        ours, hosts = results
        assert all(np.array_equal(ours[key], hosts[key]) for key in ('img', 'gt_seg_map'))
        assert ours['flip'] == hosts['flip'] and ours['flip_direction'] == hosts['flip_direction']
        assert ours['img'].flags.c_contiguous
        flips += ours['flip']
    assert 0 < flips < 10


@pytest.mark.parametrize('backend', ['pillow', 'torch'])
def test_both_views_are_mirrored_or_none(backend):
    mirrored = {prob: TwoViewRandomResizedCrop(32, 16, resize_backend=backend, flip_prob=prob) for prob in (0.0, 1.0)}
    for seed in range(5):
        views = []
        for transform in mirrored.values():
            np.random.seed(seed)
            views.append(transform(dict(img=noise())))
        assert all(np.array_equal(views[0][key][:, ::-1], views[1][key]) for key in ('img', 'view'))
        packed = PackTwoViews()(dict(views[1], mask=np.eye(2, dtype=bool)))
        assert packed['inputs'].is_contiguous() and packed['views'].is_contiguous()
        assert np.array_equal(packed['views'].permute(1, 2, 0).numpy(), views[1]['view'])


def test_channels_first():
    image = noise()
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    for given in (image, image[:, ::-1][:, ::-1], planes.transpose(1, 2, 0)):
        tensor = channels_first(given)
        assert tensor.is_contiguous() and np.array_equal(tensor.numpy(), planes)
    assert tensor.numpy().base is not None and np.shares_memory(tensor.numpy(), planes)


def test_packing_is_the_hosts():
    results = dict(img=noise()[5:70, 9:99], gt_seg_map=noise(65, 90), gt_label=3, img_path='a.jpg')
    results.update(ori_shape=(90, 120), img_shape=(65, 90), flip=True, flip_direction='horizontal')
    for ours, hosts in ((PackInputs(), mmpretrain.PackInputs()), (PackSegInputs(), mmseg.PackSegInputs())):
        found, expected = ours(dict(results)), hosts(dict(results))
        assert set(found) == set(expected) == {'inputs', 'data_samples'}
        assert found['inputs'].is_contiguous() and torch.equal(found['inputs'], expected['inputs'])
        assert found['data_samples'].metainfo == expected['data_samples'].metainfo
        assert str(found['data_samples'].to_dict()) == str(expected['data_samples'].to_dict())


def test_packing_and_mirroring_leave_to_the_hosts_what_is_no_colour_image():
    gray = noise(HEIGHT, WIDTH)
    for image in (gray, Image.fromarray(gray), torch.zeros(3, 4, 5)):
        ours, hosts = (pack(dict(img=image))['inputs'] for pack in (PackInputs(), mmpretrain.PackInputs()))
        assert torch.equal(ours, hosts)
    ours, hosts = (pack(dict(img=gray))['inputs'] for pack in (PackSegInputs(), mmseg.PackSegInputs()))
    assert torch.equal(ours, hosts)
    assert set(PackSegInputs()(dict(gt_seg_map=gray))) == {'data_samples'}
    assert RandomFlip(prob=1.0)(dict(img=noise(5, 6, 1)))['img'].shape == (5, 6, 1)


@pytest.mark.parametrize(
    'sizes, options, filters',
    [
        (((40, 56), (24, 16)), {}, (BICUBIC, LANCZOS)),
        (((48, 48), (24, 24)), dict(crop_ratio_range=(0.1, 0.2)), (BICUBIC, LANCZOS)),
        (((64, 32), (40, 40)), dict(interpolation='bilinear', second_interpolation='bicubic'), (BILINEAR, BICUBIC)),
    ],
)
def test_both_views_are_pillows_crop_of_the_window_drawn(sizes, options, filters):
    # Squares are one number.
    transform = TwoViewRandomResizedCrop(*(size[0] if size[0] == size[1] else size for size in sizes), **options)
    image = noise()
    for seed in range(5):
        np.random.seed(seed)
        top, left, height, width = transform.rand_crop_params(image)
        np.random.seed(seed)
        results = transform.transform(dict(img=image))
        crop = Image.fromarray(image).crop((left, top, left + width, top + height))
        for key, size, resample in zip(('img', 'view'), sizes, filters):
            assert np.array_equal(results[key], np.asarray(crop.resize(size[::-1], resample)))
        assert results['img_shape'] == (*sizes[0], 3)
        if 'crop_ratio_range' in options:
            assert 0.08 < height * width / (HEIGHT * WIDTH) < 0.22
    assert np.array_equal(image, noise()), 'the image is not written to'
    text = repr(transform)
    assert text.startswith(f'TwoViewRandomResizedCrop(scale={sizes[0]}') and f'second_scale={sizes[1]}' in text


@pytest.mark.parametrize('to_rgb', [True, False])
def test_two_views_become_normalised_images_and_views_in_zero_to_one(to_rgb):
    """Images of one colour, blue, green and red as MMCV loads them, packed and collated."""
    packed = []
    for index in range(2):
        mask = np.zeros((2, 3), dtype=bool)
        mask[index, 2] = True
        image, view = np.zeros((32, 48, 3), np.uint8), np.zeros((16, 24, 3), np.uint8)
        image[:], view[:] = (0, 100, 255), (0, 102 + index, 255)
        packed.append(PackTwoViews().transform(dict(img=image, view=view, mask=mask, label=3)))
    assert set(packed[0]) == {'inputs', 'views', 'mask'}
    assert packed[0]['inputs'].dtype == packed[0]['views'].dtype == torch.uint8
    preprocessor = TwoViewPreprocessor(MEAN, STD, to_rgb=to_rgb)
    data = preprocessor(default_collate(packed), training=True)
    assert set(data) == {'inputs', 'views', 'mask'}
    pixels = torch.tensor([255.0, 100.0, 0.0] if to_rgb else [0.0, 100.0, 255.0])
    expected = (pixels - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(data['inputs'], expected.view(1, 3, 1, 1).expand(2, 3, 32, 48))
    views = torch.tensor([[255.0, 102.0, 0.0], [255.0, 103.0, 0.0]]) / 255
    views = views if to_rgb else views.flip(1)
    torch.testing.assert_close(data['views'], views.view(2, 3, 1, 1).expand(2, 3, 16, 24))
    assert data['mask'].dtype == torch.bool and data['mask'].nonzero().tolist() == [[0, 0, 2], [1, 1, 2]]
    assert not preprocessor.state_dict(), 'its numbers are no part of a checkpoint'
