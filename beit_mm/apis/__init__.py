"""Inference from Python: models by name or config, weights by path."""
from .models import list_models, load_model

__all__ = ['list_models', 'load_model']
