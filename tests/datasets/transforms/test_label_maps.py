"""Label maps in training: the host's values, and none that does not fit its image or the classes."""

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
