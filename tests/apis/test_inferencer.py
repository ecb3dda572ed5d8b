"""What all inference shares: finding images, batches, reading ahead, images that cannot be read, names of results."""

import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from beit_mm.apis import Inferencer, inferencer
from beit_mm.apis.images import find_images
from beit_mm.apis.writing import result_files
from beit_mm.datasets.bad_images import BadImage
from beit_mm.errors import OutOfMemory

# Images


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture
def folder(tmp_path):
    hidden = '.hidden/y.jpg', 'a/.z.jpg'
    return touch(tmp_path, 'b/2.JPG', 'b/10.png', 'a/2.jpg', 'a/deep/er/x.tiff', 'a-b/1.jpg', 'a/notes.txt', *hidden)


def result_paths(images) -> list[str]:
    return [image.result_path for image in find_images(images)]


def test_a_folder_is_searched_to_the_bottom_in_order_without_hidden_files(folder):
    found = find_images(folder)
    assert result_paths(folder) == ['a/2.jpg', 'a/deep/er/x.tiff', 'a-b/1.jpg', 'b/10.png', 'b/2.JPG']
    assert [image.name for image in found] == [str(folder / path) for path in result_paths(folder)]
    os.symlink(folder, folder / 'a' / 'circle')
    assert find_images(folder) == found
    os.symlink(folder / 'b', folder / 'a' / 'link')
    assert 'a/link/2.JPG' in result_paths(folder)


@pytest.mark.parametrize(
    'images, expected',
    [
        (['a/2.jpg'], ['2.jpg']),
        (['a', 'b'], ['a/2.jpg', 'a/deep/er/x.tiff', 'b/10.png', 'b/2.JPG']),
        (['b/2.JPG', 'a/2.jpg'], ['b/2.JPG', 'a/2.jpg']),
        (['a/deep', 'a/2.jpg'], ['deep/er/x.tiff', '2.jpg']),
    ],
)
def test_names_are_as_given_and_results_go_below_the_shared_folder(images, expected, folder, monkeypatch):
    assert result_paths([folder / path for path in images]) == expected
    monkeypatch.chdir(folder)
    assert [image.name for image in find_images(['b', 'a/2.jpg'])] == ['b/10.png', 'b/2.JPG', 'a/2.jpg']


def test_results_keep_the_suffix_where_images_differ_in_nothing_else(tmp_path):
    touch(tmp_path, 'a.jpg', 'a.png', 'b.v2.jpg', 'c.jpg', 'c.jpg.png', 'c.png')
    names = ' '.join(file.name for file in result_files(find_images(tmp_path), Path('out'), '.png').values())
    assert names == 'a.jpg.png a.png.png b.v2.png c.jpg.png c.jpg.png.png c.png.png'


def test_arrays_and_pillow_images_are_named_by_their_index(folder):
    array, picture = np.zeros((4, 4, 3), np.uint8), Image.new('L', (4, 4))
    found = find_images([folder / 'b', array, picture])
    assert [image.name for image in found[2:]] == ['image_1', 'image_2']
    assert found[2].source is array and found[3].source is picture


def test_what_is_no_image_is_refused(folder, monkeypatch):
    for images, error, message in [
        (folder / 'c.jpg', FileNotFoundError, 'an image must be a file or folder that exists, got .*/c.jpg'),
        (touch(folder / 'none', 'a/notes.txt') / 'a', ValueError, r'a must hold images \(.jpg, .*\), got none'),
        ([], ValueError, 'there must be at least one image, got an empty list'),
        ([3], ValueError, 'an image must be a file, a folder, an array or a Pillow image, got int'),
    ]:
        with pytest.raises(error, match=message):
            find_images(images)
    scan = os.scandir

    def refuse(path):
        if str(path).endswith('deep'):
            raise PermissionError(13, 'Permission denied', path)
        return scan(path)

    monkeypatch.setattr(os, 'scandir', refuse)
    with pytest.raises(PermissionError, match='deep'):
        find_images(folder)


# The loop


def arrays(count: int, *bad: int) -> list[np.ndarray]:
    """Images whose pixels are their index; bad ones are float."""
    return [np.full((4, 4, 3), index, np.float64 if index in bad else np.uint8) for index in range(count)]


