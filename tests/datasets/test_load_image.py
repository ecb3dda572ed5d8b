"""LoadImage gives from bytes, and from files, what MMCV's LoadImageFromFile gives from files."""

import io

import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import TRANSFORMS
from PIL import Image
from support.data import HEIGHT, jpeg, WIDTH

from beit_mm.datasets import BadImage, LoadImage


def rotated() -> bytes:
    """A photograph that a camera marks as turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return jpeg(1, exif=exif)


def transparent() -> bytes:
    """Grey values that MMCV's decoders lay over different backgrounds."""
    target = io.BytesIO()
    Image.new('LA', (WIDTH, HEIGHT), (200, 100)).save(target, 'PNG')
    return target.getvalue()


@pytest.mark.parametrize(
    'content, shape', [(jpeg(0), (HEIGHT, WIDTH)), (rotated(), (WIDTH, HEIGHT)), (transparent(), (HEIGHT, WIDTH))]
)
@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(imdecode_backend='pillow'),
        dict(color_type='grayscale'),
        dict(to_float32=True),
        dict(color_type='unchanged', imdecode_backend='pillow'),
    ],
)
def test_bytes_and_files_give_what_mmcv_gives(tmp_path, options, content, shape):
    path = tmp_path / 'image.jpg'
    path.write_bytes(content)
    expected = LoadImageFromFile(**options)(dict(img_path=str(path), gt_label=1))
    if options.get('color_type') != 'unchanged':
        assert expected['img_shape'] == shape
    for given in (dict(img_path='shard.tar/1.jpg', img_bytes=content), dict(img_path=str(path))):
        results = LoadImage(**options)(dict(given, gt_label=1))
        assert results['img'].dtype == expected['img'].dtype and np.array_equal(results.pop('img'), expected['img'])
        assert results == dict(
            {key: value for key, value in expected.items() if key != 'img'}, img_path=given['img_path']
        )


def test_other_formats(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    for name in ('a.png', 'a.webp', 'a.bmp'):
        Image.fromarray(pixels).save(tmp_path / name, **(dict(lossless=True) if name == 'a.webp' else {}))
        results = LoadImage()(dict(img_path=name, img_bytes=(tmp_path / name).read_bytes()))
        assert np.array_equal(results['img'], pixels[..., ::-1]), name


def test_other_formats_are_read_in_training_as_in_tests(tmp_path):
    """16 bits, grey with alpha, a palette: simplejpeg knows none of them."""
    gray = Image.fromarray(np.linspace(0, 65535, 200).reshape(10, 20).astype(np.uint16))
    pictures = dict(
        deep=gray,
        transparent=Image.new('LA', (20, 10), (200, 100)),
        palette=Image.fromarray(np.arange(200, dtype=np.uint8).reshape(10, 20)).convert('P'),
    )
    for name, picture in pictures.items():
        path = tmp_path / f'{name}.png'
        picture.save(path)
        found, expected = (
            cls(**options)(dict(img_path=str(path)))['img']
            for cls, options in ((LoadImage, dict(imdecode_backend='simplejpeg')), (LoadImageFromFile, {}))
        )
        assert np.array_equal(found, expected), name
    assert LoadImage(imdecode_backend='simplejpeg')(dict(img_path=str(tmp_path / 'deep.png')))['img'].mean() < 140


def test_files_that_cannot_be_read_are_ignored_if_asked_and_file_clients_are_used(tmp_path):
    (tmp_path / 'a.jpg').write_bytes(jpeg(0))
    load = LoadImage(imdecode_backend='simplejpeg', ignore_empty=True)
    assert load(dict(img_path=str(tmp_path / 'none.jpg'))) is None
    with pytest.warns(DeprecationWarning):
        load = LoadImage(imdecode_backend='simplejpeg', file_client_args=dict(backend='disk'))
    assert load(dict(img_path=str(tmp_path / 'a.jpg')))['img'].shape == (HEIGHT, WIDTH, 3)
    with pytest.warns(DeprecationWarning):
        load = LoadImage(imdecode_backend='simplejpeg', file_client_args=dict(backend='memcached'))
    with pytest.raises(Exception):
        load(dict(img_path=str(tmp_path / 'a.jpg')))


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
@pytest.mark.parametrize('content', [b'no image', b''])
def test_bytes_that_are_no_image_are_named(backend, content):
    with pytest.raises(ValueError, match='shard.tar/1.jpg cannot be read as an image: '):
        LoadImage(imdecode_backend=backend)(dict(img_path='shard.tar/1.jpg', img_bytes=content))


def test_a_missing_file_is_named():
    with pytest.raises(BadImage, match='nowhere.jpg cannot be read as an image: No such file'):
        LoadImage()(dict(img_path='nowhere.jpg'))


class TwoImages(BaseDataset):
    """One broken image and one that is whole."""

    def load_data_list(self) -> list:
        return [dict(img_path='broken', img_bytes=b'no image'), dict(img_path='whole', img_bytes=jpeg(0))]


def test_broken_images_are_passed_over_where_that_is_asked_for():
    dataset = TwoImages('', pipeline=[TRANSFORMS.build(dict(type='beit_mm.LoadImage', ignore_empty=True))])
    np.random.seed(0)
    assert {dataset[0]['img_path'] for _ in range(4)} == {'whole'}


def written(path, image, **options):
    image.save(path, **options)
    return str(path)


@pytest.mark.parametrize(
    'mode, name, options',
    [
        ('RGB', 'a.jpg', dict(quality=95)),
        ('RGB', 'b.jpg', dict(quality=40, subsampling=2)),
        ('L', 'c.jpg', {}),
        ('RGB', 'd.jpg', dict(progressive=True)),
        ('CMYK', 'e.jpg', {}),
        ('RGB', 'f.png', {}),
        ('L', 'g.png', {}),
    ],
)
def test_simplejpeg_gives_pillow_s_pixels(mode, name, options, tmp_path):
    small = np.random.default_rng(0).integers(0, 256, (8, 11, 3), dtype=np.uint8)
    path = written(tmp_path / name, Image.fromarray(small).resize((67, 50), Image.BICUBIC).convert(mode), **options)
    given = LoadImage(imdecode_backend='simplejpeg').transform(dict(img_path=path))
    expected = LoadImageFromFile(imdecode_backend='pillow').transform(dict(img_path=path))
    assert given['img_shape'] == given['ori_shape'] == (50, 67)
    assert given['img'].dtype == np.uint8 and np.array_equal(given['img'], expected['img'])


def test_simplejpeg_turns_what_a_camera_marks_as_turned(tmp_path):
    path = tmp_path / 'a.jpg'
    path.write_bytes(rotated())
    given = LoadImage(imdecode_backend='simplejpeg').transform(dict(img_path=str(path)))
    expected = LoadImageFromFile(imdecode_backend='pillow').transform(dict(img_path=str(path)))
    assert given['img'].shape == (WIDTH, HEIGHT, 3) and np.array_equal(given['img'], expected['img'])


def test_simplejpeg_names_a_broken_file(tmp_path):
    path = written(tmp_path / 'a.jpg', Image.new('RGB', (64, 64), (9, 8, 7)))
    content = open(path, 'rb').read()
    open(path, 'wb').write(content[:40])
    with pytest.raises(ValueError, match='a.jpg cannot be read'):
        LoadImage(imdecode_backend='simplejpeg').transform(dict(img_path=path))
    assert LoadImage(imdecode_backend='simplejpeg', ignore_empty=True).transform(dict(img_path=path)) is None
