"""Loading images and label maps."""

import io
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache

import cv2
import mmcv
import mmseg.datasets.transforms as host
import numpy as np
import simplejpeg
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from PIL import Image
from torch import Tensor

from beit_mm.datasets.bad_images import BadImage, is_bad_file
from beit_mm.errors import UserError
from beit_mm.registry import TRANSFORMS

SIMPLEJPEG = 'simplejpeg'
JPEG_START, JPEG_END = b'\xff\xd8', b'\xff\xd9'
ORIENTATION = 0x0112  # EXIF tag
FORMATS = ('JPEG', 'PNG', 'GIF', 'BMP', 'WEBP', 'TIFF', 'PPM', 'JPEG2000')  # none that Pillow opens with a program
MAX_PIXELS = 100_000_000
IGNORED = 255  # label of pixels that count in no loss and no score


@TRANSFORMS.register_module()
class LoadImage(LoadImageFromFile):
    """MMCV's LoadImageFromFile for any source: it decodes `img_bytes` if the data set gives them, else `img_path`.

    Adds `img` uint8 (H, W, 3), BGR by default, `img_shape` and `ori_shape`. Takes the first frame of an animation and
    the upper eight of 16 bits per channel. An `img` that is already there is kept: inferencers of the hosts read it.

    Args:
        imdecode_backend: one of MMCV's, or 'simplejpeg': libjpeg-turbo for JPEG files, about twice as fast as Pillow
            with the same pixels; Pillow for damaged, rotated and CMYK JPEG files, OpenCV for all other files.
        max_pixels: of a larger image only the header is read (Pillow's own limit is 179 million pixels).
        to_float32, color_type, ignore_empty, backend_args: see MMCV's LoadImageFromFile.

    Raises:
        BadImage: If the file cannot be read, is truncated, has none of FORMATS, or cannot be decoded.
            With `ignore_empty` the result is None instead, and the data set takes another sample.
    """

    def __init__(self, *args, max_pixels: int = MAX_PIXELS, **kwargs):
        super().__init__(*args, **kwargs)
        if self.file_client_args is not None:
            raise ValueError('LoadImage takes backend_args instead of file_client_args')
        self.max_pixels = max_pixels

    def transform(self, results: dict) -> dict | None:
        if 'img' in results:
            return results
        try:
            content = results.pop('img_bytes', None)
            if content is None:
                content = fileio.get(results['img_path'], backend_args=self.backend_args)
            image = self._decode(content)
        except Exception as error:  # every file backend and decoder has its own classes
            if not is_bad_file(error):
                raise
            if self.ignore_empty:
                return None
            reason = getattr(error, 'strerror', None) or str(error) or type(error).__name__
            raise BadImage(str(results['img_path']), reason) from error
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def _decode(self, content: bytes) -> np.ndarray:
        if not content:
            raise ValueError('the file is empty')
        backend, is_jpeg = self.imdecode_backend, content[:2] == JPEG_START
        if backend == SIMPLEJPEG:
            backend = 'pillow' if is_jpeg else 'cv2'
            if is_jpeg and self.color_type == 'color':
                with suppress(ValueError):  # damaged
                    height, width, colors = simplejpeg.decode_jpeg_header(content)[:3]
                    if width * height <= self.max_pixels and colors not in ('CMYK', 'YCCK') and _is_upright(content):
                        return simplejpeg.decode_jpeg(content, 'BGR')
        try:
            header = Image.open(io.BytesIO(content), formats=FORMATS)
        except Image.UnidentifiedImageError as error:
            raise ValueError(f'no header of {", ".join(FORMATS)}') from error
        width, height = header.size
        if width * height > self.max_pixels:
            raise ValueError(f'an image must have at most {self.max_pixels} pixels, got {width} x {height}')
        end_of_header = header.fp.tell()  # type: ignore[union-attr]  # Pillow's images from files have it
        if is_jpeg and content.rfind(JPEG_END) < end_of_header:  # no end mark behind the header: truncated
            backend, content = 'pillow', content.rstrip(b'\0')  # Pillow raises; OpenCV 4 would fill the rest with gray
        elif backend == 'pillow' and header.mode[0] in 'IF' and self.color_type != 'unchanged':
            backend = 'cv2'  # Pillow would clip 16 bits to white
        image = mmcv.imfrombytes(content, flag=self.color_type, backend=backend)
        if image is None:
            raise ValueError(f'damaged {header.format} data')
        return image


