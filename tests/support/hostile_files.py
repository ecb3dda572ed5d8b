"""Damaged and hostile images and label maps, drawn from generators and read in a child process."""

import io
import os
import resource
import struct
import zlib
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from PIL import Image

from beit_mm.datasets import BadImage, LoadAnnotations, LoadImage
from support.tools import forkserver

SECONDS = 60  # for one case, of a fraction of a second, before it counts as a hang
MAX_MEMORY = 4096  # MiB; images of 100 million pixels are let pass, and take 300 MB more than once
BACKENDS = ('simplejpeg', 'simplejpeg', 'cv2', 'pillow')
NUM_CLASSES = 8
FORMATS: dict[str, list[tuple[str, dict]]] = dict(
    JPEG=[('RGB', {}), ('RGB', dict(progressive=True)), ('L', {}), ('CMYK', {}), ('RGB', dict(subsampling=0))],
    PNG=[('RGB', {}), ('RGBA', {}), ('P', {}), ('LA', {}), ('I;16', {}), ('1', {})],
    GIF=[('P', dict(save_all=True))],
    WEBP=[('RGB', {}), ('RGBA', dict(lossless=True))],
    TIFF=[('RGB', dict(compression=name)) for name in ('raw', 'tiff_lzw', 'tiff_deflate', 'jpeg', 'packbits')]
    + [('I;16', {})],
    BMP=[('RGB', {}), ('P', {})],
    PPM=[('RGB', {}), ('L', {})],
    JPEG2000=[('RGB', {})],
)


