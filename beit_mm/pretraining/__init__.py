"""Pre-training on a folder of images by one command: it chooses, writes configs, and trains by them."""

from .run import Pretraining, resume

__all__ = ['Pretraining', 'resume']
