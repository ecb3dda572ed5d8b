"""The loop of all inference: order, batches, reading ahead, and images that cannot be read."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from beit_mm.apis import Inferencer, inferencer
from beit_mm.datasets.bad_images import BadImage
from beit_mm.errors import OutOfMemory


def images(count: int, *bad: int) -> list:
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


@pytest.mark.parametrize('batch_size, expected', [(1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (50, [7])])
def test_batches_follow_the_order_of_the_images(batch_size, expected):
    values = Values()
    results = values(images(7), batch_size)
    assert results == [dict(image=f'image_{index}', value=index) for index in range(7)]
    assert values.batches == expected and results.skipped == {}


def test_a_change_of_shape_ends_a_batch():
    values, given = Values(), images(5)
    given[2] = given[2][:2]
    assert [result['value'] for result in values(given, 3)] == [0, 1, 2, 3, 4]
    assert values.batches == [2, 1, 2]


def test_at_most_two_batches_are_read_ahead():
    values = Values()
    predictions = iter(values.each(images(100), 4))
    assert next(predictions)[1]['value'] == 0
    assert 4 <= len(values.names) <= 4 + 2 * 4
    predictions.close()
    assert len(values.names) <= 4 + 2 * 4


def test_bad_images_are_skipped_named_and_counted(monkeypatch):
    logged = []
    monkeypatch.setattr(inferencer, 'print_log', lambda text, **options: logged.append(text))
    results = Values()(images(6, 1, 4), 3)
    assert [result['value'] for result in results] == [0, 2, 3, 5]
    assert list(results.skipped) == ['image_1', 'image_4']
    assert results.skipped['image_1'] == 'it must be uint8 (H, W, 3), got float64 (4, 4, 3)'
    assert logged[0].startswith('2 of 6 images could not be read: image_1 (it must be uint8')
    predictions = Values().each(images(6, 1, 4))
    for _ in range(2):
        assert [image.name for image, _ in predictions] == ['image_0', 'image_2', 'image_3', 'image_5']
        assert len(predictions) == 6 and len(predictions.skipped) == 2


def test_it_is_an_error_if_no_image_can_be_read():
    with pytest.raises(BadImage, match=r'must be uint8 \(H, W, 3\), got float64'):
        Values()(images(1, 0))
    with pytest.raises(
        ValueError, match=r'none of 4 images could be read: image_0 \(it must be .*\), image_1 .*, image_2 .*, \.\.\.$'
    ):
        Values()(images(4, 0, 1, 2, 3))


@pytest.mark.parametrize(
    'count, error, raised, message',
    [
        (2, ValueError('sides must be even'), ValueError, 'image_0: sides must be even'),
        (
            2,
            RuntimeError("can't allocate memory: 9 bytes"),
            OutOfMemory,
            r'2 images of \(4, 4, 3\), the first image_0: try',
        ),
        (2, RuntimeError('other'), RuntimeError, '^other$'),
        (2, ZeroDivisionError('ours'), ZeroDivisionError, '^ours$'),
    ],
)
def test_errors_of_the_model_name_the_image_or_say_what_to_change(count, error, raised, message, monkeypatch):
    def fail(self, samples):
        raise error

    monkeypatch.setattr(Values, 'compute', fail)
    with pytest.raises(raised, match=message):
        Values()(images(count))


def test_other_errors_of_reading_are_raised(monkeypatch):
    def fail(self, image, name):
        raise ZeroDivisionError

    monkeypatch.setattr(Values, 'prepare', fail)
    with pytest.raises(ZeroDivisionError):
        Values()(images(2))


def test_images_keep_their_pixels_only_where_results_need_them(monkeypatch):
    assert [image.pixels for image, _ in Values().each(images(2))] == [None, None]
    monkeypatch.setattr(Values, 'keeps_pixels', True)
    assert [image.pixels[0, 0, 0] for image, _ in Values().each(images(2))] == [0, 1]


@pytest.mark.skipif(not hasattr(os, 'sched_getaffinity'), reason='the system knows no affinity')
def test_threads_are_counted_by_the_cpus_that_the_process_may_use(monkeypatch):
    made = []
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: {3})
    monkeypatch.setattr(inferencer, 'ThreadPoolExecutor', lambda count: made.append(count) or ThreadPoolExecutor(count))
    Values()(images(2))
    assert made == [1]
