"""The loop of all inference: order, batches, reading ahead, and images that cannot be read."""

import logging
import threading

import numpy as np
import pytest
import torch

from beit_mm.apis.predicting import collect, evaluation_pipeline, Predictions, ready_model
from beit_mm.datasets.bad_images import BadImage
from beit_mm.engine.runners.memory import OutOfMemory


def images(count: int, *bad: int) -> list:
    """Images whose pixels are their numbers; bad ones of float."""
    return [np.full((4, 4, 3), number, np.float64 if number in bad else np.uint8) for number in range(count)]


def prepare(image: np.ndarray, name: str) -> dict:
    return dict(inputs=torch.from_numpy(image))


def predictions(given, batch_size: int = 3, prepare=prepare, batches=None) -> Predictions:
    def compute(samples):
        if batches is not None:
            batches.append(len(samples))
        return [dict(value=int(sample['inputs'].flatten()[0])) for sample in samples]

    return Predictions(given, prepare, compute, batch_size, progress=True)


@pytest.mark.parametrize('batch_size, expected', [(1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (50, [7])])
def test_batches_in_the_order_of_the_images(batch_size, expected):
    batches = []
    found = collect(predictions(images(7), batch_size, batches=batches))
    assert found == [dict(image=f'image_{number}', value=number) for number in range(7)]
    assert batches == expected and found.skipped == {}


def test_a_change_of_shape_ends_a_batch():
    given, batches = images(5), []
    given[2] = given[2][:2]
    assert [one['value'] for one in collect(predictions(given, batches=batches))] == [0, 1, 2, 3, 4]
    assert batches == [2, 1, 2]


def test_two_batches_are_read_before_they_are_asked_for():
    lock, read = threading.Lock(), []

    def counting(image: np.ndarray, name: str) -> dict:
        with lock:
            read.append(name)
        return prepare(image, name)

    coming = iter(predictions(images(100), 4, counting))
    assert next(coming)[1]['value'] == 0
    assert 4 <= len(read) <= 4 + 2 * 4
    coming.close()
    assert len(read) <= 4 + 2 * 4


def test_bad_images_are_skipped_named_and_counted(caplog):
    with caplog.at_level(logging.WARNING):
        coming = predictions(images(6, 1, 4))
        found = collect(coming)
    assert [one['value'] for one in found] == [0, 2, 3, 5]
    assert list(found.skipped) == ['image_1', 'image_4'] and len(coming) == 6
    assert found.skipped['image_1'] == 'it must be uint8 (H, W, 3), got float64 (4, 4, 3)'
    assert [image.name for image, _ in coming] == ['image_0', 'image_2', 'image_3', 'image_5']  # once more


def test_a_bad_image_alone_and_bad_images_alone_are_errors():
    with pytest.raises(BadImage, match=r'must be uint8 \(H, W, 3\), got float64'):
        collect(predictions(images(1, 0)))
    with pytest.raises(
        ValueError,
        match=r'none of 4 images could be read: image_0 \(it must be .*\), image_1 .*, '
        r'image_2 .*, \.\.\.$',
    ):
        collect(predictions(images(4, 0, 1, 2, 3)))


def test_what_a_model_refuses_is_named():
    def refuse(samples):
        raise ValueError('sides must be even')

    with pytest.raises(ValueError, match='image_0: sides must be even'):
        collect(Predictions(images(2), prepare, refuse, 2, True))
    with pytest.raises(ValueError, match='batch_size must be at least 1, got 0'):
        predictions(images(2), 0)


def test_other_errors_of_reading_are_not_skipped():
    def fail(image: np.ndarray, name: str) -> dict:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        collect(predictions(images(2), prepare=fail))


def test_weights_are_needed_once(classifier):
    with pytest.raises(ValueError, match='weights must name a checkpoint for ImageClassifier, got none'):
        ready_model(classifier.model, None, 'cpu', {**classifier.options, 'model.backbone.init_cfg': None})
    with pytest.raises(ValueError, match='a loaded Linear goes as it is, got weights and device beside it'):
        ready_model(torch.nn.Linear(1, 1), 'weights.pth', 'cpu', None)


def test_weights_that_the_config_names_for_the_whole_model_must_hold_its_head(classifier, tmp_path):
    start = dict(type='Pretrained', checkpoint=str(classifier.weights))
    options = {**classifier.options, 'model.backbone.init_cfg': None, 'model.init_cfg': start}
    loaded, expected = ready_model(classifier.model, None, 'cpu', options), classifier.load()
    assert all(map(torch.equal, loaded.state_dict().values(), expected.state_dict().values()))
    trunk = {name: tensor for name, tensor in expected.state_dict().items() if not name.startswith('head.')}
    torch.save(trunk, tmp_path / 'trunk.pth')
    start['checkpoint'] = str(tmp_path / 'trunk.pth')
    with pytest.raises(ValueError, match=r'trunk\.pth: .* head \(head\.fc\.weight is missing\)'):
        ready_model(classifier.model, None, 'cpu', options)


@pytest.mark.parametrize(
    'count, advice',
    [
        (2, r'2 images of \(4, 4, 3\) were too many, try a smaller batch_size'),
        (1, r'one image of \(4, 4, 3\), image_0, was too much'),
    ],
)
def test_too_little_memory_of_the_cpu_says_what_to_change(count, advice):
    def fail(samples):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    with pytest.raises(OutOfMemory, match=f"can't allocate memory.*; {advice}"):
        collect(Predictions(images(count), prepare, fail, 2, True))


def test_of_joined_data_sets_the_first_says_how_images_are_tested(classifier):
    model = classifier.load()
    dataset = model.cfg.test_dataloader.dataset
    image = np.zeros((50, 70, 3), np.uint8)
    expected = evaluation_pipeline(model)(image, 'a')['inputs']
    model.cfg.test_dataloader.dataset = dict(
        type='ConcatDataset', datasets=[dict(type='RepeatDataset', times=2, dataset=dataset), dict(type='ImageNet')]
    )
    assert torch.equal(evaluation_pipeline(model)(image, 'a')['inputs'], expected)
    model.cfg.test_dataloader.dataset = dict(type='ImageNet')
    with pytest.raises(ValueError, match='must test on a dataset with a pipeline, got none'):
        evaluation_pipeline(model)
