"""Label maps of segmentation, refused where they do not fit their image or the classes."""

import cv2
import mmcv
import mmseg.datasets.transforms as host
import numpy as np
from mmengine import fileio
from PIL import Image

from beit_mm.registry import TRANSFORMS

IGNORED = 255
MODES = ('L', 'P', '1')  # of Pillow: one label per pixel in at most 8 bits


def describe_kind(mode: str) -> str:
    """What a picture of another Pillow mode than MODES is, in words."""
    return '16 or 32 bits per pixel' if mode[0] in 'IF' else f'colours or transparency ({mode})'


@TRANSFORMS.register_module()
class LoadAnnotations(host.LoadAnnotations):
    """MMSegmentation's LoadAnnotations for training: the same label map, by one table, and none that does not fit.

    Args:
        num_classes: labels are 0 to num_classes - 1, after `reduce_zero_label` and the data set's own choice of
            classes, and 255 for pixels left out.
        imdecode_backend, backend_args: of MMSegmentation's.

    Raises:
        ValueError: If a map cannot be read, is no picture of one 8-bit label per pixel, has another size than its
            image, or a label that is no class; names the file.
    """

    def __init__(self, num_classes: int, imdecode_backend: str = 'pillow', backend_args: dict = None):
        super().__init__(imdecode_backend=imdecode_backend, backend_args=backend_args)
        self.num_classes = num_classes
        self._tables = {}

    def _load_seg_map(self, results: dict) -> None:
        path = results['seg_map_path']
        labels = self._decode(path)
        if labels.ndim != 2 or labels.dtype.itemsize != 1:
            raise ValueError(
                f'{path} must be a picture with one 8-bit label per pixel, got {labels.dtype} of shape {labels.shape}'
            )
        expected = results.get('ori_shape', labels.shape)
        if labels.shape != tuple(expected):
            raise ValueError(
                f'{path} must have the size of its image {results.get("img_path")}, {expected[0]} x '
                f'{expected[1]}, got {labels.shape[0]} x {labels.shape[1]}'
            )
        reduces, label_map = results['reduce_zero_label'], results.get('label_map')
        table = self._table(reduces, label_map)
        labels = labels.astype(np.uint8)  # a single bit comes as bool
        is_wrong = (table >= self.num_classes) & (table != IGNORED)
        highest = int((labels + np.uint8(1)).max()) - 1  # of those that are not 255, which becomes 0
        if is_wrong[: highest + 1].any():  # rarely, as the classes are mostly the first values
            self._check_values(path, labels, is_wrong, reduces)
        results['gt_seg_map'] = cv2.LUT(labels, table)
        results['seg_fields'].append('gt_seg_map')

    def _decode(self, path: str) -> np.ndarray:
        try:
            content = fileio.get(path, backend_args=self.backend_args)
            labels = mmcv.imfrombytes(content, flag='unchanged', backend=self.imdecode_backend)
        except ImportError:
            raise
        except Exception as error:  # every file backend and decoder has its own kinds
            raise ValueError(f'the label map {path} cannot be read: {error}') from error
        if labels is None:
            raise ValueError(f'the label map {path} cannot be read: the decoder found no picture')
        return labels

    def _check_values(self, path: str, labels: np.ndarray, is_wrong: np.ndarray, reduces: bool) -> None:
        wrong = np.flatnonzero(is_wrong & (np.bincount(labels.ravel(), minlength=256) > 0))
        if len(wrong):
            first = 1 if reduces else 0
            raise ValueError(
                f'{path} must have labels {first} to {self.num_classes - 1 + first} '
                f'(reduce_zero_label={bool(reduces)}) or {IGNORED}, got {", ".join(map(str, wrong[:5]))}'
            )

    def _table(self, reduces: bool, label_map: dict) -> np.ndarray:
        """uint8 (256,): the label that each value stands for."""
        key = reduces, None if label_map is None else tuple(label_map.items())
        if key not in self._tables:
            table = np.arange(256)
            if reduces:
                table = np.where((table == 0) | (table == IGNORED), IGNORED, table - 1)
            self._tables[key] = np.array([(label_map or {}).get(label, label) for label in table.tolist()], np.uint8)
        return self._tables[key]

    def __repr__(self) -> str:
        return f'{type(self).__name__}(num_classes={self.num_classes})'


def check_kind(path: str) -> None:
    """ValueError if a file is no picture of one label per pixel in at most 8 bits; reads its header alone."""
    with Image.open(path) as image:
        if image.mode not in MODES:
            raise ValueError(
                f'{path} must be a picture with one 8-bit label per pixel, got {describe_kind(image.mode)}'
            )
