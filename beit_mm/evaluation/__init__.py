"""Metrics."""

from .metrics import IoUMetric, LinearProbeAccuracy, MaskedTokenAccuracy, TokenizerMetric

__all__ = ['IoUMetric', 'LinearProbeAccuracy', 'MaskedTokenAccuracy', 'TokenizerMetric']
