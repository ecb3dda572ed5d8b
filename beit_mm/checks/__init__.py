"""Checks of a config before anything is built, so that a mistake ends in one sentence at once."""

from .config_check import check_before_training, check_command, check_config, ConfigMistakes
from .files import check_checkpoint, check_checkpoints, check_data, starting_points
from .problems import Problem

__all__ = [
    'ConfigMistakes',
    'Problem',
    'check_before_training',
    'check_checkpoint',
    'check_checkpoints',
    'check_command',
    'check_config',
    'check_data',
    'starting_points',
]
