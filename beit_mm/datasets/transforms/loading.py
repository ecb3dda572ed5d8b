"""Loading an image from wherever its data set keeps it."""

import io

import mmcv
import numpy as np
import simplejpeg
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from PIL import Image

from beit_mm.datasets.bad_images import BadImage
from beit_mm.registry import TRANSFORMS

SIMPLEJPEG = 'simplejpeg'
JPEG_START, JPEG_END = b'\xff\xd8', b'\xff\xd9'
ORIENTATION = 0x0112  # of EXIF
FORMATS = ('JPEG', 'PNG', 'GIF', 'BMP', 'WEBP', 'TIFF', 'PPM', 'JPEG2000')
MAX_PIXELS = 100_000_000


@TRANSFORMS.register_module()
class LoadImage(LoadImageFromFile):
    """LoadImageFromFile that also takes encoded bytes, so that a pipeline serves every source.

    Decodes `img_bytes` where the data set gives them (WebDatasetShards, HuggingFaceImages), else the file `img_path`,
    and gives the same: `img` uint8 (H, W, 3), BGR unless told otherwise, `img_shape` and `ori_shape`. Of an animation
    it is the first picture; of 16 bits per channel the upper eight. An `img` that a host's inferencer has read passes.

    Args:
        imdecode_backend: MMCV's, or 'simplejpeg': JPEG files by libjpeg-turbo, about twice as fast as Pillow and equal
            to it; damaged, turned and CMYK ones by Pillow, all other files by OpenCV, as MMCV does by itself.
        max_pixels: of an image; the header of a larger one is all that is read (Pillow's own limit is 179 million).
        to_float32, color_type, ignore_empty, backend_args: of MMCV's LoadImageFromFile.

    Raises:
        BadImage: If the file cannot be read, is truncated, none of FORMATS or damaged so that the decoder gives it up.
            With `ignore_empty` the data set takes another one instead.
    """

    def __init__(self, *args, max_pixels: int = MAX_PIXELS, **kwargs):
        super().__init__(*args, **kwargs)
        self.max_pixels = max_pixels

    def transform(self, results: dict) -> dict | None:
        if 'img' in results:
            return results
        try:
            content = results.pop('img_bytes') if 'img_bytes' in results else self._read(results['img_path'])
            image = self._decode(content)
        except ImportError:  # a missing package is no fault of the image
            raise
        except Exception as error:  # every file backend and decoder has its own kinds
            if self.ignore_empty:
                return None
            reason = getattr(error, 'strerror', None) or str(error) or type(error).__name__
            raise BadImage(str(results['img_path']), reason) from error
        if self.to_float32:
            image = image.astype(np.float32)
        results['img'] = image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def _read(self, path: str) -> bytes:
        if self.file_client_args is not None:
            return fileio.FileClient.infer_client(self.file_client_args, path).get(path)
        return fileio.get(path, backend_args=self.backend_args)

    def _decode(self, content: bytes) -> np.ndarray:
        if not content:
            raise ValueError('the file is empty')
        backend, is_jpeg = self.imdecode_backend, content[:2] == JPEG_START
        if backend == SIMPLEJPEG:
            image = self._decode_plain_jpeg(content) if is_jpeg and self.color_type == 'color' else None
            if image is not None:
                return image
            # Others as LoadImageFromFile reads them in tests.
            backend = 'pillow' if is_jpeg else 'cv2'
        header = _read_header(content)
        self._check_size(*header.size)
        if is_jpeg and content.rfind(JPEG_END) < header.fp.tell():  # before the image data: the end mark is missing
            backend, content = 'pillow', content.rstrip(b'\0')  # which raises, where OpenCV 4 fills up with gray
        elif backend == 'pillow' and header.mode[0] in 'IF' and self.color_type != 'unchanged':
            backend = 'cv2'  # Pillow would cut 16 bits to white
        image = mmcv.imfrombytes(content, flag=self.color_type, backend=backend)
        if image is None:
            raise ValueError(f'damaged {header.format} data')
        return image

    def _decode_plain_jpeg(self, content: bytes) -> np.ndarray | None:
        """BGR; None for what is left to Pillow: turned or CMYK images, and damaged ones, which it may still read."""
        try:
            height, width, colors = simplejpeg.decode_jpeg_header(content)[:3]
        except ValueError:
            return None
        self._check_size(width, height)
        if colors in ('CMYK', 'YCCK') or not _is_upright(content):
            return None
        try:
            return simplejpeg.decode_jpeg(content, 'BGR')
        except ValueError:
            return None

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self.max_pixels:
            raise ValueError(f'an image must have at most {self.max_pixels} pixels, got {width} x {height}')


def _read_header(content: bytes) -> Image.Image:
    """An image not yet decoded, for its size. Only of formats whose opening runs no other program."""
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        raise ValueError(f'no header of {", ".join(FORMATS)}') from error


def _is_upright(content: bytes) -> bool:
    """Whether a JPEG file is to be shown as it is stored, which only its EXIF data would deny."""
    if b'Exif\0\0' not in content[:4096]:
        return True
    return Image.open(io.BytesIO(content)).getexif().get(ORIENTATION, 1) in (0, 1)
