"""TIFF files with bands, as GDAL, QGIS and tifffile write them: decoders of pictures refuse them, or change them."""

import io
import math
import zlib
from itertools import islice

import numpy as np
from PIL import Image

TIFF_STARTS = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
BLACK_IS_ZERO, RGB, BY_PIXEL, UNASSOCIATED, DEFLATE = 1, 2, 1, 2, (8, 32946)  # values of tags
MAX_BANDS = 1000
MAX_VALUES = 400_000_000  # of an image
MAX_SEGMENTS = 100_000  # tiles or strips, 20 microseconds each


def read_bands(content: bytes, max_pixels: int, color_type: str) -> np.ndarray | None:
    """Bands of a TIFF file of two or more.

    Args:
        content: the file. Its bands may be stored by pixel or by plane, or for 'unchanged' as pages of one band.
        max_pixels: of a larger image only the header is read.
        color_type: of LoadImage. For 'color' RGB has three bands, whatever follows them.

    Returns:
        Numbers (H, W, bands) in the order of the file, but the first three of three or four in BGR. None for a picture,
        which others read: one band of 8 or 16 bits, RGB by pixel, palettes, CMYK, JPEG, gray with alpha. Decoders
        multiply RGB by a fourth band that is marked as transparency.

    Raises:
        ValueError: If the file is damaged, has other values or more than an image needs, or if its compression needs
            the package imagecodecs.
    """
    import tifffile  # takes 0.1 s, for few

    with tifffile.TiffFile(io.BytesIO(content)) as file:
        pages = [file.pages.first]
        if color_type == 'unchanged' and pages[0].samplesperpixel == 1:
            kept = [page for page in islice(file.pages, MAX_BANDS + 1) if not (page.is_reduced or page.is_mask)]
            pages = [page for page in kept if page.shape == pages[0].shape] or pages
        first, bands = pages[0], pages[0].samplesperpixel * len(pages)
        is_rgb = first.photometric == RGB
        is_simple = first.planarconfig == BY_PIXEL and bands <= 4 and first.extrasamples != (UNASSOCIATED,)
        is_picture = is_rgb and (color_type == 'grayscale' or is_simple)
        is_band = bands < (2 if color_type == 'unchanged' else 3) and first.dtype in (np.uint8, np.uint16)
        if is_band or is_picture or first.photometric not in (BLACK_IS_ZERO, RGB):
            return None
        if first.dtype is None or first.dtype.kind not in 'iuf':
            raise ValueError(f'bands of a TIFF file must be whole or real numbers, got {first.dtype}')
        num_pixels = first.imagewidth * first.imagelength
        if num_pixels > max_pixels or bands > MAX_BANDS or num_pixels * bands > MAX_VALUES:
            limits = f'at most {max_pixels} pixels, {MAX_BANDS} bands and {MAX_VALUES} values'
            raise ValueError(f'an image must have {limits}, got {first.imagewidth} x {first.imagelength} x {bands}')
        for page in pages:
            _check_segments(page, content)
        try:
            is_rgba = is_rgb and bands == 4 and first.dtype == np.uint8 and first.planarconfig == BY_PIXEL
            planes = (
                [np.asarray(Image.open(io.BytesIO(content), formats=['TIFF']))]
                if is_rgba
                else [page.asarray() for page in pages]
            )
        except (ImportError, ValueError) as error:
            if isinstance(error, ImportError) or 'imagecodecs' in str(error):
                name = getattr(first.compression, 'name', first.compression)
                raise ValueError(f'TIFF files with compression {name} need pip install imagecodecs') from error
            raise
    if first.samplesperpixel == 1 or first.planarconfig != BY_PIXEL:
        image = np.moveaxis(planes[0], 0, -1) if planes[0].ndim == 3 else np.stack(planes, axis=-1)
    else:
        image = planes[0]
    if color_type == 'color' and is_rgb:
        image = image[..., :3]
    order = [2, 1, 0, *range(3, image.shape[2])] if image.shape[2] in (3, 4) else slice(None)
    return np.ascontiguousarray(image[..., order])


def _check_segments(page, content: bytes) -> None:
    """ValueError if the tiles or strips of a page hold, or unpack to, far more than the page."""
    size, count = math.prod(page.chunks), math.prod(page.chunked)
    if count > MAX_SEGMENTS or count * size > MAX_VALUES:
        raise ValueError(f'a TIFF file must have at most {MAX_SEGMENTS} tiles or strips, got {count} of {size} values')
    if page.compression in DEFLATE:
        for offset, length in zip(page.dataoffsets, page.databytecounts):
            unpacking = zlib.decompressobj()
            unpacking.decompress(content[offset : offset + length], size * page.dtype.itemsize + 1)
            if unpacking.unconsumed_tail:
                raise ValueError('a part of the TIFF file unpacks to more than its share of the image')
