"""Inference from Python: models by name or config, weights by path."""

from .classification import classify, classify_each
from .features import extract_features, extract_features_each
from .models import list_models, load_model
from .reconstruction import reconstruct, reconstruct_each
from .segmentation import segment, segment_each

__all__ = [
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
