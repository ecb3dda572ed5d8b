"""Metrics."""

from .iou_metric import IoUMetric
from .metrics import LinearProbeAccuracy, MaskedTokenAccuracy, TokenizerMetric

__all__ = ['IoUMetric', 'LinearProbeAccuracy', 'MaskedTokenAccuracy', 'TokenizerMetric']
