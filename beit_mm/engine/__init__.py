"""Training parts: optimiser wrapper and groups, hooks, metrics, launching."""
from .annealing import AnnealHook
from .checkpoint_hook import VerifiedCheckpointHook
from .deferred_logging import DeferredRuntimeInfoHook
from .fully_sharded import FullyShardedStrategy
from .knn_hook import KNNHook
from .layer_decay import LayerDecayOptimWrapperConstructor
from .linear_probe import LinearProbeAccuracy, TrainableOptimWrapperConstructor
from .logger_hook import MainProcessLoggerHook
from .loops import EpochTrainLoop, IterTrainLoop
from .metrics import MaskedTokenAccuracy, TokenizerMetric
from .optim_wrapper import AutocastOptimWrapper
from .pictures_hook import PicturesHook
from .report_hook import ReportHook
from .segmentation_metric import IoUMetric
from .stop_hook import StopOnSignalHook
from .weights_check import CheckWeightsHook

__all__ = ['AnnealHook', 'AutocastOptimWrapper', 'CheckWeightsHook', 'DeferredRuntimeInfoHook', 'EpochTrainLoop',
           'FullyShardedStrategy', 'IoUMetric', 'IterTrainLoop', 'KNNHook', 'LayerDecayOptimWrapperConstructor',
           'LinearProbeAccuracy', 'MainProcessLoggerHook', 'MaskedTokenAccuracy', 'PicturesHook', 'ReportHook',
           'StopOnSignalHook', 'TokenizerMetric', 'TrainableOptimWrapperConstructor', 'VerifiedCheckpointHook']
