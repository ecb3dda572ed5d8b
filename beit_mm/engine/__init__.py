"""Training parts: optimiser wrapper and groups, hooks, metrics, launching."""
from .annealing import AnnealHook
from .layer_decay import LayerDecayOptimWrapperConstructor
from .logger_hook import MainProcessLoggerHook
from .metrics import MaskedTokenAccuracy, TokenizerMetric
from .optim_wrapper import AutocastOptimWrapper

__all__ = ['AnnealHook', 'AutocastOptimWrapper', 'LayerDecayOptimWrapperConstructor', 'MainProcessLoggerHook',
           'MaskedTokenAccuracy', 'TokenizerMetric']
