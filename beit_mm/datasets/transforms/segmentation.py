"""MMSegmentation's steps of training with label maps, faster and with the same draws."""

import cv2
import mmseg.datasets.transforms as host
import numpy as np
from mmcv.transforms.utils import cache_randomness
from numpy import random

from beit_mm.registry import TRANSFORMS

from .augmentation import count_values

VALUES = np.arange(256, dtype=np.uint8)
HUES = 180  # of OpenCV's uint8 images in HSV


@TRANSFORMS.register_module()
class RandomCrop(host.RandomCrop):
    """MMSegmentation's RandomCrop, which takes the first of ten boxes that no class fills.

    Args:
        crop_size, cat_max_ratio, ignore_index: of MMSegmentation's.
    """

    @cache_randomness
    def crop_bbox(self, results: dict) -> tuple[int, int, int, int]:
        """Top, bottom, left and right of the crop; from MMSegmentation's draws."""
        image = results['img']
        box = self._draw_box(image)
        if self.cat_max_ratio < 1:
            for _ in range(10):
                if self._is_mixed(self.crop(results['gt_seg_map'], box)):
                    break
                box = self._draw_box(image)
        return box

    def _draw_box(self, image: np.ndarray) -> tuple[int, int, int, int]:
        top, left = (random.randint(max(side - size, 0) + 1) for side, size in zip(image.shape, self.crop_size))
        return top, top + self.crop_size[0], left, left + self.crop_size[1]

    def _is_mixed(self, labels: np.ndarray) -> bool:
        if labels.dtype == np.uint8:
            values, counts = VALUES, count_values(labels)
        else:
            values, counts = np.unique(labels, return_counts=True)
        counts = counts[values != self.ignore_index]
        return np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < self.cat_max_ratio


@TRANSFORMS.register_module()
class PhotoMetricDistortion(host.PhotoMetricDistortion):
    """MMSegmentation's PhotoMetricDistortion: the same draws, by tables, with one way to HSV and back.

    Equal to it in every pixel unless saturation and hue are both drawn: what is then left out is a rounding between
    them.
    """

    def transform(self, results: dict) -> dict:
        image = results['img']
        table = self.brightness(VALUES)
        contrast_comes_first = random.randint(2)
        if contrast_comes_first:
            table = self.contrast(table)
        image = _look_up(image, table)
        saturations, hues = self._draw_saturation(), self._draw_hue()
        if saturations is not VALUES or hues is not VALUES:
            hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV))
            image = cv2.merge([_look_up(hue, hues), _look_up(saturation, saturations), value])
            image = cv2.cvtColor(image, cv2.COLOR_HSV2BGR)
        if not contrast_comes_first:
            image = _look_up(image, self.contrast(VALUES))
        results['img'] = image
        return results

    def _draw_saturation(self) -> np.ndarray:
        if not random.randint(2):
            return VALUES
        return self.convert(VALUES, alpha=random.uniform(self.saturation_lower, self.saturation_upper))

    def _draw_hue(self) -> np.ndarray:
        if not random.randint(2):
            return VALUES
        return ((VALUES.astype(int) + random.randint(-self.hue_delta, self.hue_delta)) % HUES).astype(np.uint8)


def _look_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    return image if table is VALUES else cv2.LUT(image, table)
