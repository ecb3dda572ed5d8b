"""Damaged and hostile images, annotation files and label maps, drawn from a generator."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

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
        places = rng.integers(len(changed), size=rng.integers(1, 20))
        changed[places] = rng.integers(0, 256, len(places))
        return changed.tobytes()
    if way == 1:
        return content[:position]
    if way == 2:
        return content[:position] + rng.bytes(int(rng.integers(1, 200))) + content[position:]
    if way == 3:
        return content[:position] + bytes(len(content) - position)
    return content[:position] + content[int(rng.integers(position + 1)) :]


def hostile_image(rng: np.random.Generator) -> tuple[str, bytes]:
    """A format and the damaged bytes of an image."""
    name = str(rng.choice(list(FORMATS)))
    content = _picture(rng, name)
    way = rng.random()
    if way < 0.1:
        return 'random bytes', content[: int(rng.integers(16))] + rng.bytes(int(rng.integers(2000)))
    if way < 0.35:
        content = _claim(rng, content, name)
    return name, content if way < 0.3 else damage(rng, content)


def hostile_lines(rng: np.random.Generator) -> bytes:
    """An annotation file with some lines that are not as they should be."""
    odd = [
        '',
        ' ',
        'a.jpg',
        '7',
        'a.jpg -1',
        'a.jpg 99999999999999999999',
        f'a.jpg {"9" * 5000}',
        'a.jpg 1.5',
        'a.jpg\t3',
        '../../x.jpg 1',
        '/etc/passwd 1',
        'a/../../../x 1',
        'a\0b.jpg 1',
        'ä/ö.jpg 2',
        'a b c.jpg 3',
        'x.jpg 1_0',
        'x.jpg +1',
        'x.jpg ٣',
        'a.jpg 1\r',
        '\u2028.jpg 1',
        'x' * 5000 + ' 1',
        'a.jpg nan',
        'c/0.jpg 1',
        '. 1',
        '.. 1',
    ]
    lines = [f'c/{position}.jpg {rng.integers(NUM_CLASSES)}' for position in range(rng.integers(0, 30))]
    for _ in range(rng.integers(0, 3)):
        lines.insert(int(rng.integers(len(lines) + 1)), odd[rng.integers(len(odd))])
    text = '\n'.join(lines) + '\n' * int(rng.integers(0, 3))
    content = text.encode(str(rng.choice(['utf-8', 'utf-8', 'utf-8', 'utf-8-sig', 'utf-16', 'utf-32'])))
    way = rng.random()
    if way < 0.1:
        return rng.bytes(int(rng.integers(500)))
    return damage(rng, content) if content and way < 0.4 else content


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
