"""Metrics."""

from .iou_metric import IoUMetric
from .linear_probe import LinearProbeAccuracy
from .metrics import MaskedTokenAccuracy, TokenizerMetric

__all__ = ['IoUMetric', 'LinearProbeAccuracy', 'MaskedTokenAccuracy', 'TokenizerMetric']
