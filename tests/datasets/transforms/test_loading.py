"""LoadImage reads every kind of image as MMCV's LoadImageFromFile does, and refuses damaged and huge ones by name."""

import errno
import io
import resource
import struct
import tracemalloc
import zlib

import mmcv
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import TRANSFORMS
from PIL import Image

from beit_mm.datasets import BadImage, LoadImage
from beit_mm.datasets.transforms.decoding import read_labels

BACKENDS = ['simplejpeg', 'cv2', 'pillow']
HEIGHT, WIDTH = 50, 66
SMALL = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
PICTURE = Image.fromarray(SMALL).resize((WIDTH, HEIGHT), Image.BICUBIC)
DEEP = Image.fromarray(np.linspace(0, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16))


def encode(image: Image.Image, form: str, **options) -> bytes:
    target = io.BytesIO()
    image.save(target, form, **options)
    return target.getvalue()


EXIF = b'Exif\0\0II*\0' + struct.pack('<IHHHI', 8, 1, 0x0112, 3, 1)
ANIMATED = dict(save_all=True, append_images=[PICTURE.rotate(180)], duration=50)
KINDS = dict(
    rgb=encode(PICTURE, 'JPEG', quality=92),
    progressive=encode(PICTURE, 'JPEG', progressive=True),
    grayscale=encode(PICTURE.convert('L'), 'JPEG'),
    cmyk=encode(PICTURE.convert('CMYK'), 'JPEG'),
    gray_png=encode(PICTURE.convert('L'), 'PNG'),
    palette=encode(PICTURE.convert('P'), 'PNG'),
    one_bit=encode(PICTURE.convert('1'), 'PNG'),
    alpha=encode(PICTURE.convert('RGBA'), 'PNG'),
    gray_alpha=encode(PICTURE.convert('LA'), 'PNG'),
    deep=encode(DEEP, 'PNG'),
    deep_tiff=encode(DEEP, 'TIFF'),
    gif=encode(PICTURE, 'GIF', **ANIMATED),
    webp=encode(PICTURE, 'WEBP', **ANIMATED),
    tiff=encode(PICTURE, 'TIFF', compression='tiff_lzw'),
    bmp=encode(PICTURE, 'BMP'),
    ppm=encode(PICTURE, 'PPM'),
    trailing=encode(PICTURE, 'JPEG') + b"a phone's video" * 99,
    # EXIF tag 0x0112, a short number: the orientation
    **{f'turned_{turn}': encode(PICTURE, 'JPEG', exif=EXIF + bytes([turn, 0]) + bytes(6)) for turn in range(1, 9)},
)


def read(cls, content: bytes, path, **options) -> np.ndarray:
    path.write_bytes(content)
    return cls(**options)(dict(img_path=str(path)))['img']


def cases(names, few: tuple) -> list:
    """Every name with simplejpeg, few of them with the other decoders."""
    return [(name, 'simplejpeg') for name in names] + [(name, other) for other in BACKENDS[1:] for name in few]


@pytest.mark.parametrize('kind, backend', cases(KINDS, ('rgb', 'deep', 'turned_6')))
def test_kinds_are_read_as_the_host_reads_them(kind, backend, tmp_path):
    """The host's backend: simplejpeg stands for Pillow where it is a JPEG, else for OpenCV."""
    content = KINDS[kind]
    host = 'pillow' if backend == 'pillow' or backend == 'simplejpeg' and content[:2] == b'\xff\xd8' else 'cv2'
    if 'deep' in kind:
        host = 'cv2'  # Pillow's is white
    found = read(LoadImage, content, tmp_path / 'a', imdecode_backend=backend)
    assert np.array_equal(found, read(LoadImageFromFile, content, tmp_path / 'b', imdecode_backend=host))
    turns = kind.startswith('turned') and int(kind[-1]) > 4
    assert found.shape == ((WIDTH, HEIGHT, 3) if turns else (HEIGHT, WIDTH, 3)) and found.dtype == np.uint8


@pytest.mark.parametrize('backend', BACKENDS)
def test_sixteen_bits_become_the_upper_eight_and_an_animation_its_first_picture(backend, tmp_path):
    deep = read(LoadImage, KINDS['deep'], tmp_path / 'a', imdecode_backend=backend)
    assert np.abs(deep[..., 0].astype(int) - (np.asarray(DEEP) >> 8)).max() <= 1
    first, second = (np.asarray(picture)[..., ::-1].astype(int) for picture in (PICTURE, PICTURE.rotate(180)))
    for kind in ('gif', 'webp'):
        found = read(LoadImage, KINDS[kind], tmp_path / 'a', imdecode_backend=backend)
        assert np.abs(found - first).mean() < 20 < np.abs(found - second).mean()


