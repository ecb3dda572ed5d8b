"""What a folder of images holds: bands, depth and colours as a training loads them; bad folders end in a sentence."""

import numpy as np
import pytest
import tifffile
from PIL import Image
from support.data import jpeg

from beit_mm.datasets import LoadImage
from beit_mm.errors import UserError
from beit_mm.pretraining.folder import look_at


def write_images(folder, count: int, bands: int = 3, dtype=np.uint8, suffix: str = '.png', seed: int = 0) -> str:
    rng, side = np.random.default_rng(seed), 20
    folder.mkdir(exist_ok=True)
    for index in range(count):
        if np.dtype(dtype).kind == 'f':
            image = rng.uniform(-40, 60, (side, side + index, bands)).astype(dtype)
        else:
            image = rng.integers(0, np.iinfo(dtype).max // 3, (side, side + index, bands), dtype)
        path = folder / f'{bands}_{index}{suffix}'
        if suffix == '.npy':
            np.save(path, image)
        elif suffix == '.tif':
            tifffile.imwrite(path, image.squeeze(), photometric='minisblack', planarconfig='contig')
        else:
            Image.fromarray(image.squeeze()).save(path)
    return str(folder)


KINDS = {
    'gray': (dict(bands=1), 'grayscale', 1, 8),
    'gray of 16 bits': (dict(bands=1, dtype=np.uint16, suffix='.tif'), 'unchanged', 1, 16),
    'colour': (dict(), 'color', 3, 8),
    'four bands': (dict(bands=4, dtype=np.uint16, suffix='.tif'), 'unchanged', 4, 16),
    'thirteen bands': (dict(bands=13, dtype=np.uint16, suffix='.npy'), 'unchanged', 13, 16),
}


@pytest.mark.parametrize('kind', KINDS)
def test_bands_depth_and_colours_are_those_that_a_training_loads(kind, tmp_path):
    options, color_type, bands, bits = KINDS[kind]
    folder = look_at(write_images(tmp_path, 9, **options), 60)
    assert (folder.num_images, folder.num_seen, folder.color_type) == (9, 9, color_type)
    assert (folder.bands, folder.bits) == (bands, bits) and not folder.is_mixed
    assert folder.sizes == [(20, 20), (20, 24), (20, 28)] and folder.side == 20
    assert folder.extensions == (['.npy'] if options.get('suffix') == '.npy' else None)
    images = [LoadImage(color_type=color_type)(dict(img_path=str(path)))['img'] for path in tmp_path.iterdir()]
    values = np.concatenate([image.reshape(-1, bands) for image in images]).astype(float)
    order = [2, 1, 0] if bands == 3 else slice(None)
    assert folder.mean == pytest.approx(values.mean(axis=0)[order], abs=1e-3)
    assert folder.std == pytest.approx(values.std(axis=0)[order], abs=1e-3)


def test_real_numbers_are_spread_over_the_values_that_occur(tmp_path):
    folder = look_at(write_images(tmp_path, 9, bands=2, dtype=np.float32, suffix='.npy'), 60)
    assert (folder.bands, folder.bits, folder.color_type) == (2, 16, 'unchanged')
    assert folder.value_range == pytest.approx((-40, 60), abs=1)
    load = LoadImage(color_type='unchanged', value_range=folder.value_range)
    values = np.concatenate([load(dict(img_path=str(path)))['img'].reshape(-1, 2) for path in tmp_path.iterdir()])
    assert folder.mean == pytest.approx(values.astype(float).mean(axis=0), abs=1e-3)
    assert folder.describe()['bands'].startswith('2 of numbers from -')
    np.save(tmp_path / 'deep.npy', np.ones((9, 9, 2), np.uint8))
    with pytest.raises(UserError, match='must have the same bands, got .*other bits'):
        look_at(str(tmp_path), 60)


def test_images_that_look_alike_are_told(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(10):
        coarse = Image.fromarray(rng.integers(0, 200, (9, 9, 3), np.uint8)).resize((90, 90), Image.BICUBIC)
        coarse.save(tmp_path / f'{index}.png')
        if index < 3:
            coarse.resize((60, 60)).point(lambda value: value * 1.2).save(tmp_path / f'{index}.jpg', quality=60)
    folder = look_at(str(tmp_path), 60)
    assert folder.num_alike == 3 and folder.num_equal[0] == 0
    assert folder.describe()['alike'] == '3 of 13 images look like another one, or nearly'


def test_pictures_of_several_kinds_are_read_as_colour(tmp_path):
    write_images(tmp_path, 4, bands=1)
    write_images(tmp_path, 4, bands=4)
    folder = look_at(write_images(tmp_path, 4), 60)
    assert folder.is_mixed and (folder.bands, folder.bits, folder.color_type) == (3, 8, 'color')
    assert len(folder.mean) == 3 and 'several kinds' in folder.describe()['bands']


def test_opaque_pictures_have_no_fourth_band(tmp_path):
    for index in range(8):
        Image.new('RGBA', (9, 9), (index, 2, 3, 255)).save(tmp_path / f'{index}.png')
    folder = look_at(str(tmp_path), 60)
    assert (folder.bands, folder.color_type, folder.mean[1:]) == (3, 'color', [2.0, 3.0])
    assert folder.std[1:] == [255.0, 255.0]  # nothing to scale


def test_copies_other_files_and_unreadable_images_are_told(tmp_path):
    write_images(tmp_path, 10)
    for index in range(3):
        (tmp_path / f'copy_{index}.png').write_bytes((tmp_path / '3_1.png').read_bytes())
    (tmp_path / 'cut.jpg').write_bytes(jpeg(0)[:200])
    (tmp_path / 'notes.txt').write_text('no image')
    folder = look_at(str(tmp_path), 60)
    assert folder.num_images == 14 and folder.num_equal == (3, 14) and list(folder.bad) == ['cut.jpg']
    lines = folder.describe()
    assert "14 (13 .png, 1 .jpg); left out: 1 .txt (such as 'notes.txt')" == lines['images']
    assert lines['equal'] == '3 of 14 files have the content of another one'
    assert lines['unreadable'].startswith('1 of 14, such as cut.jpg: ')


def write_files(folder, count: int, content: bytes, suffix: str) -> None:
    for index in range(count):
        (folder / f'{index}{suffix}').write_bytes(content)


BAD = {
    'must hold images .*, got none$': lambda folder: None,
    r"got none; left out: 2 \.txt \(such as '0\.txt'\)": lambda folder: write_files(folder, 2, b'no image', '.txt'),
    'at least 8 different images, got 1 in ': lambda folder: write_images(folder, 1),
    'at least 8 different images, got 30, 29 of them copies in ': lambda folder: write_files(
        folder, 30, jpeg(0), '.jpg'
    ),
    r'10 of 18 images in .* cannot be read, such as \d\.png: .*; mend or remove them': lambda folder: (
        write_images(folder, 8),
        [(folder / f'{index}.png').write_bytes(b'%d' % index) for index in range(10)],
    ),
    r'the same bands, got .*13 of 8 bits \(13_\d\.tif\).*; sort them into folders': lambda folder: (
        write_images(folder, 4, bands=13, suffix='.tif'),
        write_images(folder, 4),
    ),
}


@pytest.mark.parametrize('sentence', BAD)
def test_a_bad_folder_is_one_sentence(sentence, tmp_path):
    BAD[sentence](tmp_path)
    with pytest.raises(UserError, match=sentence):
        look_at(str(tmp_path), 60)
