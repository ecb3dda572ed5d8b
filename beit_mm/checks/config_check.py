"""The early check of a config, by itself and at the start of a training."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from mmengine.config import Config
from mmengine.dist import get_world_size, is_main_process

from beit_mm.errors import UserError

from . import course, files, keys, labels
from .dry_run import DryRun
from .isolation import isolated
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
) -> list[Problem]:
    """Find the mistakes of a config, without a GPU and, besides listing data, in about three seconds.

    Args:
        cfg: the config, of either style, with all changes merged.
        loaders: keys of the data loaders that will be used.
        num_processes: of the training, to compare its batch with the recipe's; None if not known.
        lists: keys of the data loaders whose data sets may list their files, for real samples instead of random ones.
        is_training: whether a training starts here and now, so that what this machine lacks is an error.

    Returns:
        Errors, then warnings.
    """
    plain = cfg.to_dict()
    used = tuple(key for key in loaders if isinstance(plain.get(key), dict))
    with isolated(plain.get('default_scope') or 'mmengine'), TemporaryDirectory() as folder:
        run = DryRun(plain, used, tuple(lists), Path(folder))
        problems = [*keys.check_keys(plain, used), *files.check_files(plain, used)]
        problems += _guarded(run.check)
        problems += _guarded(course.check_course, plain, run.model, is_training)
        problems += _guarded(course.check_batch, plain, num_processes, cfg.text)
        problems += _guarded(labels.check_labels, plain, run.model, run.drawn)
        problems += _guarded(files.check_weights, plain, run.model)
    problems = keys.join_scope_mistakes(list(dict.fromkeys(problems)))
    return sorted(problems, key=lambda problem: not problem.is_error)


def _guarded(check, *arguments) -> Iterator[Problem]:
    """A check must not stop a run that would have worked, so its own failure is a warning."""
    try:
        yield from check(*arguments)
    except Exception as error:
        name = check.__name__.replace('_', ' ')
        yield Problem('config', f'not checked in full ({name}): {type(error).__name__}: {error}', is_error=False)


def check_before_training(cfg: Config, num_processes: int) -> list[Problem]:
    """Check the config of a training that starts on this process. Its own data set is listed once, by the training.

    Returns:
        Warnings, in the main process alone.

    Raises:
        ConfigMistakes: If there are errors; the message is the first, the others go to standard error.
    """
    used = ('train_dataloader', 'val_dataloader')
    problems = check_config(cfg, used, num_processes, lists=('val_dataloader',), is_training=True)
    errors = [problem for problem in problems if problem.is_error]
    if errors:
        for problem in errors[1:] if is_main_process() else ():
            print(f'also: {problem}', file=sys.stderr)
        raise ConfigMistakes(str(errors[0]))
    return problems if is_main_process() else []


def check_runner(runner) -> None:
    """Check the config of a runner whose training loop is being built, as by the hosts' tools/train.py; once.

    Raises:
        ConfigMistakes: If there are errors.
    """
    if getattr(runner, 'is_checked', False) or not isinstance(runner.cfg.get('model'), dict):
        return
    runner.is_checked = True
    for warning in check_before_training(runner.cfg, get_world_size()):
        runner.logger.warning(str(warning))
