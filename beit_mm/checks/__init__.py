"""The early check of a config: a small dry run, so that a mistake ends in one sentence at once."""

from .config_check import check_before_training, check_config, check_runner, ConfigMistakes
from .files import check_checkpoint, check_data
from .images import check_images
from .problems import Problem

__all__ = [
    'ConfigMistakes',
    'Problem',
    'check_before_training',
    'check_checkpoint',
    'check_config',
    'check_data',
    'check_images',
    'check_runner',
]
