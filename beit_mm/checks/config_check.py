"""The early check of a config, by itself and at the start of a training."""

import logging
import random
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import get_world_size, is_main_process
from mmengine.registry import DefaultScope
from mmengine.utils import ManagerMixin

from beit_mm.config.reading import unread_options
from beit_mm.datasets.counts import describe
from beit_mm.errors import UserError
from beit_mm.hiding import hide_secrets

from . import course, files, keys, labels
from .dry_run import DryRun
from .problems import Problem

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


class ConfigMistakes(UserError):
    """A config with which no training may start; the message is its first mistake."""


def check_config(
    cfg: Config,
    loaders: Iterable[str] = LOADERS,
    num_processes: int | None = None,
    lists: Iterable[str] = LOADERS,
    is_training: bool = False,
    options: dict | None = None,
    counts: dict[str, str] | None = None,
) -> list[Problem]:
    """Find the mistakes of a config, without a GPU and, besides listing data, in about three seconds.

    Args:
        cfg: of either style, with all changes merged.
        loaders: keys of the data loaders that will be used.
        num_processes: of the training, to compare its batch with the recipe's; None if not known.
        lists: keys of the data loaders whose data sets may list their files, for real samples instead of random ones.
        is_training: whether a training starts on this machine, so that what it lacks is an error.
        options: the keys that have been overridden, to name those that change nothing.
        counts: takes what each listed data set holds, a line by the key of its loader.

    Returns:
        Errors, then warnings.
    """
    plain = cfg.to_dict()
    used = tuple(key for key in loaders if isinstance(plain.get(key), dict))
    with isolated(plain.get('default_scope') or 'mmengine'), TemporaryDirectory() as folder:
        run = DryRun(plain, used, tuple(lists), Path(folder))
        problems = [Problem(key, sentence) for key, sentence in unread_options(cfg, options).items()]
        problems += [*keys.check_keys(plain, used), *files.check_files(plain, used)]
        problems += _guarded(keys.check_variables, cfg.text)
        problems += _guarded(files.check_starts, plain)
        problems += _guarded(run.check)
        problems += _guarded(course.check_course, plain, run.model, is_training)
        problems += _guarded(course.check_batch, plain, num_processes, cfg.text)
        problems += _guarded(labels.check_labels, plain, run.model, run.listed, run.drawn.get('train_dataloader'))
        problems += _guarded(files.check_weights, plain, run.model)
        if counts is not None:
            with suppress(Exception):  # a data set that describe does not know
                counts.update({key: describe(each.dataset) for key, each in run.listed.items() if each.is_real})
    unread = {problem.key for problem in problems if problem.sentence.startswith(keys.UNREAD)}
    problems = [each for each in problems if each.key not in unread or each.sentence.startswith(keys.UNREAD)]
    once = {(problem.key, problem.sentence): problem for problem in problems[::-1]}
    # What a loss or a step of a pipeline says of a label comes after the sentence that says where the label is set.
    later = re.compile('is out of bounds|must have labels')
    return sorted(list(once.values())[::-1], key=lambda each: (not each.is_error, bool(later.search(each.sentence))))


def _guarded(check, *arguments) -> Iterator[Problem]:
    """A check must not stop a run that would have worked, so its own failure is a warning."""
    try:
        yield from check(*arguments)
    except Exception as error:
        name = check.__name__.replace('_', ' ')
        yield Problem('config', f'not checked in full ({name}): {type(error).__name__}: {error}', is_error=False)


def check_before_training(cfg: Config, num_processes: int, options: dict | None = None) -> list[Problem]:
    """Check the config of a training that starts now; returns warnings, in the main process only.

    ConfigMistakes if there are errors: the message is the first, the others go to standard error. The training's own
    data set is listed once, by the training.
    """
    used = ('train_dataloader', 'val_dataloader')
    problems = check_config(cfg, used, num_processes, lists=('val_dataloader',), is_training=True, options=options)
    errors = [problem for problem in problems if problem.is_error]
    if errors:
        for problem in errors[1:] if is_main_process() else ():
            print(f'also: {hide_secrets(str(problem))}', file=sys.stderr)
        raise ConfigMistakes(str(errors[0])) from errors[0].cause
    return problems if is_main_process() else []


def check_runner(runner) -> None:
    """Check the config of a runner once, while its training loop is built, as by the hosts' tools/train.py."""
    if getattr(runner, 'is_checked', False) or not isinstance(runner.cfg.get('model'), dict):
        return
    runner.is_checked = True
    for warning in check_before_training(runner.cfg, get_world_size()):
        runner.logger.warning(str(warning))


@contextmanager
def isolated(scope: str) -> Iterator[None]:
    """Run a block without output, then put back the random states and MMEngine's global instances."""
    managers = {manager: dict(manager._instance_dict) for manager in subclasses(ManagerMixin)}
    states = random.getstate(), np.random.get_state()
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            torch.random.fork_rng(devices=[]),
            warnings.catch_warnings(),
            redirect_stdout(StringIO()),
            DefaultScope.overwrite_default_scope(scope),
            torch.enable_grad(),
        ):
            warnings.simplefilter('ignore')
            torch.manual_seed(0)
            yield
    finally:
        logging.disable(disabled)
        random.setstate(states[0])
        np.random.set_state(states[1])
        for manager in subclasses(ManagerMixin):
            manager._instance_dict.clear()
            manager._instance_dict.update(managers.get(manager, {}))


def subclasses(cls: Any) -> Iterator[Any]:
    """All classes below one."""
    for subclass in cls.__subclasses__():
        yield subclass
        yield from subclasses(subclass)
