"""Metrics count what they promise, IoU is the host's, and votes of neighbours are scikit-learn's."""

import math

import numpy as np
import pytest
import torch
from mmengine.registry import METRICS
from mmseg.evaluation import IoUMetric as HostIoUMetric
from PIL import Image
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import functional as F

from beit_mm.errors import UserError
from beit_mm.evaluation import IoUMetric, metrics
from beit_mm.evaluation.metrics import rank_me
from beit_mm.models.decode_heads import neighbours_head


def perplexity(*shares: float) -> float:
    return math.exp(-sum(share * math.log(share) for share in shares))


def test_masked_token_accuracy_counts_patches_of_all_images_together():
    metric = METRICS.build(dict(type='beit_mm.MaskedTokenAccuracy'))
    tokens = [([3, 1, 1], [3, 1, 0]), ([1], [1]), ([2, 2, 2, 2], [1, 1, 0, 3])]
    samples = [dict(predicted=torch.tensor(predicted), target=torch.tensor(target)) for predicted, target in tokens]
    metric.process({}, samples[:1])
    metric.process({}, samples[1:])
    assert metric.evaluate(size=3) == pytest.approx(
        {
            'masked_token/accuracy': 100 * 3 / 8,
            'masked_token/most_frequent': 100 * 4 / 8,
            'masked_token/target_perplexity': perplexity(2 / 8, 4 / 8, 2 / 8),
        }
    )
    # Samples repeated to fill the last batch do not count.
    metric.process({}, [dict(predicted=torch.tensor([1]), target=torch.tensor([target])) for target in (1, 0, 0)])
    assert metric.evaluate(size=2)['masked_token/accuracy'] == 50


def test_tokenizer_metric_averages_errors_and_joins_the_codes_of_all_images():
    metric = METRICS.build(dict(type='beit_mm.TokenizerMetric', vocab_size=8))
    metric.process({}, [dict(tokens=torch.tensor([[0, 0], [1, 2]]), squared_error=torch.tensor(0.03))])
    metric.process({}, [dict(tokens=torch.tensor([[0, 0], [1, 1]]), squared_error=torch.tensor(0.01))])
    assert metric.evaluate(size=2) == pytest.approx(
        {
            'tokenizer/psnr': 10 * math.log10(1 / 0.02),
            'tokenizer/used_codes': 100 * 3 / 8,
            'tokenizer/perplexity': perplexity(4 / 8, 3 / 8, 1 / 8),
        },
        rel=1e-5,
    )


def test_tokenizer_metric_averages_distances_to_a_teacher():
    metric = METRICS.build(dict(type='beit_mm.TokenizerMetric', vocab_size=4))
    metric.process({}, [dict(tokens=torch.tensor([[0]]), teacher_distance=torch.tensor(each)) for each in (0.5, 0.25)])
    expected = {'tokenizer/teacher_distance': 0.375, 'tokenizer/used_codes': 25, 'tokenizer/perplexity': 1}
    assert metric.evaluate(size=2) == pytest.approx(expected)


def score(cls, labels, predicted, path='nowhere.png', **more) -> dict:
    metric = cls(iou_metrics=['mIoU'])
    metric.dataset_meta = dict(classes=['a', 'b', 'c', 'd'])
    maps = dict(gt_sem_seg=labels, pred_sem_seg=predicted)
    maps = {key: dict(data=torch.as_tensor(values)[None]) for key, values in maps.items()}
    metric.process({}, [dict(maps, img_path='a.jpg', seg_map_path=str(path), **more)])
    return metric.compute_metrics(metric.results)


def test_iou_is_the_hosts(tmp_path):
    labels, predicted = np.random.default_rng(0).integers(0, 4, (2, 8, 9))
    labels[0] = 255
    Image.fromarray(labels.astype(np.uint8)).save(tmp_path / 'a.png')
    assert score(IoUMetric, labels, predicted, tmp_path / 'a.png') == score(HostIoUMetric, labels, predicted)


@pytest.mark.parametrize(
    'labels, reduces, words',
    [
        ([[0, 7], [255, 4]], False, 'labels 0 to 3 (reduce_zero_label=False) or 255, got 7'),
        ([[0, 7], [255, 4]], True, 'labels 1 to 4 (reduce_zero_label=True) or 255, got 8'),
        ([[0] * 3] * 2, False, 'the size of its image, 2 x 2, got 2 x 3'),
    ],
)
def test_label_maps_that_do_not_fit_are_named(labels, reduces, words):
    with pytest.raises(ValueError) as raised:
        score(IoUMetric, labels, [[0, 0], [0, 0]], reduce_zero_label=reduces)
    assert str(raised.value).startswith(f'nowhere.png must have {words}')


@pytest.mark.parametrize(
    'picture, words',
    [
        (np.full((2, 2), 256, np.uint16), 'use beit_mm.LoadAnnotations in this pipeline'),
        (np.zeros((2, 2, 3), np.uint8), 'colours'),
    ],
)
def test_pictures_that_are_no_label_maps_are_named(tmp_path, picture, words):
    """MMSegmentation's step has cut 16 bits to 8 by then: 256 to 0."""
    Image.fromarray(picture).save(tmp_path / 'a.png')
    with pytest.raises(ValueError, match=f'{tmp_path}/a.png must be a picture with one 8-bit label.*{words}'):
        score(IoUMetric, np.zeros((2, 2), int), np.zeros((2, 2), int), tmp_path / 'a.png')


