"""Votes of the nearest neighbours are scikit-learn's, and what is compared is read from any form of output."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import functional as F

from beit_mm.engine.hooks import knn_hook
from beit_mm.engine.hooks.knn_hook import evenly_spaced, pool, predict_by_neighbours


@pytest.fixture(scope='module')
def clusters():
    """Features (N, C) of length 1 and classes (N,), for training and validation; the classes overlap."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(7, 16, generator=generator)
    labels = torch.randint(7, (400,), generator=generator)
    features = F.normalize(centres[labels] + 1.5 * torch.randn(400, 16, generator=generator), dim=1)
    return features[:300], labels[:300], features[300:], labels[300:]


@pytest.mark.parametrize('k, temperature', [(20, 0.07), (1, 0.07), (200, 0.07), (20, 1.0), (300, 1e-3)])
@pytest.mark.parametrize('limit', [knn_hook.MAX_SIMILARITIES, 700])
def test_votes_are_scikit_learns(clusters, k, temperature, limit, monkeypatch):
    monkeypatch.setattr(knn_hook, 'MAX_SIMILARITIES', limit)
    train_features, train_labels, features, labels = clusters

    def weights(distances):
        return np.exp(-distances / temperature)  # a distance is 1 less the similarity

    peer = KNeighborsClassifier(k, metric='cosine', weights=weights).fit(train_features.double(), train_labels)
    expected = torch.from_numpy(peer.predict(features.double()))
    found = predict_by_neighbours(features, train_features, train_labels, k, temperature)
    assert torch.equal(found, expected)
    assert 0.4 < (found == labels).double().mean() < 1


def test_no_more_similarities_are_held_than_allowed(clusters, monkeypatch):
    train_features, train_labels, features, _ = clusters
    monkeypatch.setattr(knn_hook, 'MAX_SIMILARITIES', 700)
    held, topk = [], torch.Tensor.topk
    monkeypatch.setattr(
        torch.Tensor, 'topk', lambda self, *args, **kwargs: held.append(self.shape) or topk(self, *args, **kwargs)
    )
    predict_by_neighbours(features, train_features, train_labels)
    assert held == [(2, 300)] * 50


def test_features_of_every_form_of_output():
    tokens = torch.randn(2, 7, 4)
    class_token, mean = tokens[:, 0], tokens[:, 1:].mean(dim=1)
    torch.testing.assert_close(pool(tokens, 'mean'), mean)
    torch.testing.assert_close(pool(tokens, 'cls_token'), class_token)
    torch.testing.assert_close(pool(tokens[:, 1:].transpose(1, 2).unflatten(2, (2, 3)), 'mean'), mean)
    assert pool(mean, 'mean') is mean and pool(class_token, 'cls_token') is class_token


def test_images_are_evenly_spaced():
    assert evenly_spaced(10, 4) == [0, 2, 5, 7]
    assert evenly_spaced(3, 5) == [0, 1, 2]
    numbers = evenly_spaced(1_281_167, 10_000)
    assert len(set(numbers)) == 10_000 and {b - a for a, b in zip(numbers, numbers[1:])} == {128, 129}
