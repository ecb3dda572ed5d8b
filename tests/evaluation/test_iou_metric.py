"""IoU is the host's, and no label map that does not fit is counted."""

import numpy as np
import pytest
import torch
from mmseg.evaluation import IoUMetric as HostIoUMetric
from PIL import Image

from beit_mm.evaluation import IoUMetric

CLASSES = ['a', 'b', 'c', 'd']


def sample(labels, predicted, path='nowhere.png', **more) -> dict:
    return dict(
        gt_sem_seg=dict(data=torch.as_tensor(labels)[None]),
        img_path='a.jpg',
        seg_map_path=str(path),
        pred_sem_seg=dict(data=torch.as_tensor(predicted)[None]),
        **more,
    )


def score(cls, samples: list) -> dict:
    metric = cls(iou_metrics=['mIoU'])
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process({}, samples)
    return metric.compute_metrics(metric.results)


def test_the_score_is_the_hosts(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (8, 9))
    labels[0] = 255
    Image.fromarray(labels.astype(np.uint8)).save(tmp_path / 'a.png')
    samples = [sample(labels, rng.integers(0, 4, (8, 9)), tmp_path / 'a.png')]
    assert score(IoUMetric, samples) == score(HostIoUMetric, samples)


@pytest.mark.parametrize(
    'reduces, words',
    [
        (False, 'nowhere.png must have labels 0 to 3 (reduce_zero_label=False) or 255, got 7'),
        (True, 'nowhere.png must have labels 1 to 4 (reduce_zero_label=True) or 255, got 8'),
    ],
)
def test_labels_that_are_no_class_are_named(reduces, words):
    with pytest.raises(ValueError) as raised:
        score(IoUMetric, [sample([[0, 7], [255, 4]], [[0, 0], [0, 0]], reduce_zero_label=reduces)])
    assert words in str(raised.value)


def test_maps_of_another_size_are_named():
    with pytest.raises(ValueError, match='nowhere.png must have the size of its image, 2 x 2, got 2 x 3'):
        score(IoUMetric, [sample([[0] * 3] * 2, [[0, 0], [0, 0]])])


@pytest.mark.parametrize(
    'picture, words',
    [(np.full((2, 2), 256, np.uint16), '16 or 32 bits per pixel'), (np.zeros((2, 2, 3), np.uint8), 'colours')],
)
def test_maps_of_another_kind_are_named(tmp_path, picture, words):
    """MMSegmentation's step has cut 16 bits to 8 by then: 256 to 0."""
    Image.fromarray(picture).save(tmp_path / 'a.png')
    with pytest.raises(ValueError, match=f'{tmp_path}/a.png must be a picture with one 8-bit label.*{words}'):
        score(IoUMetric, [sample(np.zeros((2, 2), int), np.zeros((2, 2), int), tmp_path / 'a.png')])