def _is_upright(content: bytes) -> bool:
    """Whether a JPEG file is shown as it is stored; its EXIF data may ask for a rotation."""
    if b'Exif\0\0' not in content[:4096]:
        return True
    return Image.open(io.BytesIO(content)).getexif().get(ORIENTATION, 1) in (0, 1)


@TRANSFORMS.register_module()
class LoadAnnotations(host.LoadAnnotations):
    """MMSegmentation's LoadAnnotations for training: the same label map, refused if it does not fit.

    Args:
        num_classes: labels are 0 to num_classes - 1 after `reduce_zero_label` and the data set's `label_map`.
        ignore_index: label of ignored pixels, also the heads' ignore_index. `reduce_zero_label` makes 255 of 0.
        imdecode_backend, backend_args: see MMSegmentation's LoadAnnotations.

    Raises:
        UserError: If a map cannot be read, is no picture with one 8-bit label per pixel, has another size than its
            image, or has a label that is no class; names the file.
    """

    def __init__(
        self,
        num_classes: int,
        imdecode_backend: str = 'pillow',
        backend_args: dict | None = None,
        ignore_index: int = IGNORED,
    ):
        super().__init__(imdecode_backend=imdecode_backend, backend_args=backend_args)
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def _load_seg_map(self, results: dict) -> None:
        path = results['seg_map_path']
        try:
            content = fileio.get(path, backend_args=self.backend_args)
            labels = mmcv.imfrombytes(content, flag='unchanged', backend=self.imdecode_backend)
            if labels is None:
                raise ValueError('the decoder found no picture')
        except Exception as error:  # every file backend and decoder has its own classes
            if not is_bad_file(error):
                raise
            raise UserError(f'the label map {path} cannot be read: {error}') from error
        if labels.ndim != 2 or labels.dtype.itemsize != 1:
            raise UserError(
                f'{path} must be a picture with one 8-bit label per pixel, got {labels.dtype} of shape {labels.shape}'
            )
        reduces = bool(results['reduce_zero_label'])
        table = _label_table(reduces, tuple((results.get('label_map') or {}).items()))
        labels = cv2.LUT(labels.astype(np.uint8), table)  # Pillow gives bool for single bits
        size = results.get('ori_shape') or labels.shape
        check_labels(path, labels, size, self.num_classes, reduces, self.ignore_index)
        results['gt_seg_map'] = labels
        results['seg_fields'].append('gt_seg_map')

    def __repr__(self) -> str:
        return f'{type(self).__name__}(num_classes={self.num_classes})'


@lru_cache
def _label_table(reduces: bool, label_map: tuple[tuple[int, int], ...]) -> np.ndarray:
    """From values in the file to labels, uint8 (256,)."""
    table = np.arange(256)
    if reduces:
        table = np.where((table == 0) | (table == IGNORED), IGNORED, table - 1)
    new = dict(label_map)
    return np.array([new.get(label, label) for label in table.tolist()], np.uint8)


def check_labels(
    path: str, labels: np.ndarray | Tensor, size: Sequence[int], num_classes: int, reduces: bool, ignored: int
) -> None:
    """Refuse a label map (H, W), loaded and reduced, of another size or with a label that is no class: UserError."""
    if labels.shape != tuple(size):
        expected, got = (' x '.join(map(str, sides)) for sides in (size, labels.shape))
        raise UserError(f'{path} must have the size of its image, {expected}, got {got}')
    wrong = labels[(labels >= num_classes) & (labels != ignored)]
    if len(wrong):
        label, mend = int(wrong.max()) + reduces, ''
        if not reduces and label > num_classes:
            mend = f'; if it means unlabelled, ignore_index must be {label} here and in the heads'
        raise UserError(
            f'{path} must have labels {int(reduces)} to {num_classes - 1 + reduces} (reduce_zero_label={reduces}) or '
            f'{ignored}, got {label}{mend}'
        )


def check_mode(path: str) -> None:
    """Refuse a picture whose header has not one label per pixel in at most 8 bits: UserError."""
    with Image.open(path) as image:
        mode = image.mode
    if mode not in ('L', 'P', '1'):
        got = '16 or 32 bits per pixel' if mode[0] in 'IF' else f'colours or transparency ({mode})'
        raise UserError(f'{path} must be a picture with one 8-bit label per pixel, got {got}')
