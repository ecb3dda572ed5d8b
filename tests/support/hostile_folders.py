"""Folders that hold what no data set should, each made by a function: for pre-training, and of labelled images."""

import ctypes
import os
import random
import socket
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, PngImagePlugin

from beit_mm.pretraining.folder import SAMPLE

PHOTOS, LABELS = Path('photos'), Path('labels')
SHAPE = 20, 24, 3
BYTES = b'\xff'.decode('utf-8', 'surrogateescape')  # no UTF-8
CAPABILITIES, OVERRIDES = 0x20080522, 0b110  # of Linux: a version, and those that read and write without permission


@contextmanager
def as_a_usual_user() -> Iterator[None]:
    """Permissions of files count, also for root."""
    libc, header = ctypes.CDLL(None), struct.pack('Ii', CAPABILITIES, 0)
    before, after = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, before) == libc.capget(header, after) == 0
    after[0] &= ~OVERRIDES  # of the effective ones, which may be taken back
    assert libc.capset(header, after) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0


def write(folder: Path, count: int = 9, shape: tuple[int, ...] = SHAPE, dtype=np.uint8, suffix: str = '.png') -> None:
    """Add different images of random numbers, of real ones between 0 and 1."""
    folder.mkdir(parents=True, exist_ok=True)
    start = len(list(folder.iterdir()))
    rng = np.random.default_rng([start, *os.fsencode(folder)])
    for index in range(start, start + count):
        is_real = np.dtype(dtype).kind == 'f'
        pixels = rng.random(shape) if is_real else rng.integers(0, np.iinfo(dtype).max, shape)
        save(folder / f'{index}{suffix}', pixels.astype(dtype))


def save(path: Path, pixels: np.ndarray) -> None:
    if path.suffix == '.npy':
        np.save(path, pixels)
    elif path.suffix == '.tif':
        tifffile.imwrite(path, pixels, photometric='minisblack', planarconfig='contig' if pixels.ndim == 3 else None)
    else:
        Image.fromarray(pixels).save(path)


def write_files(folder: Path, suffix: str, contents: list[bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, content in enumerate(contents):
        (folder / f'file{index}{suffix}').write_bytes(content)


def black_png(width: int, height: int) -> bytes:
    """Of any number of pixels in few bytes."""
    packer, row = zlib.compressobj(), bytes(1 + -(-width // 8))
    body = b''.join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    chunks = {b'IHDR': struct.pack('>IIBBBBB', width, height, 1, 0, 0, 0, 0), b'IDAT': body, b'IEND': b''}
    parts = [
        struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
        for name, data in chunks.items()
    ]
    return b''.join([b'\x89PNG\r\n\x1a\n', *parts])


def write_texts(folder: Path = PHOTOS, count: int = 9) -> None:
    write_files(folder, '.png', [f'text {index}'.encode() for index in range(count)])


def write_equal_pixels() -> None:
    PHOTOS.mkdir()
    for index in range(9):
        info = PngImagePlugin.PngInfo()
        info.add_text('number', str(index))
        Image.new('RGB', (40, 40), (9, 99, 200)).save(PHOTOS / f'{index}.png', pnginfo=info)


def write_mixed_sizes() -> None:
    for height, width in [(3, 900), (700, 20), (1, 1), (64, 64)] * 3:
        write(PHOTOS, 1, (height, width, 3))


def write_mixed_pictures() -> None:
    for shape, dtype in ((SHAPE, np.uint8), (SHAPE[:2], np.uint8), ((20, 24, 4), np.uint8), (SHAPE[:2], np.uint16)):
        write(PHOTOS, 4, shape, dtype)


def write_links() -> None:
    """In circles, to nothing, to themselves and upwards, also to what is forbidden."""
    write(PHOTOS)
    links = dict(itself='.', up='..', nothing='nowhere')
    links |= {'itself.png': 'itself.png', 'nothing.png': 'nowhere.png', 'forbidden.png': '../.forbidden/0.png'}
    for name, target in links.items():
        (PHOTOS / name).symlink_to(target)
    Path('.forbidden').mkdir(mode=0)


def write_linked_folders(count: int = 12) -> None:
    """Folders that each lead to all others, by count! paths."""
    write(PHOTOS)
    for start in range(count):
        (PHOTOS / f'{start}').mkdir()
        for end in range(count):
            (PHOTOS / f'{start}' / f'to_{end}').symlink_to(f'../{end}')


def write_no_files() -> None:
    """Pipes, devices, sockets and folders with names of images."""
    write(PHOTOS)
    os.mkfifo(PHOTOS / 'pipe.png')
    (PHOTOS / 'zero.png').symlink_to('/dev/zero')
    (PHOTOS / 'folder.png').mkdir()
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(PHOTOS / 'socket.png'))


def write_sparse() -> None:
    with open(PHOTOS / 'sparse.png', 'wb') as file:
        file.truncate(10**12)


def write_real_numbers(*arrays: np.ndarray) -> None:
    PHOTOS.mkdir(exist_ok=True)
    for index, array in enumerate(arrays):
        np.save(PHOTOS / f'real{index}.npy', array.astype(np.float64))


def write_infinite_numbers() -> None:
    write(PHOTOS, 9, (20, 24, 2), np.float32, '.npy')
    array = np.random.default_rng(0).random((20, 24, 2))
    array[:3], array[3:6], array[6:9] = np.nan, np.inf, -np.inf
    write_real_numbers(array, np.full((9, 9, 2), np.nan))


def write_odd_names() -> None:
    write(PHOTOS)
    names = [
        'a\nb',
        'a b',
        '\'q"',
        '100%s %',
        '{{ x }}',
        '{x}',
        '$HOME',
        '\u202e',
        '-rf',
        '\t',
        ' a',
        '\\n',
        '~',
        BYTES,
    ]
    for path, name in zip(sorted(PHOTOS.iterdir()), names):
        path.rename(PHOTOS / f'{name}.png')


def write_unseen_bands() -> None:
    """One image has other bands, and is not among those that are looked at."""
    write(PHOTOS, 600, (4, 4, 4), np.uint16, '.npy')
    names = sorted(path.name for path in PHOTOS.iterdir())
    unseen = min(set(names) - set(random.Random(0).sample(names, SAMPLE)))
    np.save(PHOTOS / unseen, np.ones((4, 4, 7), np.uint16))


def forbid(mode: int, *paths: Path) -> None:
    for path in paths:
        path.chmod(mode)


def write_classes(folder: Path = LABELS, count: int = 6, **kind) -> None:
    for label in 'ab':
        write(folder / label, count, **kind)