def _picture(rng: np.random.Generator, name: str) -> bytes:
    mode, options = FORMATS[name][rng.integers(len(FORMATS[name]))]
    height, width = rng.integers(8, 64, 2)
    image = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    if mode == 'I;16':
        image = Image.fromarray(np.asarray(image.convert('L')).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    if options.get('save_all'):
        options = dict(options, append_images=[image.rotate(90)])
    if name == 'JPEG' and rng.random() < 0.3:
        exif = Image.Exif()
        exif[0x0112] = int(rng.integers(1, 9))
        options = dict(options, exif=exif)
    target = io.BytesIO()
    image.save(target, name, **options)
    return target.getvalue()


def _claim(rng: np.random.Generator, content: bytes, name: str) -> bytes:
    """Write another size into the header."""
    sides = [int(rng.choice([0, 1, 7, 3000, 20000, 65535])) for _ in range(2)]
    if name == 'PNG':
        sides = [side * int(rng.choice([1, 1000])) for side in sides]
        head = b'IHDR' + struct.pack('>II', *sides) + content[24:29]
        return content[:12] + head + struct.pack('>I', zlib.crc32(head)) + content[33:]
    position, form = dict(GIF=(6, '<HH'), BMP=(18, '<ii'), WEBP=(26, '<HH')).get(name, (None, '>HH'))
    if name == 'JPEG':
        starts = [content.find(bytes([0xFF, mark])) for mark in (0xC0, 0xC2)]
        position = max(starts) + 5
    elif name == 'PPM':
        return content[:3] + f'{sides[0]} {sides[1]}\n'.encode() + content[content.find(b'\n', 3) + 1 :]
    elif name == 'JPEG2000':
        position, form = content.find(b'ihdr') + 4, '>II'
    elif name == 'TIFF':  # an entry: tag, type, count, value
        tag = struct.pack('<HH', int(rng.choice([256, 257, 258, 277, 278, 322])), 4)
        position, form = content.find(tag[:2], 8) + 8, '<I'
        sides = sides[:1]
    return content[:position] + struct.pack(form, *sides) + content[position + struct.calcsize(form) :]


def damage(rng: np.random.Generator, content: bytes) -> bytes:
    """Bytes changed, cut off, put in, or repeated."""
    way = rng.integers(5)
    position = int(rng.integers(len(content)))
    if way == 0:
        changed = np.frombuffer(content, np.uint8).copy()
        positions = rng.integers(len(changed), size=rng.integers(1, 20))
        changed[positions] = rng.integers(0, 256, len(positions))
        return changed.tobytes()
    if way == 1:
        return content[:position]
    if way == 2:
        return content[:position] + rng.bytes(int(rng.integers(1, 200))) + content[position:]
    if way == 3:
        return content[:position] + bytes(len(content) - position)
    return content[:position] + content[int(rng.integers(position + 1)) :]


def hostile_image(rng: np.random.Generator) -> bytes:
    name = str(rng.choice(list(FORMATS)))
    content = _picture(rng, name)
    way = rng.random()
    if way < 0.1:
        return content[: int(rng.integers(16))] + rng.bytes(int(rng.integers(2000)))
    if way < 0.35:
        content = _claim(rng, content, name)
    return content if way < 0.3 else damage(rng, content)


def hostile_label_map(rng: np.random.Generator, shape: tuple[int, int]) -> bytes:
    """A PNG, mostly with values that are classes."""
    top = int(rng.choice([NUM_CLASSES, NUM_CLASSES, 256]))
    labels = Image.fromarray(rng.integers(0, top, shape, dtype=np.uint8))
    way = rng.random()
    if way < 0.3:
        labels = labels.convert(str(rng.choice(['P', 'RGB', 'RGBA', 'I;16', '1', 'LA'])))
    target = io.BytesIO()
    labels.save(target, 'PNG')
    return damage(rng, target.getvalue()) if way > 0.6 else target.getvalue()


def read_image(rng: np.random.Generator, path: Path) -> bool:
    content = hostile_image(rng)
    step = LoadImage(imdecode_backend=str(rng.choice(BACKENDS)))
    path.write_bytes(content)
    info = dict(img_path=str(path)) if rng.random() < 0.5 else dict(img_path=str(path), img_bytes=content)
    try:
        image = step(info)['img']
    except BadImage as error:
        assert str(path) in str(error) and error.reason
        return False
    assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8 and image.size
    return True


def read_label_map(rng: np.random.Generator, path: Path) -> bool:
    """A training's step gives labels of the head or names the file that it refuses."""
    shape = tuple(map(int, rng.integers(1, 40, 2)))
    path.write_bytes(hostile_label_map(rng, shape))
    results = dict(seg_map_path=str(path), reduce_zero_label=False, label_map=None, seg_fields=[], ori_shape=shape)
    try:
        labels = LoadAnnotations(NUM_CLASSES)(results)['gt_seg_map']
    except ValueError as error:
        assert str(path) in str(error)
        return False
    assert np.isin(labels, [*range(NUM_CLASSES), 255]).all()
    return True


def _read_all(connection: Connection, numbers: range, folder: Path) -> None:
    """Send whether each case is read or refused, or what must not be, and the memory at most in MiB."""
    os.dup2(os.open(folder / 'stderr', os.O_CREAT | os.O_WRONLY), 2)  # decoders write thousands of messages
    for number in numbers:
        read = read_label_map if number % 10 == 9 else read_image
        try:
            outcome = read(np.random.default_rng([6, number]), folder / 'a.png')
        except Exception as error:
            outcome = f'{type(error).__name__}: {error}'
        connection.send((outcome, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def check_cases(numbers: range, folder: Path) -> None:
    """Every file is read or refused by name. The case of a number is always the same."""
    receiver, sender = forkserver.Pipe(duplex=False)
    child = forkserver.Process(target=_read_all, args=(sender, numbers, folder), daemon=True)
    child.start()
    sender.close()
    outcomes = set()
    try:
        for number in numbers:
            assert receiver.poll(SECONDS), f'case {number} hangs'
            outcome, memory = receiver.recv()  # EOFError if the case ends the process
            assert outcome in (True, False), f'case {number}: {outcome}'
            assert memory < MAX_MEMORY
            outcomes.add(outcome)
    finally:
        child.kill()
        child.join()
    assert outcomes == {True, False}, 'the cases are neither all whole nor all hopeless'
