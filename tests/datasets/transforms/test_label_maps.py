"""Label maps in training: the host's values, and none that does not fit its image or the classes."""

import struct
import zlib

import numpy as np
import pytest
from mmseg.datasets.transforms import LoadAnnotations as HostLoadAnnotations
from PIL import Image

from beit_mm.datasets import LoadAnnotations

SHAPE = (6, 9)
LABELS = np.random.default_rng(10).integers(0, 10, SHAPE, dtype=np.uint8)
LABELS[0, :2] = 255, 9


def load(step, path, labels: np.ndarray | Image.Image | None = None, **changes) -> dict:
    if labels is not None:
        (Image.fromarray(labels) if isinstance(labels, np.ndarray) else labels).save(path)
    info = dict(seg_map_path=str(path), img_path='a.jpg', seg_fields=[], ori_shape=SHAPE)
    return step(dict(info, **{'reduce_zero_label': False, 'label_map': None, **changes}))


@pytest.mark.parametrize('backend', ['pillow', 'cv2'])
@pytest.mark.parametrize(
    'reduces, label_map, num_classes',
    [
        (False, None, 10),
        (True, None, 9),
        (False, {0: 255, **{label: label - 1 for label in range(1, 10)}}, 9),
        (True, {label: (label * 3) % 7 for label in range(9)}, 7),
    ],
)
def test_values_are_the_hosts(tmp_path, reduces, label_map, num_classes, backend):
    steps = LoadAnnotations(num_classes, backend), HostLoadAnnotations(imdecode_backend=backend)
    options = dict(reduce_zero_label=reduces, label_map=label_map)
    ours, host = (load(step, tmp_path / 'a.png', LABELS, **options) for step in steps)
    assert ours['gt_seg_map'].dtype == host['gt_seg_map'].dtype == np.uint8
    assert np.array_equal(ours['gt_seg_map'], host['gt_seg_map']) and ours['seg_fields'] == ['gt_seg_map']


@pytest.mark.parametrize('backend', ['pillow', 'cv2'])
def test_labels_are_what_is_stored_for_every_depth_and_decoder(tmp_path, backend):
    """Decoders stretch gray values of 1, 2 and 4 bits to 255, and OpenCV turns palettes into colours."""
    path, load_ours = tmp_path / 'a.png', LoadAnnotations(10, backend)
    for depth in (1, 2, 4, 8):
        labels = LABELS % min(2**depth, 10)
        for color_type in (0, 3) if depth > 1 else (0,):
            path.write_bytes(png(labels, depth, color_type))
            assert np.array_equal(load(load_ours, path)['gt_seg_map'], labels), (depth, color_type)
    Image.fromarray(labels).save(tmp_path / 'a.tif')
    assert np.array_equal(load(load_ours, tmp_path / 'a.tif')['gt_seg_map'], labels)
    refused = {
        'a.jpg': Image.fromarray(labels),
        'b.tif': Image.fromarray(labels > 3),
        'c.png': Image.new('I;16', (9, 6)),
    }
    for name, words in zip(refused, ('JPEG files do not keep labels', '8 bits or more', 'one 8-bit label per pixel')):
        with pytest.raises(ValueError, match=f'{name} .*{words}'):
            load(load_ours, tmp_path / name, refused[name])


def png(labels: np.ndarray, depth: int, color_type: int) -> bytes:
    """Gray values (color type 0) or a gray palette (3) of so many bits."""
    bits = np.unpackbits(labels[..., None], axis=2)[..., 8 - depth :].reshape(len(labels), -1)
    rows = b''.join(b'\0' + np.packbits(row).tobytes() for row in bits)
    parts = {b'IHDR': struct.pack('>IIBBBBB', *labels.shape[::-1], depth, color_type, 0, 0, 0)}
    parts |= {b'PLTE': bytes(range(200, 200 + 2 ** min(depth, 4))) * 3} if color_type else {}
    parts |= {b'IDAT': zlib.compress(rows), b'IEND': b''}
    chunks = [struct.pack('>I', len(p)) + n + p + struct.pack('>I', zlib.crc32(n + p)) for n, p in parts.items()]
    return b'\x89PNG\r\n\x1a\n' + b''.join(chunks)


