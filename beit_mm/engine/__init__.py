"""Training parts: optimiser wrapper and groups, hooks, metrics, launching."""
from .annealing import AnnealHook
from .layer_decay import LayerDecayOptimWrapperConstructor
from .logger_hook import MainProcessLoggerHook
from .metrics import MaskedTokenAccuracy, TokenizerMetric
from .optim_wrapper import AutocastOptimWrapper
from .weights_check import CheckWeightsHook

__all__ = ['AnnealHook', 'AutocastOptimWrapper', 'CheckWeightsHook', 'LayerDecayOptimWrapperConstructor',
           'MainProcessLoggerHook', 'MaskedTokenAccuracy', 'TokenizerMetric']