def with_thumbnail(content: bytes) -> bytes:
    """A JPEG whose header holds another one, as cameras write it."""
    small = encode(PICTURE.resize((8, 8)), 'JPEG')
    return content[:2] + b'\xff\xe2' + struct.pack('>H', 2 + len(small)) + small + content[2:]


HALF = len(KINDS['rgb']) // 2
DAMAGED = dict(
    {
        f'{kind}_{share}': KINDS[kind][: int(len(KINDS[kind]) * share)]
        for kind in ('rgb', 'progressive', 'grayscale', 'cmyk', 'turned_6', 'gray_png', 'tiff', 'webp')
        for share in (0.01, 0.5, 0.9)
    },
    empty=b'',
    text=b'no image',
    zero_tail=KINDS['rgb'][:HALF] + bytes(HALF),
    garbage=bytes(5000),
    thumbnail_is_whole=with_thumbnail(KINDS['rgb'][:-HALF]),
)


@pytest.mark.parametrize('case, backend', cases(DAMAGED, ('rgb_0.5', 'empty', 'text')))
def test_damaged_images_are_refused_by_name(case, backend, tmp_path):
    with pytest.raises(BadImage, match=f'{tmp_path}/a cannot be read as an image: .'):
        read(LoadImage, DAMAGED[case], tmp_path / 'a', imdecode_backend=backend)


@pytest.mark.parametrize('backend', BACKENDS)
def test_what_cannot_be_opened_or_would_run_a_program_is_refused_by_name(backend, tmp_path):
    for path, reason in ((tmp_path / 'none.jpg', 'No such file'), (tmp_path, 'Is a directory')):
        with pytest.raises(BadImage, match=f'{path} cannot be read as an image: {reason}'):
            LoadImage(imdecode_backend=backend)(dict(img_path=str(path)))
    # Pillow hands PostScript to Ghostscript.
    script = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n'
    with pytest.raises(BadImage, match='shard.tar/1.jpg cannot be read as an image: no header of JPEG, PNG'):
        LoadImage(imdecode_backend=backend)(dict(img_path='shard.tar/1.jpg', img_bytes=script))


@pytest.mark.parametrize(
    'error',
    [MemoryError(), OSError(errno.EMFILE, 'Too many open files'), ConnectionError('reset'), ImportError('lmdb')],
)
def test_failures_of_the_machine_are_not_taken_for_bad_images(error, monkeypatch):
    """A training would replace the image silently."""

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(fileio, 'get', fail)
    monkeypatch.setattr(mmcv, 'imfrombytes', fail)
    for source in ({}, dict(img_bytes=KINDS['gray_png'])):
        for options in ({}, dict(ignore_empty=True)):
            with pytest.raises(type(error)) as raised:
                LoadImage(**options)(dict(img_path='a.png', **source))
            assert raised.value is error


def huge(form: str) -> bytes:
    """A header of 60000 x 50000 pixels, or what the format knows, over little data."""
    content = encode(PICTURE, form)
    if form == 'PNG':
        head = b'IHDR' + struct.pack('>II', 60000, 50000) + content[24:29]
        return content[:12] + head + struct.pack('>I', zlib.crc32(head)) + content[33:]
    place, packed = dict(
        JPEG=(content.find(b'\xff\xc0') + 5, struct.pack('>HH', 50000, 60000)),
        GIF=(6, struct.pack('<HH', 60000, 50000)),
        BMP=(18, struct.pack('<ii', 60000, 50000)),
        TIFF=(content.find(struct.pack('<HH', 256, 4)) + 8, struct.pack('<I', 60000 * 50000)),
    )[form]
    return content[:place] + packed + content[place + len(packed) :]


@pytest.mark.parametrize('form, backend', cases(('PNG', 'JPEG', 'GIF', 'BMP', 'TIFF'), ('PNG', 'JPEG')))
def test_oversized_images_are_refused_from_their_header(form, backend, tmp_path):
    tracemalloc.start()
    with pytest.raises(BadImage, match='pixels'):
        read(LoadImage, huge(form), tmp_path / 'a', imdecode_backend=backend)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


@pytest.mark.parametrize('backend', BACKENDS)
def test_the_limit_is_an_argument(backend):
    info, limit = dict(img_path='a', img_bytes=KINDS['rgb']), HEIGHT * WIDTH
    LoadImage(imdecode_backend=backend, max_pixels=limit)(dict(info))
    with pytest.raises(BadImage, match=f'at most {limit - 1} pixels, got {WIDTH} x {HEIGHT}'):
        LoadImage(imdecode_backend=backend, max_pixels=limit - 1)(info)


