"""What a resume takes from the checkpoint and what from the config: a table for the log, and new schedules."""

import inspect
import os
import re
import warnings
from collections.abc import Iterator

from mmengine.optim import OptimWrapperDict

from beit_mm.errors import UserError
from beit_mm.hiding import hide_in_command
from beit_mm.text import show

SECTIONS = (
    'model data_preprocessor train_dataloader val_dataloader train_cfg val_cfg val_evaluator optim_wrapper '
    'param_scheduler auto_scale_lr randomness default_hooks custom_hooks env_cfg runner_type strategy compile'
).split()
MAX_ROWS, MAX_KEY, MAX_VALUE = 30, 36, 14
MISSING = '-'


def list_settings(cfg: dict) -> dict[str, str]:
    """The settings of a run that bear on its training: dotted key to value as text, as a checkpoint holds them."""
    return {key: value for section in SECTIONS if section in cfg for key, value in _leaves(cfg[section], section)}


def _leaves(node: object, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict) and node:
        for name, child in node.items():
            if name != 'init_cfg':  # all weights are the checkpoint's
                yield from _leaves(child, f'{key}.{name}')
    elif isinstance(node, (list, tuple)) and any(isinstance(item, dict) for item in node):
        for index, item in enumerate(node):
            yield from _leaves(item, f'{key}.{index}')
    elif isinstance(node, (str, int, float, list, tuple, dict, type(None))):
        yield key, repr(list(node) if isinstance(node, tuple) else node)
    else:  # a class, or an object, whose address differs each time
        kind = node if isinstance(node, type) else type(node)
        yield key, f'{kind.__module__}.{kind.__qualname__}'


def compare_settings(runner, checkpoint: dict, old: object) -> list[tuple[str, str, str, str]]:
    """Rows for all settings that differ: key, the checkpoint's value, the config's value, and which of the two applies.

    Raises:
        UserError: If the type of an optimizer differs, whose state would not fit.
    """
    of_checkpoint = r'randomness\.seed'
    if 'optimizer' in checkpoint:  # its groups of parameters hold rates and decays
        of_checkpoint += r'|auto_scale_lr|optim_wrapper\.(.*\.)?(optimizer|paramwise_cfg|constructor)\b'
    if not can_rebuild(runner):
        of_checkpoint += '|param_scheduler'
    old, new, rows = old if isinstance(old, dict) else {}, list_settings(runner.cfg), []
    for key in dict.fromkeys([*new, *map(str, old)]):
        was, now = (str(settings.get(key, MISSING)) for settings in (old, new))
        if was == now:
            continue
        applies = 'checkpoint' if re.match(of_checkpoint, key) else 'config'
        if applies == 'checkpoint' and re.search(r'\boptimizer\.type$', key) and MISSING not in (was, now):
            raise UserError(
                f'the checkpoint holds the state of {show(was)}, which does not fit {key}={now}; start anew from its '
                'weights with load_from, or take its optimizer'
            )
        rows.append((key, was, now, applies))
    return sorted(rows, key=lambda row: row[3])  # first those that the config cannot change


