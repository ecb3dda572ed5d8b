"""Classification by the nearest neighbours in a space of features."""

import torch
from torch import Tensor

MAX_SIMILARITIES = 2**24  # that are held at once: 64 MiB in float32


def predict_by_neighbours(
    features: Tensor, train_features: Tensor, train_labels: Tensor, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """Classes by weighted nearest neighbours (arXiv 1805.01978, section 3.4; k = 20 as in DINO, arXiv 2104.14294).

    Each of the k nearest training images votes for its class with weight exp(cosine similarity / temperature).

    Args:
        features, train_features: (N, C) and (M, C), each of length 1.
        train_labels: int64 (M,).
        k: number of neighbours, at most M.
        temperature: of the weights.

    Returns:
        int64 (N,).
    """
    predicted = []
    for part in features.split(max(1, MAX_SIMILARITIES // len(train_features))):
        similarities, neighbours = (part @ train_features.t()).topk(k, dim=1)
        # A softmax only scales the weights of an image, and no temperature overflows.
        weights = (similarities / temperature).softmax(dim=1)
        votes = weights.new_zeros(len(part), int(train_labels.max()) + 1)
        predicted.append(votes.scatter_add_(1, train_labels[neighbours], weights).argmax(dim=1))
    return torch.cat(predicted)
