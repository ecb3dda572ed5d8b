"""Loading images and label maps."""

import math
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

from .decoding import check_length, has_many_scans, Header, JPEG_START, MAX_PIXELS, open_header, read_array, read_labels
from .tiff import read_bands, TIFF_STARTS

SIMPLEJPEG = 'simplejpeg'
JPEG_END = b'\xff\xd9'
NUMPY_START = b'\x93NUMPY'
ORIENTATION = 0x0112  # EXIF tag
IGNORED = 255  # label of pixels that count in no loss and no score


@TRANSFORMS.register_module()
class LoadImage(LoadImageFromFile):
    """MMCV's LoadImageFromFile for any source: it decodes `img_bytes` if the data set gives them, else `img_path`.

    Adds `img` uint8 (H, W, 3), BGR by default, `img_shape` and `ori_shape`. Takes the first frame of an animation and
    the upper eight of 16 bits per channel. An `img` that is already there is kept: inferencers of the hosts read it.

    With `color_type='grayscale'` images are uint8 (H, W). With 'unchanged' they have the bands and the depth of the
    file: uint8 or uint16, (H, W) for one band, else (H, W, bands), the first three of three or four in BGR. More than
    four come from TIFF files, see `read_bands`. All of an .npy file of such an array are in the order of the file.

    Images of other numbers, such as float32 and int16, become uint16 by `value_range`.

    Args:
        value_range: the lowest and the highest value of such images, which become 0 and 65535; those beyond are cut
            off, and NaN becomes 0. Needs color_type='unchanged'. Images of 8 or 16 bits stay as they are.
        bands: that an image must have; None for any number.
        imdecode_backend: one of MMCV's, or 'simplejpeg': libjpeg-turbo for JPEG files, about twice as fast as Pillow
            with the same pixels; Pillow for damaged, rotated and CMYK JPEG files, OpenCV for all other files.
        max_pixels: of a larger image only the header is read (Pillow's own limit is 179 million pixels).
        to_float32, color_type, ignore_empty, backend_args: see MMCV's LoadImageFromFile.

    Raises:
        BadImage: If the file cannot be read, is truncated, has none of FORMATS, cannot be decoded, has other numbers
            and there is no `value_range`, has other `bands`, or would take a decoder far more time or memory than an
            image needs. With `ignore_empty` the result is None instead, and the data set takes another sample.
    """

    def __init__(
        self,
        *args,
        max_pixels: int = MAX_PIXELS,
        value_range: Sequence[float] | None = None,
        bands: int | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.bands = bands
        if value_range is not None and not (len(value_range) == 2 and value_range[0] < value_range[1]):
            raise UserError(f'value_range of LoadImage must be (lowest, highest), got {value_range}')
        if value_range is not None and self.color_type != 'unchanged':
            raise UserError(f"value_range of LoadImage needs color_type='unchanged', got {self.color_type!r}")
        self.value_range = value_range
        if self.file_client_args is not None:
            raise UserError('LoadImage takes backend_args instead of file_client_args')
        self.max_pixels = max_pixels

    def transform(self, results: dict) -> dict | None:
        if 'img' in results:
            return results
        try:
            content = results.pop('img_bytes', None)
            if content is None:
                check_length(results['img_path'])
                content = fileio.get(results['img_path'], backend_args=self.backend_args)
            image = self.fit_values(self._decode(content))
            if self.bands not in (None, got := math.prod(image.shape[2:])):
                raise ValueError(f'it must have {self.bands} bands, got {got}')
        except Exception as error:  # every file backend and decoder has its own classes
            if not is_bad_file(error):
                raise
            if self.ignore_empty:
                return None
            reason = getattr(error, 'strerror', None) or str(error) or type(error).__name__
            raise BadImage(str(results['img_path']), reason.partition('\n')[0]) from error
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def _decode(self, content: bytes) -> np.ndarray:
        if not content:
            raise ValueError('the file is empty')
        if content.startswith(NUMPY_START):
            return self._fit(read_array(content, self.max_pixels))
        if content.startswith(TIFF_STARTS):
            bands = read_bands(content, self.max_pixels, self.color_type)
            if bands is not None:
                return self._fit(bands)
        backend, is_jpeg = self.imdecode_backend, content[:2] == JPEG_START
        if backend == SIMPLEJPEG:
            backend = 'pillow' if is_jpeg else 'cv2'
            if is_jpeg and self.color_type == 'color':
                with suppress(ValueError):  # damaged
                    height, width, colors = simplejpeg.decode_jpeg_header(content)[:3]
                    is_bounded = width * height <= self.max_pixels and not has_many_scans(content, width, height)
                    if is_bounded and colors not in ('CMYK', 'YCCK') and _is_upright(content):
                        return simplejpeg.decode_jpeg(content, 'BGR')
        header = open_header(content, self.max_pixels)
        end_of_header = header.fp.tell()  # type: ignore[attr-defined]  # Pillow's images from files have it
        if is_jpeg and content.rfind(JPEG_END) < end_of_header:  # no end mark behind the header: truncated
            backend, content = 'pillow', content.rstrip(b'\0')  # Pillow raises; OpenCV 4 would fill the rest with gray
        elif backend == 'pillow' and header.mode[0] in 'IF' and self.color_type != 'unchanged':
            backend = 'cv2'  # Pillow would clip 16 bits to white
        image = mmcv.imfrombytes(content, flag=self.color_type, backend=backend)
        if image is None:
            raise ValueError(f'damaged {header.format} data')
        return image

    def fit_values(self, image: np.ndarray) -> np.ndarray:
        """An image of any numbers, as it is decoded, as uint8 or uint16; ValueError without a range."""
        if image.dtype in (np.uint8, np.uint16):
            return image
        if self.value_range is None:
            raise ValueError(
                f"its numbers are {image.dtype}, not of 8 or 16 bits: set color_type='unchanged' and "
                'value_range=(lowest, highest) of LoadImage'
            )
        low, high = self.value_range
        values = np.nan_to_num(image.astype(np.float64), nan=low).clip(low, high)
        return np.rint(65535 * ((values - low) / (high - low))).astype(np.uint16)

    def _fit(self, image: np.ndarray) -> np.ndarray:
        """The array of an .npy file as a decoder would give it for the color_type."""
        bands = math.prod(image.shape[2:])
        if self.color_type == 'unchanged':
            return image.reshape(image.shape[:2]) if bands == 1 else image
        wanted = 3 if self.color_type == 'color' else 1
        if bands not in (1, wanted):
            raise ValueError(f"it has {bands} bands, and color_type='unchanged' of LoadImage reads them")
        image = (image >> 8).astype(np.uint8) if image.dtype == np.uint16 else image
        if wanted == 1:
            return image.reshape(image.shape[:2])
        return image if bands == 3 else np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)


