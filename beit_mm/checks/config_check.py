"""The early check: everything about a config that can be told before anything large is built or read."""

import os
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch.distributed as dist
from mmengine.config import Config
from mmengine.registry import DefaultScope

from . import batch, keys, labels, model_sizes, optimiser, pipelines, schedules, weights
from .files import check_files
from .problems import Problem
from .run_plan import quiet, RunPlan

# In the order in which one would mend them: names before sizes before files.
CHECKS = (
    lambda plan: keys.check_top_level(plan.cfg),
    lambda plan: keys.check_sections(plan.cfg, plan.loaders),
    lambda plan: keys.check_parts(plan.parts_in_use),
    lambda plan: keys.check_clip_grad(plan.cfg),
    model_sizes.check_model,
    model_sizes.check_metrics,
    pipelines.check_pipelines,
    optimiser.check_optimiser,
    optimiser.check_optimizer_class,
    schedules.check_schedules,
    schedules.check_hooks,
    schedules.check_precision,
    batch.check_batch,
    batch.check_batch_norm,
    lambda plan: check_files(plan.cfg, plan.loaders),
    weights.check_weights,
)
# Environment variables in which launchers say how many processes they started, and which of them this one is.
WORLD_SIZES = dict(pytorch='WORLD_SIZE', slurm='SLURM_NTASKS', mpi='OMPI_COMM_WORLD_SIZE')
RANKS = dict(pytorch='RANK', slurm='SLURM_PROCID', mpi='OMPI_COMM_WORLD_RANK')


class ConfigMistakes(ValueError):
    """A config with which no training may start; the message is its first mistake."""


def check_config(
    cfg: Config,
    loaders: Iterable[str] = keys.LOADERS,
    num_processes: int | None = None,
    is_training: bool = False,
    with_labels: bool = True,
) -> list[Problem]:
    """Find the mistakes of a config, without a GPU and in less than two seconds, scanning labels aside.

    Args:
        cfg: the config, of either style, with whatever changes it merged.
        loaders: keys of the data loaders that will be used.
        num_processes: of the training, for its batch; None if not known.
        is_training: whether it starts here and now, so that what this machine lacks is an error.
        with_labels: whether to read all labels, too.

    Returns:
        Errors, then warnings. A check that an unusual config defeats becomes a warning.
    """
    plan = RunPlan(cfg.to_dict(), tuple(loaders), num_processes, batch.recipe_accumulation(cfg.text), is_training)
    problems: list[Problem] = []
    with quiet(), DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
        for check in (*CHECKS, labels.check_labels) if with_labels else CHECKS:
            problems += _guarded(check, plan)
        if not any(problem.is_error and problem.key.startswith('model') for problem in problems):
            problems += _guarded(model_sizes.check_build, plan)  # else it would say the same less well
    problems = list(dict.fromkeys(problems))
    return sorted(problems, key=lambda problem: not problem.is_error)


def _guarded(check, plan: RunPlan) -> Iterator[Problem]:
    """Hosts' configs hold what nobody foresaw, and a check must not stop a run that would have worked."""
    try:
        yield from check(plan)
    except Exception as error:
        place = error.__traceback__
        while place.tb_next:
            place = place.tb_next
        yield Problem(
            'config',
            f'not checked in full: {type(error).__name__}: {error} ('
            f'{Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno})',
            is_error=False,
        )


def check_before_training(cfg: Config) -> list[Problem]:
    """Check the config of a training that starts on this process; only the first process reads the labels.

    Returns:
        Warnings.

    Raises:
        ConfigMistakes: If there are errors; the message is the first, the others go to standard error.
    """
    launcher = cfg.get('launcher', 'none')
    num_processes, rank = (_number(names.get(launcher), default) for names, default in ((WORLD_SIZES, 1), (RANKS, 0)))
    if dist.is_initialized():
        num_processes, rank = dist.get_world_size(), dist.get_rank()
    problems = check_config(
        cfg, ('train_dataloader', 'val_dataloader'), num_processes, is_training=True, with_labels=rank == 0
    )
    errors = [problem for problem in problems if problem.is_error]
    if errors:
        for problem in errors[1:] if rank == 0 else ():
            print(f'also: {problem}', file=sys.stderr)
        raise ConfigMistakes(str(errors[0]))
    return problems if rank == 0 else []


def _number(variable: str | None, default: int) -> int:
    return int(os.environ.get(variable or '', default))


def check_command(args: Namespace) -> None:
    """Check as the arguments of tools/check_config.py say: print every problem, exit with 1 if one is an error."""
    from beit_mm.config.flatten import drop_scope_stamps

    if not Path(args.config).is_file():
        raise FileNotFoundError(f'no config file at {args.config}')
    try:
        cfg = Config.fromfile(args.config)
    except (ImportError, RuntimeError, SyntaxError, NameError, AttributeError) as error:
        reason = ' '.join(str(error).split())
        raise ValueError(f'{args.config} cannot be read: {type(error).__name__}: {reason}') from error
    drop_scope_stamps(cfg)
    unknown = [key for key in args.cfg_options or {} if key.split('.')[0] not in cfg]
    if unknown:
        raise ValueError(f'--cfg-options must name keys of {args.config}, got {", ".join(unknown)}')
    cfg.merge_from_dict(args.cfg_options or {})
    problems = check_config(cfg, num_processes=args.gpus)
    for problem in problems:
        print(f'{"error" if problem.is_error else "warning"}: {problem}')
    num_errors = sum(problem.is_error for problem in problems)
    print(
        f'{args.config}: '
        + (f'{num_errors} mistake{"s" if num_errors > 1 else ""}' if num_errors else 'no mistakes found')
    )
    if num_errors:
        sys.exit(1)
