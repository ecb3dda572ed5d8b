"""Label maps in training: the host's values, and none that does not fit its image or the classes."""

import numpy as np
import pytest
from mmseg.datasets.transforms import LoadAnnotations as HostLoadAnnotations
from PIL import Image

from beit_mm.datasets import LoadAnnotations

SHAPE = (6, 9)


def given(path, **changes) -> dict:
    info = dict(seg_map_path=str(path), img_path='a.jpg', seg_fields=[], ori_shape=SHAPE)
    return dict(dict(info, reduce_zero_label=False, label_map=None), **changes)


def write(path, labels: np.ndarray):
    Image.fromarray(labels).save(path)
    return path


def draw(top: int) -> np.ndarray:
    labels = np.random.default_rng(top).integers(0, top, SHAPE, dtype=np.uint8)
    labels[0, 0], labels[0, 1] = 255, top - 1
    return labels


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
    path = write(tmp_path / 'a.png', draw(10))
    options = dict(reduce_zero_label=reduces, label_map=label_map)
    steps = LoadAnnotations(num_classes, backend), HostLoadAnnotations(imdecode_backend=backend)
    ours, host = (step(given(path, **options)) for step in steps)
    assert ours['gt_seg_map'].dtype == host['gt_seg_map'].dtype == np.uint8
    assert np.array_equal(ours['gt_seg_map'], host['gt_seg_map']) and ours['seg_fields'] == ['gt_seg_map']


@pytest.mark.parametrize(
    'labels, num_classes, reduces, words',
    [
        (draw(10), 9, False, 'must have labels 0 to 8 (reduce_zero_label=False) or 255, got 9'),
        (draw(10), 8, True, 'must have labels 1 to 8 (reduce_zero_label=True) or 255, got 9'),
        (draw(10), 7, False, 'got 7, 8, 9'),
        (np.zeros((*SHAPE, 3), np.uint8), 10, False, 'one 8-bit label per pixel, got uint8 of shape (6, 9, 3)'),
        (np.zeros((*SHAPE, 4), np.uint8), 10, False, 'one 8-bit label per pixel, got uint8 of shape (6, 9, 4)'),
        (np.zeros(SHAPE, np.uint16), 10, False, 'one 8-bit label per pixel, got uint16 of shape (6, 9)'),
        (np.zeros((9, 6), np.uint8), 10, False, 'the size of its image a.jpg, 6 x 9, got 9 x 6'),
    ],
)
def test_labels_that_are_no_class_and_other_pictures_are_named(tmp_path, labels, num_classes, reduces, words):
    path = write(tmp_path / 'a.png', labels)
    with pytest.raises(ValueError) as raised:
        LoadAnnotations(num_classes)(given(path, reduce_zero_label=reduces))
    assert str(path) in str(raised.value) and words in str(raised.value)


@pytest.mark.parametrize('backend', ['pillow', 'cv2'])
@pytest.mark.parametrize('damage', [lambda content: b'', lambda content: content[:50], lambda content: b'no picture'])
def test_broken_maps_are_named(tmp_path, damage, backend):
    path = write(tmp_path / 'a.png', draw(10))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f'the label map {path} cannot be read: .'):
        LoadAnnotations(10, imdecode_backend=backend)(given(path))
    path.unlink()
    with pytest.raises(ValueError, match=f'the label map {path} cannot be read: .*No such file'):
        LoadAnnotations(10)(given(path))


def test_palettes_and_single_bits_are_labels(tmp_path):
    labels = draw(3)
    picture = Image.fromarray(labels).convert('P')
    picture.putpalette([255] * 768)
    picture.save(tmp_path / 'a.png')
    assert np.array_equal(LoadAnnotations(3)(given(tmp_path / 'a.png'))['gt_seg_map'], labels)
    bits = labels == 1
    Image.fromarray(bits).save(tmp_path / 'b.png')
    for step in (LoadAnnotations(2), HostLoadAnnotations()):
        assert np.array_equal(step(given(tmp_path / 'b.png'))['gt_seg_map'], bits)