@pytest.mark.parametrize('reduces', [False, True])
def test_sixteen_bits_are_for_more_than_255_classes(tmp_path, reduces):
    labels = np.arange(54, dtype=np.uint16).reshape(SHAPE) * 10
    labels[0, 0] = 65535
    step = LoadAnnotations(540, ignore_index=65535)
    found = load(step, tmp_path / 'a.png', labels, reduce_zero_label=reduces)['gt_seg_map']
    expected = labels.astype(int) - reduces
    expected[0, 0] = 65535
    assert found.dtype == np.uint16 and np.array_equal(found, expected)
    small = load(step, tmp_path / 'b.png', LABELS)['gt_seg_map']
    assert small.dtype == np.uint16 and np.array_equal(small, LABELS), 'a map without large labels may have 8 bits'
    with pytest.raises(ValueError, match='must have labels 0 to 299 .* or 65535, got 530'):
        load(LoadAnnotations(300, ignore_index=65535), tmp_path / 'a.png')
    with pytest.raises(ValueError, match='ignore_index of LoadAnnotations must be num_classes=300 to 65535, got 255'):
        LoadAnnotations(300)


def test_images_of_no_data_set_stay_as_they_are():
    """MMSegInferencer and inference_model remove only the host's own step."""
    assert LoadAnnotations(3)(dict(img_path='a.jpg')) == dict(img_path='a.jpg')


def test_palettes_and_single_bits_are_labels(tmp_path):
    palette = Image.fromarray(LABELS % 3).convert('P')
    palette.putpalette([255] * 768)
    bits = LABELS % 2 == 1
    for picture, labels in ((palette, LABELS % 3), (bits, bits)):
        for step in (LoadAnnotations(3), HostLoadAnnotations()):
            assert np.array_equal(load(step, tmp_path / 'a.png', picture)['gt_seg_map'], labels)


@pytest.mark.parametrize(
    'labels, num_classes, reduces, words',
    [
        (LABELS, 9, False, 'must have labels 0 to 8 (reduce_zero_label=False) or 255, got 9'),
        (LABELS, 8, True, 'must have labels 1 to 8 (reduce_zero_label=True) or 255, got 9'),
        (np.zeros((*SHAPE, 3), np.uint8), 10, False, 'one 8-bit label per pixel, got uint8 of shape (6, 9, 3)'),
        (np.zeros(SHAPE, np.uint16), 10, False, 'one 8-bit label per pixel, got uint16 of shape (6, 9)'),
        (np.zeros((9, 6), np.uint8), 10, False, 'the size of its image, 6 x 9, got 9 x 6'),
    ],
)
def test_labels_that_are_no_class_and_other_pictures_are_named(tmp_path, labels, num_classes, reduces, words):
    with pytest.raises(ValueError) as raised:
        load(LoadAnnotations(num_classes), tmp_path / 'a.png', labels, reduce_zero_label=reduces)
    assert str(tmp_path / 'a.png') in str(raised.value) and words in str(raised.value)


@pytest.mark.parametrize('backend', ['pillow', 'cv2'])
@pytest.mark.parametrize('damage', [lambda content: b'', lambda content: content[:50], lambda content: b'no picture'])
def test_broken_maps_are_named(tmp_path, damage, backend):
    path = tmp_path / 'a.png'
    Image.fromarray(LABELS).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f'the label map {path} cannot be read: .'):
        load(LoadAnnotations(10, imdecode_backend=backend), path)
    path.unlink()
    with pytest.raises(ValueError, match=f'the label map {path} cannot be read: .*No such file'):
        load(LoadAnnotations(10), path)