def draw_table(rows: list[tuple[str, str, str, str]]) -> str:
    """The rows as text with a heading and aligned columns, values shortened and without secrets.

    Lines have at most 80 columns: long keys lose their middle, and values are cut around where they differ.
    """
    cells = [('setting', 'checkpoint', 'config', 'applies')]
    for key, *values, applies in rows[:MAX_ROWS]:
        values = [show(hide_in_command([f'{key}={value}'])[0].removeprefix(f'{key}=')) for value in values]
        key = show(key)
        if len(key) > MAX_KEY:
            first = key.split('.')[0][: MAX_KEY // 2]
            key = f'{first}...{key[len(first) + 3 - MAX_KEY :]}'
        cells.append((key, *_shorten(values), applies))
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = ['  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells]
    return '\n'.join(lines + [f'... and {len(rows) - MAX_ROWS} more'] * (len(rows) > MAX_ROWS))


def _shorten(values: list[str]) -> list[str]:
    """Cut long texts; of two that begin alike, show where they begin to differ."""
    if all(len(value) <= MAX_VALUE for value in values):
        return values
    same = len(os.path.commonprefix(values))
    if same > MAX_VALUE // 2:
        values = [f'...{value[same - 2 :]}' for value in values]
    return [value if len(value) <= MAX_VALUE else f'{value[: MAX_VALUE - 3]}...' for value in values]


def check_groups(runner, checkpoint: dict) -> None:
    """Raises UserError if the optimizer's groups of parameters differ from the checkpoint's."""
    if isinstance(runner.optim_wrapper, OptimWrapperDict) or 'optimizer' not in checkpoint:
        return
    try:
        old = [len(group['params']) for group in checkpoint['optimizer']['param_groups']]
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(
            "the checkpoint's optimizer holds no groups of parameters; start anew with load_from"
        ) from error
    new = [len(group['params']) for group in runner.optim_wrapper.optimizer.param_groups]
    if old != new:
        raise UserError(
            f"the checkpoint's optimizer has {sum(old)} parameters in {len(old)} groups, this run's {sum(new)} in "
            f'{len(new)}: frozen_stages, paramwise_cfg or the model differ; take those of the checkpoint, or start '
            'anew from its weights with load_from'
        )


def can_rebuild(runner) -> bool:
    """Not schedules of several optimizers, nor those that follow scores, such as ReduceOnPlateauLR."""
    schedulers = runner.param_schedulers or []
    return isinstance(schedulers, list) and not any(getattr(each, 'need_val_args', False) for each in schedulers)


def schedules_differ(runner, checkpoint: dict) -> bool:
    """Whether the config's schedules differ from the checkpoint's."""
    old, new = checkpoint.get('param_schedulers') or [], runner.param_schedulers or []
    return len(old) != len(new) or any(map(_differs, old, new))


def _differs(old: dict, scheduler) -> bool:
    arguments = {name for cls in type(scheduler).__mro__ for name in inspect.signature(cls.__init__).parameters}
    new, missing = vars(scheduler), object()
    settings = new.keys() & arguments - {'optimizer', 'last_step', 'verbose'}
    return bool(old.keys() - new.keys()) or any(old.get(name, missing) != new[name] for name in settings)


def rebuild_schedules(runner, checkpoint: dict, batches_per_epoch: int | None) -> None:
    """Give a checkpoint the schedules, rates and so on that it would hold had the config's schedules always applied.

    They start from its own first values, such as its learning rate, and step as often as the run did.
    """
    schedulers, meta = runner.param_schedulers or [], checkpoint['meta']
    optimizer = checkpoint['optimizer']
    saved = [*optimizer['param_groups'], *filter(None, [optimizer.get('base_param_settings')])]
    groups = runner.optim_wrapper.param_groups[: len(saved)]
    names = {key.removeprefix('initial_') for group in saved for key in group if key.startswith('initial_')}
    names |= {scheduler.param_name for scheduler in schedulers}
    bounds = {'min_lr', 'max_lr'}  # of a OneCycleLR, whose first rate is its own, not the optimizer's
    for group, old in zip(groups, saved):
        # Adam's first beta is what MMEngine schedules as momentum.
        first = dict(momentum=old['betas'][0]) if 'betas' in old else {}
        kept = names - {'lr'} if bounds & (group.keys() | old.keys()) else names
        first |= {name: old.get(f'initial_{name}', old.get(name)) for name in kept if name in old}
        for name in names & first.keys():
            group[name] = group[f'initial_{name}'] = first[name]
        if 'momentum' in names and 'betas' in old:
            group['betas'] = (first['momentum'], *old['betas'][1:])
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # steps of a schedule come before any of the optimizer
        _step_through(schedulers, meta['epoch'], meta['iter'], batches_per_epoch)
    checkpoint['param_schedulers'] = [scheduler.state_dict() for scheduler in schedulers]
    for group, old in zip(groups, saved):
        keys = {*names, *bounds, *(f'initial_{name}' for name in names), *(['betas'] if 'momentum' in names else [])}
        old.update({key: group[key] for key in keys & group.keys()})


def _step_through(schedulers: list, num_epochs: int, num_iters: int, batches_per_epoch: int | None) -> None:
    """From the start, as each value follows from the one before."""
    for scheduler in schedulers:  # as when it is built
        scheduler.base_values = [group[f'initial_{scheduler.param_name}'] for group in scheduler.optimizer.param_groups]
        scheduler.last_step = scheduler._global_step = -1
        scheduler.step()
    by_iteration = [scheduler for scheduler in schedulers if not scheduler.by_epoch]
    by_epoch = [scheduler for scheduler in schedulers if scheduler.by_epoch]
    for step in range(1, num_iters + 1):
        for scheduler in by_iteration:
            scheduler.step()
        epochs, rest = divmod(step, batches_per_epoch or num_iters + 1)
        for scheduler in by_epoch if rest == 0 and epochs <= num_epochs else ():
            scheduler.step()