class Values(Inferencer):
    """Gives the first pixel of every image, and remembers what it read and in which batches."""

    def __init__(self):
        super().__init__(torch.nn.Identity())
        self.batches: list[int] = []
        self.names: list[str] = []
        self.lock = threading.Lock()

    def prepare(self, image: np.ndarray, name: str) -> dict:
        with self.lock:
            self.names.append(name)
        return dict(inputs=torch.from_numpy(image))

    def compute(self, samples: list[dict]) -> list[dict]:
        self.batches.append(len(samples))
        return [dict(value=int(sample['inputs'].flatten()[0])) for sample in samples]


@pytest.mark.parametrize('batch_size, expected', [(1, [1] * 7), (3, [3, 1, 3]), (7, [4, 3]), (50, [4, 3])])
def test_batches_follow_the_order_of_the_images_and_a_change_of_shape_ends_one(batch_size, expected):
    values, images = Values(), [image[: 4 if index < 4 else 2] for index, image in enumerate(arrays(7))]
    results = values(images, batch_size)
    assert results == [dict(image=f'image_{index}', value=index) for index in range(7)]
    assert values.batches == expected and results.skipped == {}


def test_at_most_two_batches_are_read_ahead():
    values = Values()
    predictions = iter(values.each(arrays(100), 4))
    assert next(predictions)[1]['value'] == 0
    assert 4 <= len(values.names) <= 4 + 2 * 4
    predictions.close()
    assert len(values.names) <= 4 + 2 * 4


def test_bad_images_are_skipped_named_and_counted(monkeypatch):
    logged = []
    monkeypatch.setattr(inferencer, 'print_log', lambda text, **options: logged.append(text))
    results = Values()(arrays(6, 1, 4), 3)
    assert [result['value'] for result in results] == [0, 2, 3, 5]
    assert list(results.skipped) == ['image_1', 'image_4']
    assert results.skipped['image_1'] == 'it must be uint8 (H, W, 3), got float64 (4, 4, 3)'
    assert logged[0].startswith('2 of 6 images could not be read: image_1 (it must be uint8')
    predictions = Values().each(arrays(6, 1, 4))
    for _ in range(2):
        assert [image.name for image, _ in predictions] == ['image_0', 'image_2', 'image_3', 'image_5']
        assert len(predictions) == 6 and len(predictions.skipped) == 2
    with pytest.raises(BadImage, match=r'must be uint8 \(H, W, 3\), got float64'):
        Values()(arrays(1, 0))
    with pytest.raises(
        ValueError, match=r'none of 4 images could be read: image_0 \(.*\), image_1 .*, image_2 .*\.{3}$'
    ):
        Values()(arrays(4, 0, 1, 2, 3))


@pytest.mark.parametrize(
    'error, raised, message',
    [
        (ValueError('sides must be even'), ValueError, 'image_0: sides must be even'),
        (
            RuntimeError("can't allocate memory: 9 bytes"),
            OutOfMemory,
            r'2 images of \(4, 4, 3\), the first image_0: try',
        ),
        (RuntimeError('other'), RuntimeError, '^other$'),
        (ZeroDivisionError('ours'), ZeroDivisionError, '^ours$'),
    ],
)
def test_errors_of_the_model_name_the_image_or_say_what_to_change(error, raised, message, monkeypatch):
    def fail(self, *args):
        raise error

    monkeypatch.setattr(Values, 'compute', fail)
    with pytest.raises(raised, match=message):
        Values()(arrays(2))
    monkeypatch.setattr(Values, 'prepare', fail)
    with pytest.raises(type(error), match='^' + re.escape(str(error)) + '$'):
        Values()(arrays(2))


def test_images_keep_their_pixels_only_where_results_need_them(monkeypatch):
    assert [image.pixels for image, _ in Values().each(arrays(2))] == [None, None]
    monkeypatch.setattr(Values, 'keeps_pixels', True)
    assert [image.pixels[0, 0, 0] for image, _ in Values().each(arrays(2))] == [0, 1]


@pytest.mark.skipif(not hasattr(os, 'sched_getaffinity'), reason='the system knows no affinity')
def test_threads_are_counted_by_the_cpus_that_the_process_may_use(monkeypatch):
    made = []
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: {3})
    monkeypatch.setattr(inferencer, 'ThreadPoolExecutor', lambda count: made.append(count) or ThreadPoolExecutor(count))
    Values()(arrays(2))
    assert made == [1]
