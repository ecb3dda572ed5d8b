"""Training with label maps draws what MMSegmentation draws; pixels differ only where a rounding is left out."""

import mmseg.datasets.transforms as host
import numpy as np
import pytest

from beit_mm.datasets import PhotoMetricDistortion, RandomCrop


def labels(kind: str) -> np.ndarray:
    """Regions, also of int64 or larger than the image; one class with a little of another or ignored; ignored."""
    rng = np.random.default_rng(0)
    if 'regions' in kind:
        side = 20 if kind == 'large regions' else 10
        found = rng.integers(0, 150, (6, 8), dtype=np.uint8).repeat(side, axis=0).repeat(side, axis=1)
        return found.astype(np.int64) if kind == 'int64 regions' else found
    found = np.full((60, 80), 255 if kind == 'ignored' else 7, np.uint8)
    if kind != 'ignored':
        found[20:, 55:] = 30 if kind == 'two' else 255
    return found


@pytest.mark.parametrize('kind', ['regions', 'int64 regions', 'large regions', 'two', 'one', 'ignored'])
@pytest.mark.parametrize('options', [{}, dict(cat_max_ratio=1.0), dict(crop_size=(70, 20)), dict(ignore_index=30)])
def test_boxes_are_the_hosts(kind, options):
    options = dict(dict(crop_size=(32, 40), cat_max_ratio=0.75), **options)
    seg_map, boxes = labels(kind), set()
    image = np.repeat(labels('two')[..., None], 3, axis=2)
    assert RandomCrop(crop_size=(32, 40))(dict(img=image))['img'].shape == (32, 40, 3), 'without labels'
    for seed in range(30):
        results = []
        for cls in (RandomCrop, host.RandomCrop):
            np.random.seed(seed)
            given = dict(img=image, gt_seg_map=seg_map, seg_fields=['gt_seg_map'])
            crop = cls(**options)
            box = crop.crop_bbox(given)
            np.random.seed(seed)
            results.append((box, crop(given), np.random.random()))
        (box, found, after), (expected_box, expected, expected_after) = results
        assert box == expected_box and after == expected_after
        assert all(np.array_equal(found[key], expected[key]) for key in ('img', 'gt_seg_map'))
        boxes.add(box)
    assert len(boxes) > 5


def test_colours_are_the_hosts(monkeypatch):
    """Equal, unless saturation and hue are both drawn."""
    drawn = set()

    def watch(name: str) -> None:
        original = getattr(host.PhotoMetricDistortion, name)

        def watched(self, image):
            result = original(self, image)
            drawn.update({name} if result is not image else ())
            return result

        monkeypatch.setattr(host.PhotoMetricDistortion, name, watched)

    watch('saturation')
    watch('hue')
    image = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8).repeat(3, axis=0).repeat(3, axis=1)
    equal = close = 0
    for seed in range(200):
        results = []
        for cls in (PhotoMetricDistortion, host.PhotoMetricDistortion):
            np.random.seed(seed)
            drawn.clear()
            given = image.copy()
            results.append((cls()(dict(img=given))['img'], np.random.random()))
            assert np.array_equal(given, image), 'the image is not written to'
        (found, after), (expected, expected_after) = results
        assert after == expected_after and found.dtype == np.uint8
        difference = np.abs(found.astype(int) - expected)
        if len(drawn) == 2:
            close += 1
            # OpenCV's HSV has steps of two degrees, so one rounding moves a channel by a few.
            assert difference.mean() < 1.5 and np.quantile(difference, 0.99) <= 8
        else:
            equal += 1
            assert not difference.any(), drawn
    assert 100 < equal < 180 and close > 20