class LoadAsStored(LoadImage):
    """LoadImage that keeps other numbers than those of 8 or 16 bits, for a look at them."""

    def __init__(self):
        super().__init__(color_type='unchanged')

    def fit_values(self, image: np.ndarray) -> np.ndarray:
        return image


def _is_upright(content: bytes) -> bool:
    """Whether a JPEG file is shown as it is stored; its EXIF data may ask for a rotation."""
    if b'Exif\0\0' not in content[:4096]:
        return True
    return Image.open(Header(content)).getexif().get(ORIENTATION, 1) in (0, 1)


@TRANSFORMS.register_module()
class LoadAnnotations(host.LoadAnnotations):
    """MMSegmentation's LoadAnnotations: the same label map, refused if it does not fit.

    `gt_seg_map` is uint8 (H, W); with more than 255 classes uint16, also from pictures of 16 bits. An image of no data
    set stays as it is, without labels: the hosts' inferencers, which remove only their own step, give such.

    Args:
        num_classes: labels are 0 to num_classes - 1 after `reduce_zero_label` and the data set's `label_map`, or
            `ignore_index`.
        ignore_index: label of ignored pixels, 255. With more than 255 classes it must be larger, such as 65535, also in
            heads, metrics, `RandomCrop` and as `seg_pad_val` of the data preprocessor.
        imdecode_backend, backend_args: see MMSegmentation's LoadAnnotations.

    Raises:
        ValueError: If ignore_index is a class.
        UserError: If a map cannot be read, is not a picture with one label per pixel, has another size than its image,
            or has a label that is not a class; names the file.
    """

    def __init__(
        self,
        num_classes: int,
        imdecode_backend: str = 'pillow',
        backend_args: dict | None = None,
        ignore_index: int = IGNORED,
    ):
        super().__init__(imdecode_backend=imdecode_backend, backend_args=backend_args)
        if not num_classes <= ignore_index < 2**16:
            raise ValueError(
                f'ignore_index of LoadAnnotations must be num_classes={num_classes} to 65535, got {ignore_index}; set '
                'it also in the heads, the metrics and RandomCrop, and as seg_pad_val of the data preprocessor'
            )
        self.num_classes, self.ignore_index = num_classes, ignore_index

    def transform(self, results: dict) -> dict:
        return super().transform(results) if 'seg_fields' in results else results

    def _load_seg_map(self, results: dict) -> None:
        path = results['seg_map_path']
        labels = read_labels(path, self.imdecode_backend, self.backend_args)
        if labels.dtype.itemsize > 1 and self.ignore_index <= IGNORED:
            raise UserError(
                f'{path} must be a picture with one 8-bit label per pixel, got {labels.dtype} of shape {labels.shape}; '
                'more bits are for more than 255 classes, with ignore_index=65535'
            )
        reduces = bool(results['reduce_zero_label'])
        labels = map_labels(labels, reduces, results.get('label_map'), self.ignore_index)
        size = results.get('ori_shape') or labels.shape
        check_labels(path, labels, size[:2], self.num_classes, reduces, self.ignore_index)
        results['gt_seg_map'] = labels
        results['seg_fields'].append('gt_seg_map')

    def __repr__(self) -> str:
        return f'{type(self).__name__}(num_classes={self.num_classes})'


def map_labels(labels: np.ndarray, reduces: bool, label_map: dict | None, ignored: int) -> np.ndarray:
    """Labels from the values of a file as MMSegmentation maps them: uint8 (H, W), or uint16 if `ignored` needs it."""
    table = _label_table(reduces, tuple((label_map or {}).items()), ignored)
    if labels.dtype == np.uint8 and ignored <= IGNORED:
        return cv2.LUT(labels, table[:256].astype(np.uint8))
    return table[labels]


@lru_cache
def _label_table(reduces: bool, label_map: tuple[tuple[int, int], ...], ignored: int) -> np.ndarray:
    """From values in the file to labels, uint16 (65536,)."""
    table = np.arange(2**16)
    if reduces:
        table = np.where((table == 0) | (table == ignored), ignored, table - 1)
    mapped = table.copy()
    for old, new in label_map:
        mapped[table == old] = ignored if new == IGNORED else new
    return mapped.astype(np.uint16)


def check_labels(
    path: str, labels: np.ndarray | Tensor, size: Sequence[int], num_classes: int, reduces: bool, ignored: int
) -> None:
    """Refuse a label map (H, W), loaded and reduced, of another size or with a label that is not a class: UserError."""
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
