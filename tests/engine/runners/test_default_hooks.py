"""A default hook that is None is left out, ours as MMEngine's."""

from argparse import Namespace
from pathlib import Path

from mmengine.hooks import IterTimerHook
from mmengine.runner import Runner
from support import CONFIGS
from torch import nn

from beit_mm.engine import PicturesHook, ReportHook
from beit_mm.engine.runners import launch

CONFIG = CONFIGS / 'demo' / 'finetune.py'


def hooks_of(work_dir: Path, **options) -> set:
    """The kinds of hooks that a runner has under a recipe's default_hooks with these options."""
    cfg = launch._load_config(
        Namespace(config=str(CONFIG), cfg_options=options, work_dir=str(work_dir), launcher='none')
    )
    runner = Runner(
        nn.Linear(1, 1),
        str(work_dir),
        default_hooks=cfg.default_hooks,
        default_scope='mmpretrain',
        experiment_name=work_dir.name,
        log_level='ERROR',
    )
    return {type(hook) for hook in runner.hooks}


def test_hooks_that_are_none_are_left_out(tmp_path):
    assert {PicturesHook, ReportHook, IterTimerHook} <= hooks_of(tmp_path / 'all')
    options = {f'default_hooks.{name}': None for name in ('pictures', 'report', 'timer')}
    assert not {PicturesHook, ReportHook, IterTimerHook} & hooks_of(tmp_path / 'few', **options)
