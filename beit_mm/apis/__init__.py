"""Inference from Python: models by name or config, weights by path.

A function for each task takes a model and images. An inferencer loads its model once and serves many calls; its method
`each` gives results one by one.
"""

from .inferencer import Inferencer, Predictions, Results
from .inferencers import (
    ClassificationInferencer,
    classify,
    extract_features,
    FeatureInferencer,
    segment,
    SegmentationInferencer,
)
from .models import list_models, load_model
from .reconstruction import reconstruct, ReconstructionInferencer

__all__ = [
    'ClassificationInferencer',
    'FeatureInferencer',
    'Inferencer',
    'Predictions',
    'ReconstructionInferencer',
    'Results',
    'SegmentationInferencer',
    'classify',
    'classify_each',
    'extract_features',
    'extract_features_each',
    'list_models',
    'load_model',
    'reconstruct',
    'reconstruct_each',
    'segment',
    'segment_each',
]


def _one_by_one(inferencer: type[Inferencer]):
    """The function that version 0.1 had for `SomeInferencer(model, ...).each(images, ...)`."""

    def each(model, images, batch_size: int | None = None, progress: bool = True, **choices) -> Predictions:
        return inferencer(model, **choices).each(images, batch_size, progress)

    return each


classify_each = _one_by_one(ClassificationInferencer)
segment_each = _one_by_one(SegmentationInferencer)
extract_features_each = _one_by_one(FeatureInferencer)
reconstruct_each = _one_by_one(ReconstructionInferencer)