def test_label_maps_that_another_step_loads_wrongly_are_named(tmp_path):
    """OpenCV makes 0 and 255 of a single bit; more than 255 classes need 16 bits, read and written."""
    bits, path = np.eye(2, dtype=bool), tmp_path / 'a.png'
    Image.fromarray(bits).save(path)
    assert score(IoUMetric, bits.astype(int), np.eye(2, dtype=int), path)['aAcc'] == 100
    with pytest.raises(ValueError, match='a.png must be .* use beit_mm.LoadAnnotations'):
        score(IoUMetric, np.where(bits, 255, 0), np.eye(2, dtype=int), path)
    labels = np.array([[0, 299], [65535, 256]])
    Image.fromarray(labels.astype(np.uint16)).save(path)
    metric = IoUMetric(iou_metrics=['mIoU'], ignore_index=65535, output_dir=str(tmp_path / 'out'))
    metric.dataset_meta = dict(classes=list(map(str, range(300))))
    sample = dict(img_path='b.jpg', seg_map_path=str(path), gt_sem_seg=dict(data=torch.from_numpy(labels)[None]))
    predicted = torch.tensor([[[0, 299], [7, 8]]])
    metric.process({}, [dict(sample, pred_sem_seg=dict(data=predicted))])
    assert metric.compute_metrics(metric.results)['aAcc'] == pytest.approx(66.67)
    with Image.open(tmp_path / 'out' / 'b.png') as written:
        assert np.array_equal(np.asarray(written), predicted[0])


def test_written_label_maps_of_one_name_keep_their_folders(tmp_path):
    class Images(list):
        get_data_info = list.__getitem__

    samples = [
        dict(img_path=f'data/{folder}/1.jpg', pred_sem_seg=dict(data=torch.full((1, 2, 2), label)))
        for label, folder in enumerate('ab')
    ]
    metric = IoUMetric(format_only=True, output_dir=str(tmp_path))
    metric.dataset_meta = dict(classes=['x', 'y'])
    with pytest.raises(UserError, match='data/b/1.jpg and data/a/1.jpg have one name'):
        metric.process({}, samples)
    metric.keep_folders(Images(samples))
    metric.process({}, samples)
    assert [int(np.asarray(Image.open(tmp_path / folder / '1.png'))[0, 0]) for folder in 'ab'] == [0, 1]


@pytest.mark.parametrize('reduces', [False, True])
def test_written_label_maps_have_the_colours_of_the_data_set(tmp_path, reduces):
    """With reduce_zero_label the numbers are those of the annotations, in which 0 is no class; it is black."""
    labels, palette = np.random.default_rng(0).integers(0, 4, (8, 9)), [[1, 2, 3], [4, 5, 6], [7, 8, 9], [255, 0, 9]]
    metric = IoUMetric(format_only=True, output_dir=str(tmp_path))
    metric.dataset_meta = dict(classes=['a', 'b', 'c', 'd'], palette=palette)
    prediction = dict(data=torch.from_numpy(labels)[None])
    metric.process({}, [dict(img_path='a.jpg', pred_sem_seg=prediction, reduce_zero_label=reduces)])
    with Image.open(tmp_path / 'a.png') as written:
        assert np.array_equal(np.asarray(written), labels + reduces)
        assert np.array_equal(np.asarray(written.convert('RGB')), np.array(palette)[labels])
        assert written.getpalette()[:3] == ([0, 0, 0] if reduces else palette[0])


@pytest.mark.parametrize('k, temperature', [(20, 0.07), (1, 0.07), (200, 0.07), (20, 1.0), (300, 1e-3)])
@pytest.mark.parametrize('limit', [neighbours_head.MAX_SIMILARITIES, 700])
def test_votes_are_scikit_learns(k, temperature, limit, monkeypatch):
    """Of features of length 1 in overlapping clusters, with no more similarities at once than allowed."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(7, 16, generator=generator)
    labels = torch.randint(7, (400,), generator=generator)
    features = F.normalize(centres[labels] + 1.5 * torch.randn(400, 16, generator=generator), dim=1)
    peer = KNeighborsClassifier(
        k, metric='cosine', weights=lambda distances: np.exp(-distances / temperature)
    )  # a distance is 1 less the similarity
    expected = torch.from_numpy(peer.fit(features[:300].double(), labels[:300]).predict(features[300:].double()))
    held, topk = [], torch.Tensor.topk
    monkeypatch.setattr(neighbours_head, 'MAX_SIMILARITIES', limit)
    monkeypatch.setattr(torch.Tensor, 'topk', lambda self, *a, **kw: held.append(self.shape) or topk(self, *a, **kw))
    found = metrics.predict_by_neighbours(features[300:], features[:300], labels[:300], k, temperature)
    assert torch.equal(found, expected) and 0.4 < (found == labels[300:]).double().mean() < 1
    assert held == ([(2, 300)] * 50 if limit == 700 else [(100, 300)])


def test_rank_is_the_number_of_directions():
    assert rank_me(5 * torch.eye(40)[:8]) == pytest.approx(8)
    assert rank_me(torch.ones(30, 1) @ torch.rand(1, 16)) == pytest.approx(1)
    values = torch.tensor([3.0, 1.0])  # shares of 3/4 and 1/4
    assert rank_me(torch.diag(values)) == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))


def test_regression_is_scikit_learns_ridge_of_one_hot_labels():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (300,), generator=generator)
    features = torch.randn(300, 8, generator=generator) + 2 * F.one_hot(labels, 8) + 5
    train, mean, std = features[:200], features[:200].mean(dim=0), features[:200].std(dim=0)
    expected = Ridge(alpha=0.1 * 200).fit(((train - mean) / std).numpy(), F.one_hot(labels[:200]).numpy())
    expected = expected.predict(((features[200:] - mean) / std).numpy()).argmax(axis=1)
    found = metrics.predict_by_regression(features[200:], train, labels[:200], penalty=0.1)
    assert found.tolist() == expected.tolist() and (found == labels[200:]).double().mean() > 0.6
