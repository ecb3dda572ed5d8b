"""Image files are checked before a decoder sees them: what they ask for is bounded, whatever their headers say."""

import io
import math
import os
import re
import threading

import mmcv
import numpy as np
from mmengine import fileio
from PIL import Image

from beit_mm.datasets.bad_images import is_bad_file
from beit_mm.errors import UserError

FORMATS = ('JPEG', 'PNG', 'GIF', 'BMP', 'WEBP', 'TIFF', 'PPM', 'JPEG2000')  # none that Pillow opens with a program
MAX_PIXELS = 100_000_000
MAX_BYTES = 2**32  # of a file, which is read as a whole
# NumPy reads headers by Python's ast, which counts its depth for all threads together: in several at once it refuses
# good headers now and then (Python 3.11: "AST constructor recursion depth mismatch").
ONE_PARSER = threading.Lock()
MAX_SIDE = 1_000_000  # Pillow took 28 bytes for each row of one pixel
MAX_READS = 10_000  # of Pillow in a header; a usual one takes less than 1,000
MAX_SCANS = 32  # of a progressive JPEG file; usual are 10
SCANNED_PIXELS = 100_000_000  # times scans; larger files with more than MAX_SCANS scans are refused
JPEG_START, JPEG_SCAN, PNG_END = b'\xff\xd8', b'\xff\xda', b'IEND'
PLAIN_STARTS, MAX_COMMENTS = (b'P1', b'P2', b'P3'), 1000  # PPM files of text; Pillow takes quadratic time for comments
# Start of a JPEG 2000 stream: marker, length, profile, width, height, 24 bytes of offsets and tiles, components.
JPEG2000_SIZE = re.compile(rb'\xff\x4f\xff\x51(..)..(.{4})(.{4}).{24}(..)', re.DOTALL)
BITS_PER_SAMPLE, PHOTOMETRIC, TILE_WIDTH, TILE_HEIGHT = 258, 262, 322, 323  # TIFF tags
WHITE_IS_ZERO = 0
LABEL_MODES = ('L', 'P', '1', 'I', 'I;16', 'I;16B', 'I;16L')  # of Pillow: one whole number per pixel


class Header(io.BytesIO):
    """A file that ends a decoder's search for the header, which takes a read for every byte of a long comment."""

    num_reads = 0

    def read(self, size: int | None = -1) -> bytes:
        self.num_reads += 1
        if self.num_reads > MAX_READS:
            raise ValueError(f'its header takes more than {MAX_READS} reads')
        return super().read(size)


def check_length(path: str) -> None:
    """ValueError if a file of this machine has more than MAX_BYTES, such as a film, or a sparse file."""
    length = os.path.getsize(path) if os.path.isfile(path) else 0
    if length > MAX_BYTES:
        raise ValueError(f'an image must be a file of at most {MAX_BYTES:,} bytes, got {length:,}')


