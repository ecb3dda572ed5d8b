"""Inference from Python: models by name or config, weights by path.

A function for each task takes a model and images. An inferencer loads its model once and serves many calls; its method
`each` gives results one by one.
"""

from functools import partial

from .images import Images
from .inferencer import Inferencer, Predictions, Results
from .inferencers import ClassificationInferencer, FeatureInferencer, SegmentationInferencer
from .models import list_models, load_model, Model
from .reconstruction import ReconstructionInferencer

__all__ = [
    'ClassificationInferencer',
    'FeatureInferencer',
    'Inferencer',
    'Predictions',
    'ReconstructionInferencer',
    'Results',
    'SegmentationInferencer',
    'classify',
    'extract_features',
    'list_models',
    'load_model',
    'reconstruct',
    'segment',
]


def classify(model: Model, images: Images, weights: str | None = None, **options) -> Results:
    """Classify images. Options are those of ClassificationInferencer, `batch_size` and `progress`."""
    return _each(ClassificationInferencer, model, images, weights, **options).collect()


def segment(model: Model, images: Images, weights: str | None = None, **options) -> Results:
    """Segment images. Options are those of SegmentationInferencer, `batch_size` and `progress`."""
    return _each(SegmentationInferencer, model, images, weights, **options).collect()


def extract_features(model: Model, images: Images, weights: str | None = None, **options) -> Results:
    """Extract features of images. Options are those of FeatureInferencer, `batch_size` and `progress`."""
    return _each(FeatureInferencer, model, images, weights, **options).collect()


def reconstruct(model: Model, images: Images, weights: str | None = None, **options) -> Results:
    """Reconstruct masked patches. Options are those of ReconstructionInferencer, `batch_size` and `progress`."""
    return _each(ReconstructionInferencer, model, images, weights, **options).collect()


def _each(inferencer, model, images, weights=None, batch_size=None, progress=True, **options) -> Predictions:
    return inferencer(model, weights, **options).each(images, batch_size, progress)


# Names of version 0.1 for `SomeInferencer(model, ...).each(images, ...)`.
classify_each = partial(_each, ClassificationInferencer)
segment_each = partial(_each, SegmentationInferencer)
extract_features_each = partial(_each, FeatureInferencer)
reconstruct_each = partial(_each, ReconstructionInferencer)
