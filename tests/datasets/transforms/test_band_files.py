"""Files of images with bands: .npy, and TIFF as programs for satellite images and microscopes write it."""

import gc
import io
import struct
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import tifffile

from beit_mm.datasets import BadImage, LoadImage
from beit_mm.datasets.transforms.decoding import read_array
from beit_mm.errors import UserError


def write(image: np.ndarray, layout: str, **options) -> bytes:
    """An image (H, W, bands), with its bands by pixel ('contig'), by plane ('separate') or in pages."""
    pixels, planar = (image, 'contig') if layout == 'contig' else (image.transpose(2, 0, 1), None)
    planar = 'separate' if layout == 'separate' else planar
    target = io.BytesIO()
    tifffile.imwrite(target, pixels, **{**dict(photometric='minisblack', planarconfig=planar), **options})
    return target.getvalue()


def load(content: bytes, color_type: str = 'unchanged') -> np.ndarray:
    return LoadImage(imdecode_backend='simplejpeg', color_type=color_type)(dict(img_path='a.tif', img_bytes=content))[
        'img'
    ]


@pytest.mark.parametrize('layout', ['contig', 'separate', 'pages'])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize('bands', [2, 3, 4, 13])
def test_all_bands_are_read_in_every_layout(bands, dtype, layout):
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (20, 30, bands), dtype)
    order = [2, 1, 0, *range(3, bands)] if bands in (3, 4) else list(range(bands))
    for options in (dict(), dict(compression='zlib', predictor=True), dict(tile=(16, 16)), dict(bigtiff=True)):
        found = load(write(image, layout, **options))
        assert found.dtype == dtype and np.array_equal(found, image[..., order])


def test_pictures_for_models_of_colour():
    """OpenCV multiplies colours by a fourth band, and takes the first of three bands of 16 bits for gray."""
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)
    alpha = write(image, 'contig', photometric='rgb', extrasamples=['unassalpha'])
    assert np.array_equal(load(alpha, 'color'), image[..., 2::-1])
    deep = write(image[..., :3].astype(np.uint16) * 257, 'contig')
    assert np.array_equal(load(deep, 'color'), image[..., 2::-1])
    with pytest.raises(BadImage, match="it has 4 bands, and color_type='unchanged'"):
        load(write(image, 'separate'), 'color')


@pytest.mark.parametrize('dtype', ['int16', 'float32', 'float64'])
@pytest.mark.parametrize('bands', [1, 3, 5])
def test_other_numbers_become_16_bits_between_two_values_and_are_refused_without(bands, dtype):
    values = np.linspace(-40, 60, 600 * bands).reshape(20, 30, bands).astype(dtype)
    expected = np.rint(65535 * (np.clip(values.astype(float), -20, 50) + 20) / 70).astype(np.uint16)
    if dtype != 'int16':
        values[0, 0], values[0, 1], values[0, 2] = np.nan, np.inf, -np.inf
        expected[0, 0], expected[0, 1], expected[0, 2] = 0, 65535, 0
    step = LoadImage(color_type='unchanged', value_range=(-20, 50))
    order = [2, 1, 0] if bands == 3 else list(range(bands))
    tiff = write(values, 'contig', **(dict(planarconfig=None) if bands == 1 else {}))
    for content, wanted in ((npy(values), expected), (tiff, expected[..., order])):
        found = step(dict(img_path='a', img_bytes=content))['img']
        assert found.dtype == np.uint16 and np.array_equal(found, wanted.squeeze())
        with pytest.raises(BadImage, match=f'its numbers are {dtype}, not of 8 or 16 bits: set .* value_range='):
            load(content)
    deep = array((20, 30, bands))
    assert np.array_equal(step(dict(img_path='a', img_bytes=npy(deep)))['img'], deep.squeeze())


def test_real_numbers_are_no_pictures():
    content = write(np.full((20, 30, 1), 280, 'float32'), 'contig', planarconfig=None)
    for color_type in ('color', 'grayscale'):
        with pytest.raises(BadImage, match="numbers are float32, .*: set color_type='unchanged' and value_range"):
            load(content, color_type)
    with pytest.raises(UserError, match=r"value_range of LoadImage needs color_type='unchanged', got 'color'"):
        LoadImage(value_range=(0, 1))
    with pytest.raises(UserError, match=r'must be \(lowest, highest\), got \(1, 1\)'):
        LoadImage(color_type='unchanged', value_range=(1, 1))