def open_header(content: bytes, max_pixels: int) -> Image.Image:
    """Read the header of an image file with Pillow, and refuse what would take a decoder much time or memory.

    Raises:
        ValueError: If the file has none of FORMATS, more pixels than `max_pixels`, a side over MAX_SIDE, or parts that
            are larger than the file or more than an image needs.
    """
    try:
        header = Image.open(Header(content), formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        raise ValueError(f'no header of {", ".join(FORMATS)}') from error
    sizes = [header.size]
    if content[:2] == JPEG_START:
        if has_many_scans(content, *header.size):
            raise ValueError(f'a JPEG file must have at most {MAX_SCANS} scans, got {content.count(JPEG_SCAN)}')
    elif header.format == 'PNG':
        _check_chunks(content)
    elif content[:2] in PLAIN_STARTS and content.count(b'#') > MAX_COMMENTS:
        raise ValueError(f'a plain PPM file must have at most {MAX_COMMENTS} comments, got {content.count(b"#")}')
    elif header.format == 'TIFF':
        sizes.append((header.tag_v2.get(TILE_WIDTH, 1), header.tag_v2.get(TILE_HEIGHT, 1)))  # type: ignore[attr-defined]
    elif header.format == 'JPEG2000':
        for match in JPEG2000_SIZE.finditer(content):
            length, width, height, num_components = (int.from_bytes(part, 'big') for part in match.groups())
            if length == 38 + 3 * num_components:
                sizes.append((width * max(1, num_components // 4), height))
    for width, height in sizes:
        if width * height > max_pixels:
            raise ValueError(f'an image must have at most {max_pixels} pixels, got {width} x {height}')
        if max(width, height) > MAX_SIDE:
            raise ValueError(f'a side of an image must have at most {MAX_SIDE} pixels, got {width} x {height}')
    return header


def has_many_scans(content: bytes, width: int, height: int) -> bool:
    """Whether a JPEG file goes over its pixels so often that this takes seconds; an empty scan needs a few bytes."""
    num_scans = content.count(JPEG_SCAN)
    return num_scans > MAX_SCANS and num_scans * width * height > SCANNED_PIXELS


def _check_chunks(content: bytes) -> None:
    """OpenCV allocates what a chunk of a PNG file claims to hold."""
    position, name = 8, b''
    while position < len(content) and name != PNG_END:
        name = content[position + 4 : position + 8]
        position += 12 + int.from_bytes(content[position : position + 4], 'big')
    if position > len(content):
        raise ValueError(f'truncated: a part of the PNG file ends at byte {position}, the file at {len(content)}')


def read_array(content: bytes, max_pixels: int) -> np.ndarray:
    """An image of any number of bands from an .npy file: whole or real numbers (H, W) or (H, W, bands), as stored.

    ValueError if it holds something else, or not as much as its header says.
    """
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
    with ONE_PARSER:
        shape, is_fortran, dtype = read_header(file)
    if len(shape) not in (2, 3) or dtype.kind not in 'iuf' or is_fortran or not math.prod(shape):
        raise ValueError(f'an array must be numbers (H, W, bands) in C order, got {dtype} {shape}')
    if shape[0] * shape[1] > max_pixels:
        raise ValueError(f'an image must have at most {max_pixels} pixels, got {shape[1]} x {shape[0]}')
    expected, got = file.tell() + dtype.itemsize * math.prod(shape), len(content)
    if expected != got:
        raise ValueError(f'an array of shape {shape} must be a file of {expected} bytes, got {got}')
    return np.frombuffer(content, dtype, offset=file.tell()).reshape(shape).astype(dtype.newbyteorder('='))


def read_labels(path: str, backend: str = 'pillow', backend_args: dict | None = None) -> np.ndarray:
    """The values in a label map, uint8, uint16 or int32 (H, W), equal for the decoders 'pillow' and 'cv2'.

    Palettes give their indices, and gray values of 1, 2 and 4 bits, which decoders stretch to 255, count from 0.

    Raises:
        UserError: If it cannot be read or has not one whole number per pixel; names the file.
    """
    try:
        content = fileio.get(path, backend_args=backend_args)
        header = open_header(content, MAX_PIXELS)
        factor = _stretching(header, content)
        labels = mmcv.imfrombytes(content, flag='unchanged', backend=backend if header.mode == 'L' else 'pillow')
        if labels is None:
            raise ValueError('the decoder found no picture')
    except Exception as error:  # every file backend and decoder has its own classes
        if not is_bad_file(error):
            raise
        raise UserError(f'the label map {path} cannot be read: {error}') from error
    if labels.ndim != 2 or labels.dtype.kind not in 'bui' or not 0 <= labels.min() <= labels.max() < 2**16:
        raise UserError(
            f'{path} must be a picture with one 8-bit label per pixel, got {labels.dtype} of shape {labels.shape}'
        )
    return labels.astype(np.uint8) if labels.dtype == bool else labels // factor if factor > 1 else labels


def are_labels_plain(path: str) -> bool:
    """Whether every decoder gives the labels of a map as they are stored: 8 bits each.

    UserError if the header says that it has not one whole number per pixel.
    """
    with open(path, 'rb') as file:
        content = file.read()
    try:
        header = open_header(content, MAX_PIXELS)
        factor = _stretching(header, content)
    except ValueError as error:
        raise UserError(f'the label map {path} cannot be read: {error}') from error
    if header.mode not in LABEL_MODES:
        got = 'numbers that are not whole' if header.mode == 'F' else f'colours or transparency ({header.mode})'
        raise UserError(f'{path} must be a picture with one 8-bit label per pixel, got {got}')
    return header.mode in ('L', 'P') and factor == 1


def _stretching(header: Image.Image, content: bytes) -> int:
    """The factor by which decoders multiply gray values of less than 8 bits."""
    if content[:2] == JPEG_START:
        raise ValueError('JPEG files do not keep labels; store it as PNG')
    if header.format == 'TIFF':
        tags = header.tag_v2  # type: ignore[attr-defined]
        if tags.get(BITS_PER_SAMPLE, (1,))[0] < 8 or tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
            raise ValueError('labels in a TIFF file must have 8 bits or more, and 0 must be black; store it as PNG')
    if header.format != 'PNG':
        return 1
    depth, is_gray = content[24], content[25] == 0  # of its first part, which always is the header
    return 255 // (2**depth - 1) if is_gray and depth < 8 else 1
