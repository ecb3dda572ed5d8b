"""Single images: the pixels are the same whatever holds them, and a model gets what its own preprocessor gives."""

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from mmseg.structures import SegDataSample
from PIL import Image

from beit_mm.datasets.bad_images import BadImage
from beit_mm.datasets.images import input_format, normalize, read_image, resize_image, size_for

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)


def test_files_arrays_and_pictures_are_the_same_image(image, tmp_path):
    picture = Image.fromarray(image[..., ::-1])
    picture.save(tmp_path / 'image.png')
    for source in (image, picture, tmp_path / 'image.png', str(tmp_path / 'image.png')):
        assert np.array_equal(read_image(source), image)
    assert np.array_equal(read_image(image[..., 0])[..., 2], image[..., 0])


def test_a_picture_is_turned_as_its_exif_data_say(image, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(image).save(tmp_path / 'turned.png', exif=exif)
    with Image.open(tmp_path / 'turned.png') as picture:
        assert np.array_equal(read_image(picture), np.rot90(image, -1)[..., ::-1])


@pytest.mark.parametrize('dtype', [np.uint16, np.int32])
def test_of_16_bits_the_upper_eight_are_taken_in_pictures_and_files(dtype, tmp_path):
    values = np.array([[0, 255, 256, 32768, 65535]], dtype)
    picture = Image.fromarray(values)
    assert read_image(picture)[0, :, 1].tolist() == [0, 0, 1, 128, 255]
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / 'image.png')
    assert np.array_equal(read_image(tmp_path / 'image.png'), read_image(picture))


@pytest.mark.parametrize(
    'source, words',
    [
        (np.zeros((4, 4, 3)), r'must be uint8 \(H, W, 3\), got float64'),
        (np.zeros((4, 4, 4), np.uint8), r'must be uint8 \(H, W, 3\), got'),
        (np.zeros((0, 4, 3), np.uint8), r'must be uint8 \(H, W, 3\), got'),
        (Image.fromarray(np.array([[0, 1]], np.float32)), 'a Pillow image .* numbers of 8 or 16 bits, got mode F'),
        (Image.fromarray(np.array([[-1, 1]], np.int32)), 'a Pillow image .* numbers of 8 or 16 bits, got mode I'),
    ],
)
def test_other_arrays_and_pictures_are_refused(source, words):
    with pytest.raises(BadImage, match=words):
        read_image(source)


def test_a_truncated_picture_and_a_file_that_is_no_image_are_named(image, tmp_path):
    Image.fromarray(image).save(tmp_path / 'whole.jpg')
    (tmp_path / 'cut.jpg').write_bytes((tmp_path / 'whole.jpg').read_bytes()[:-200])
    with Image.open(tmp_path / 'cut.jpg') as picture, pytest.raises(BadImage, match=r'cut\.jpg cannot .* truncated'):
        read_image(picture)
    (tmp_path / 'text.jpg').write_text('no image')
    with pytest.raises(BadImage, match='text.jpg'):
        read_image(tmp_path / 'text.jpg')


@pytest.mark.parametrize(
    'size, expected',
    [((375, 500), (224, 304)), ((500, 375), (304, 224)), ((1, 1000), (224, 896)), ((600, 10), (896, 224))],
)
def test_sides_keep_the_ratio_up_to_four_and_fit_patches(size, expected):
    assert size_for(size, 224, 16) == expected
    assert resize_image(np.zeros((*size, 3), np.uint8), expected).shape == (*expected, 3)


@pytest.mark.parametrize(
    'kind, options',
    [
        ('beit_mm.ClsDataPreprocessor', dict(mean=MEAN, std=STD, to_rgb=True, num_classes=3)),
        ('beit_mm.SegDataPreProcessor', dict(mean=MEAN, std=STD, bgr_to_rgb=True, size=(32, 48))),
        ('beit_mm.TwoViewPreprocessor', dict(mean=MEAN, std=STD, to_rgb=True)),
    ],
)
def test_normalised_as_by_the_preprocessor(kind, options, image):
    model = torch.nn.Module()
    model.data_preprocessor = MODELS.build(dict(type=kind, **options))
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    if 'TwoView' in kind:
        batch = dict(inputs=pixels[None], views=pixels[None], mask=torch.zeros(1, 2, 3, dtype=torch.bool))
    else:
        batch = dict(inputs=[pixels], data_samples=[SegDataSample(metainfo=dict(img_shape=(32, 48)))])
    expected = model.data_preprocessor(batch)['inputs']
    assert input_format(model).channel_order == 'RGB'
    torch.testing.assert_close(normalize(pixels[None], input_format(model)), expected, rtol=0, atol=1e-6)
