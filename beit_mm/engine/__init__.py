"""Training: hooks, optimizer wrapper and parameter groups, loops, launching."""

import warnings

from beit_mm import evaluation

from .hooks.anneal_hook import AnnealHook
from .hooks.check_weights_hook import CheckWeightsHook
from .hooks.checkpoint_hook import VerifiedCheckpointHook
from .hooks.logging_hooks import DeferredRuntimeInfoHook, MainProcessLoggerHook
from .hooks.machine_hook import MachineHook
from .hooks.monitoring_hooks import CollapseHook, KNNHook, PicturesHook
from .hooks.report_hook import ReportHook
from .hooks.stop_hook import StopOnSignalHook
from .hooks.visualization_hooks import SegVisualizationHook, VisualizationHook
from .hooks.watchdog_hook import WatchdogHook
from .optimizers.autocast_wrapper import AutocastOptimWrapper
from .optimizers.constructors import LayerDecayOptimWrapperConstructor, TrainableOptimWrapperConstructor
from .runners.fully_sharded import FullyShardedStrategy
from .runners.loops import EpochTrainLoop, IterTrainLoop

__all__ = [
    'AnnealHook',
    'AutocastOptimWrapper',
    'CheckWeightsHook',
    'CollapseHook',
    'DeferredRuntimeInfoHook',
    'EpochTrainLoop',
    'FullyShardedStrategy',
    'IterTrainLoop',
    'KNNHook',
    'LayerDecayOptimWrapperConstructor',
    'MachineHook',
    'MainProcessLoggerHook',
    'PicturesHook',
    'ReportHook',
    'SegVisualizationHook',
    'StopOnSignalHook',
    'TrainableOptimWrapperConstructor',
    'VerifiedCheckpointHook',
    'VisualizationHook',
    'WatchdogHook',
]


def __getattr__(name: str):
    """Metrics are in beit_mm.evaluation; their old address works until the next release."""
    if name not in ('IoUMetric', 'LinearProbeAccuracy', 'MaskedTokenAccuracy', 'TokenizerMetric'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    warnings.warn(f'{name} has moved to beit_mm.evaluation', DeprecationWarning, stacklevel=2)
    return getattr(evaluation, name)