@pytest.mark.parametrize('kind', ['rgb', 'turned_6', 'gray_alpha'])
@pytest.mark.parametrize(
    'options',
    [{}, dict(color_type='grayscale', to_float32=True), dict(color_type='unchanged', imdecode_backend='pillow')],
)
def test_bytes_and_files_give_all_that_mmcv_gives(tmp_path, options, kind):
    path = tmp_path / 'image.jpg'
    path.write_bytes(KINDS[kind])
    expected = LoadImageFromFile(**options)(dict(img_path=str(path), gt_label=1))
    image = expected.pop('img')
    for sample in (dict(img_path='shard.tar/1.jpg', img_bytes=KINDS[kind]), dict(img_path=str(path))):
        results = LoadImage(**options)(dict(sample, gt_label=1))
        found = results.pop('img')
        assert found.dtype == image.dtype and np.array_equal(found, image)
        assert results == dict(expected, img_path=sample['img_path'])


def test_other_uses(tmp_path):
    """A host's inferencer gives the image without a path, `ignore_empty` takes another sample, old clients are gone."""
    assert LoadImage()(dict(img=SMALL, img_shape=(5, 7), ori_shape=(5, 7)))['img'] is SMALL

    class TwoImages(BaseDataset):
        def load_data_list(self) -> list:
            return [dict(img_path='broken', img_bytes=b'no image'), dict(img_path='whole', img_bytes=KINDS['rgb'])]

    dataset = TwoImages('', pipeline=[TRANSFORMS.build(dict(type='beit_mm.LoadImage', ignore_empty=True))])
    np.random.seed(0)
    assert {dataset[0]['img_path'] for _ in range(4)} == {'whole'}
    with pytest.warns(DeprecationWarning), pytest.raises(ValueError, match='takes backend_args instead of'):
        LoadImage(file_client_args=dict(backend='disk'))


def scans(count: int) -> bytes:
    """A progressive JPEG file of 2000 x 2000 pixels with so many empty scans."""
    content = encode(Image.new('L', (2000, 2000)), 'JPEG', progressive=True)
    start = content.rfind(b'\xff\xda')
    return content[:start] + content[start:-2] * count + content[-2:]


def codestream() -> bytes:
    """A JPEG 2000 file whose box says 66 x 50 pixels, and its stream 60000 x 50000."""
    content = encode(PICTURE, 'JPEG2000')
    start = content.find(b'\xff\x4f\xff\x51') + 8
    return content[:start] + struct.pack('>II', 60000, 50000) + content[start + 8 :]


EMPTY_CHUNK = bytes(4) + b'tEXt' + struct.pack('>I', zlib.crc32(b'tEXt'))
GREEDY = dict(
    a_chunk_of_4_gb=KINDS['gray_png'][:33] + b'\xff\xff\xff\xf0IDAT',
    a_chunk_after_a_good_one=KINDS['gray_png'][:-12] + b'\x80\0\0\0tEXt' + KINDS['gray_png'][-12:],
    empty_scans=scans(300),
    fill_bytes=KINDS['rgb'][:2] + b'\xff' * 10_000_000 + KINDS['rgb'][2:],
    empty_segments=KINDS['rgb'][:2] + b'\xff\xfe\0\x02' * 2_000_000 + KINDS['rgb'][2:],
    comment=b'P6\n#' + b'x' * 10_000_000 + KINDS['ppm'][2:],
    tiny_chunks=KINDS['gray_png'][:33]
    + (bytes(4) + b'tEXt' + struct.pack('>I', zlib.crc32(b'tEXt'))) * 800_000
    + KINDS['gray_png'][33:],
    stream_of_other_size=codestream(),
    comments=b'P3\n8 8\n255\n' + b'#a\n' * 3_000_000 + b'1 ' * 192,
    a_row_of_one_pixel_each=encode(Image.new('1', (1, 2_000_000)), 'PNG'),
)


WORDS = '(reads|scans|truncated|pixels|comments)'


@pytest.mark.parametrize('name', GREEDY)
@pytest.mark.parametrize('color_type', ['color', 'unchanged'])
def test_files_that_ask_for_much_are_refused_in_a_second(name, color_type, tmp_path):
    """As images and as label maps. Decoders took up to 4.6 GB or 21 s for them."""
    path, before = tmp_path / 'a.png', resource.getrusage(resource.RUSAGE_SELF)
    path.write_bytes(GREEDY[name])
    for backend in BACKENDS[: 3 if color_type == 'color' else 1]:
        if backend == 'simplejpeg' and name in ('fill_bytes', 'empty_segments'):
            continue  # libjpeg-turbo reads them at once
        with pytest.raises(BadImage, match=f'a.png cannot be read as an image: .*{WORDS}'):
            LoadImage(imdecode_backend=backend, color_type=color_type)(dict(img_path=str(path)))
    with pytest.raises(ValueError, match=f'the label map .*a.png cannot be read: .*{WORDS}'):
        read_labels(str(path))
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_utime - before.ru_utime < 5 and after.ru_maxrss - before.ru_maxrss < 500_000  # kB
