"""Pre-training on a folder of images by one command: it chooses, writes configs, and trains by them."""

from .run import Pretraining, report, resume

__all__ = ['Pretraining', 'report', 'resume']
