"""Votes of the nearest neighbours equal those of scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import functional as F

from beit_mm.evaluation import nearest_neighbours
from beit_mm.evaluation.nearest_neighbours import predict_by_neighbours


@pytest.fixture(scope='module')
def clusters():
    """Features (N, C) of length 1 and classes (N,), for training and validation; the classes overlap."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(7, 16, generator=generator)
    labels = torch.randint(7, (400,), generator=generator)
    features = F.normalize(centres[labels] + 1.5 * torch.randn(400, 16, generator=generator), dim=1)
    return features[:300], labels[:300], features[300:], labels[300:]


@pytest.mark.parametrize('k, temperature', [(20, 0.07), (1, 0.07), (200, 0.07), (20, 1.0), (300, 1e-3)])
@pytest.mark.parametrize('limit', [nearest_neighbours.MAX_SIMILARITIES, 700])
def test_votes_are_scikit_learns(clusters, k, temperature, limit, monkeypatch):
    monkeypatch.setattr(nearest_neighbours, 'MAX_SIMILARITIES', limit)
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
    monkeypatch.setattr(nearest_neighbours, 'MAX_SIMILARITIES', 700)
    held, topk = [], torch.Tensor.topk
    monkeypatch.setattr(
        torch.Tensor, 'topk', lambda self, *args, **kwargs: held.append(self.shape) or topk(self, *args, **kwargs)
    )
    predict_by_neighbours(features, train_features, train_labels)
    assert held == [(2, 300)] * 50