def set_tag(content: bytes, code: int, value: int) -> bytes:
    """Change a number, in the file itself, of a tag of the first page."""
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        tag = file.pages.first.tags[code]
        form = {3: '<H', 4: '<I'}[tag.dtype]
        at = tag.valueoffset
    return content[:at] + struct.pack(form, value) + content[at + struct.calcsize(form) :]


def test_files_that_ask_for_much_are_refused_at_once():
    small = np.zeros((20, 30, 13), np.uint8)
    plain = write(small, 'contig')
    bomb = zlib.compress(bytes(3_000_000))
    packed = write(small, 'contig', compression='zlib')
    with tifffile.TiffFile(io.BytesIO(packed)) as file:
        tags = file.pages.first.tags
        counts, offsets = tags['StripByteCounts'], tags['StripOffsets']
    packed = set_tag(set_tag(packed, counts.code, len(bomb)), offsets.code, len(packed)) + bomb
    for content, words in [
        (set_tag(plain, 257, 60_000), 'a.tif'),
        (set_tag(set_tag(plain, 257, 60_000), 256, 60_000), 'at most'),
        (packed, 'unpacks to more'),
        (write(np.zeros((100_001, 1, 5), np.uint8), 'contig', rowsperstrip=1), 'tiles or strips'),
        (plain[:200], 'a.tif'),
    ]:
        with pytest.raises(BadImage, match=words):
            load(content)


def array(shape: tuple, dtype=np.uint16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def npy(values: np.ndarray) -> bytes:
    target = io.BytesIO()
    np.save(target, values)
    return target.getvalue()


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_any_number_of_bands_is_read_unchanged(dtype):
    for shape in ((6, 8, 13), (6, 8, 4), (6, 8, 3), (6, 8, 1), (6, 8)):
        values = array(shape, dtype)
        found = LoadImage(color_type='unchanged')(dict(img_path='a', img_bytes=npy(values)))['img']
        assert found.dtype == dtype and np.array_equal(found, values.squeeze())
        if shape[2:] in ((), (3,), (4,)):
            for form in ('.tiff', '.png'):
                info = dict(img_path='a', img_bytes=cv2.imencode(form, values)[1].tobytes())
                assert np.array_equal(LoadImage(color_type='unchanged')(info)['img'], values)
    color = LoadImage()(dict(img_path='a', img_bytes=npy(array((6, 8, 3), dtype))))['img']
    assert color.dtype == np.uint8 and np.array_equal(color, array((6, 8, 3), dtype) >> (8 * (dtype == np.uint16)))
    with pytest.raises(BadImage, match="it has 13 bands, and color_type='unchanged' of LoadImage reads them"):
        LoadImage()(dict(img_path='a', img_bytes=npy(array((6, 8, 13), dtype))))


class Garbage:
    """A cycle whose end runs Python code, wherever the collector finds it."""

    def __init__(self):
        self.itself = self

    def __del__(self):
        sum(range(200))


def test_threads_read_headers_at_once():
    content, before, interval = npy(array((4, 4))), gc.get_threshold(), sys.getswitchinterval()
    gc.set_threshold(50)
    sys.setswitchinterval(1e-6)

    def read(_) -> np.ndarray:
        for _ in range(3):
            Garbage()
        return read_array(content, 100)

    try:
        with ThreadPoolExecutor(8) as threads:  # NumPy by itself refuses some of the first thousands
            assert all(image.shape == (4, 4) for image in threads.map(read, range(10_000)))
    finally:
        gc.set_threshold(*before)
        sys.setswitchinterval(interval)


@pytest.mark.parametrize(
    'content, words',
    [
        (npy(np.zeros((6, 8), complex)), r'numbers \(H, W, bands\) in C order, got complex128'),
        (npy(np.asfortranarray(array((6, 8)))), 'in C order'),
        (npy(array((6, 8)))[:-1], 'of 224 bytes, got 223'),
        (npy(array((1, 8))).replace(b'(1, 8)', b'(9, 9)'), 'must be a file of'),
        (npy(array((1, 8))).replace(b'(1, 8), }    ', b'(99999, 99999), }'), '(pixels|Header|header)'),
        (npy(np.array([print])[:0]), 'numbers'),
        (b'\x93NUMPY\x01\0', '.'),
    ],
)
def test_other_arrays_are_refused_by_name(content, words):
    with pytest.raises(BadImage, match=f'a.npy cannot be read as an image: .*{words}'):
        LoadImage(color_type='unchanged')(dict(img_path='a.npy', img_bytes=content))
