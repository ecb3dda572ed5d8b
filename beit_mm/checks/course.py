"""Checks of what a dry run of one step cannot see: schedules, hooks, number format and images per update."""

import re
from collections.abc import Iterator

from mmengine.device import get_device
from mmengine.hooks import CheckpointHook
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import HOOKS, OPTIM_WRAPPERS
from torch import nn

from beit_mm.config.parts import entries, walk

from .blame import find_class
from .problems import Problem, warn


def check_course(cfg: dict, model: nn.Module | None, is_training: bool) -> Iterator[Problem]:
    """Schedules and hooks against the length of the run, and the number format against the device."""
    loop = cfg.get('train_cfg') or {}
    unit = next((unit for unit in ('epochs', 'iters') if isinstance(loop.get(f'max_{unit}'), int)), None)
    if unit is not None:
        length, is_by_epoch = loop[f'max_{unit}'], unit == 'epochs'
        run = f'the run of {length} {"epochs" if is_by_epoch else "iterations"} (train_cfg.max_{unit})'
        yield from _check_schedules(cfg, length, is_by_epoch, run)
        yield from _check_hooks(cfg, model, length, is_by_epoch, run)
    wrapper = cfg.get('optim_wrapper') or {}
    if is_a(wrapper, OPTIM_WRAPPERS, AmpOptimWrapper) and get_device() == 'cpu':
        dtypes = AmpOptimWrapper.valid_dtypes
        if wrapper.get('dtype') not in (None, *dtypes):
            yield Problem('optim_wrapper.dtype', f'must be one of {", ".join(dtypes)}, got {wrapper["dtype"]!r}')
        mend = "type='beit_mm.AutocastOptimWrapper' runs on both"
        yield Problem(
            'optim_wrapper.type', f'AmpOptimWrapper needs a GPU and this machine has none; {mend}', is_error=is_training
        )


def on_cpu(wrapper: dict) -> dict:
    """The config of an optimizer wrapper for one step on a CPU."""
    wrapper = dict(wrapper)
    wrapper.pop('accumulative_counts', None)
    if is_a(wrapper, OPTIM_WRAPPERS, AmpOptimWrapper):
        wrapper['type'] = 'OptimWrapper'
        for name in ('dtype', 'loss_scale', 'use_fsdp'):
            wrapper.pop(name, None)
    return wrapper


def is_a(node: dict, registry, cls: type) -> bool:
    named = find_class(node, registry)
    return isinstance(named, type) and issubclass(named, cls)


def _check_schedules(cfg: dict, length: int, is_by_epoch: bool, run: str) -> Iterator[Problem]:
    """Schedules that never move, end before or after the run, or begin in the middle of another."""
    in_unit = {}
    for key, node in entries(cfg, 'param_scheduler'):
        counts_epochs = node.get('by_epoch', True)
        if counts_epochs == is_by_epoch:
            in_unit[key] = (node, node.get('begin', 0), length if node.get('end') is None else node['end'])
        elif counts_epochs:
            mend = 'set by_epoch=False and count begin and end in iterations'
            yield Problem(f'{key}.by_epoch', f'never moves in a training that counts iterations; {mend}')
        elif node.get('end') == length > 1:
            mend = 'set by_epoch=True if epochs are meant'
            yield warn(f'{key}.by_epoch', f'by_epoch=False ends after {length} iterations, not epochs; {mend}')
    for key, (node, begin, end) in in_unit.items():
        if end <= begin:
            yield Problem(f'{key}.end', f'must lie after begin={begin}, got {end}; set a larger end')
        elif begin >= length:
            yield warn(f'{key}.begin', f'begins at {begin}, after {run}; shorten the schedule with the run')
        elif 'Linear' in str(node['type']) and begin == 0 and end > length:
            why = 'so the full rate is never reached'
            yield warn(f'{key}.end', f'the warm-up ends at {end}, after {run}, {why}; set a smaller end')
        if late := [step for step in node.get('milestones', ()) if step >= length]:
            yield warn(f'{key}.milestones', f'{late[0]} is never reached in {run}; shorten the schedule with the run')
    decays = {
        key: (begin, end)
        for key, (node, begin, end) in in_unit.items()
        if re.search('Cosine|Poly', str(node['type'])) and begin < length and 'T_max' not in node
    }
    if not decays:
        return
    last, (_, end) = max(decays.items(), key=lambda item: item[1][1])
    if abs(end - length) > 1:  # PolyLR reaches its end one step early
        what = 'stays where it is from there on' if end < length else 'never reaches its end'
        where = f'the schedule ends at {end} and {run.replace("run of", "run at")}'
        yield warn(f'{last}.end', f'{where}, so the rate {what}; set the same end')
    for first, (_, first_begin, first_end) in in_unit.items():
        for second, (begin, _) in decays.items():
            if second != first and first_begin < begin < first_end < length:
                where = f'begins at {begin}, within {first}, which ends at {first_end}'
                yield warn(f'{second}.begin', f'{where}; begin there, or at 0 if both factors shall be multiplied')


def _check_hooks(cfg: dict, model: nn.Module | None, length: int, is_by_epoch: bool, run: str) -> Iterator[Problem]:
    """Hooks that never act in this run, or that need an attribute that the model lacks."""
    from beit_mm.engine.hooks.anneal_hook import AnnealHook

    for key, node in [*walk(cfg.get('default_hooks'), 'default_hooks'), *walk(cfg.get('custom_hooks'), 'custom_hooks')]:
        if is_a(node, HOOKS, CheckpointHook):
            if not is_by_epoch and node.get('by_epoch', True):
                what = 'counts epochs in a training that counts iterations, so checkpoints come only at its end'
                yield warn(f'{key}.by_epoch', f'{what}; set by_epoch=False')
            if node.get('save_best') and cfg.get('val_dataloader') is None:
                mend = 'remove it or add val_dataloader, val_cfg and val_evaluator'
                yield warn(f'{key}.save_best', f'never comes without val_dataloader; {mend}')
        if is_a(node, HOOKS, AnnealHook):
            attribute, steps = node.get('attribute'), node.get('num_iters')
            if model is not None and isinstance(attribute, str) and not hasattr(model, attribute):
                numbers = ', '.join(sorted(name for name, value in vars(model).items() if isinstance(value, float)))
                name = type(model).__name__
                yield Problem(f'{key}.attribute', f'{name} has no {attribute!r}; it may be one of {numbers or "none"}')
            if isinstance(steps, int) and not is_by_epoch and steps > length:
                yield warn(f'{key}.num_iters', f'ends at {steps}, after {run}; shorten it with the run')


def check_batch(cfg: dict, num_processes: int | None, text: str) -> Iterator[Problem]:
    """Processes x images x accumulated steps against the batch that the recipe's learning rate belongs to.

    `auto_scale_lr.base_batch_size` is the recipe's processes x images, which is all that MMEngine compares.
    """
    images = (cfg.get('train_dataloader') or {}).get('batch_size', 0)
    scaling, wrapper = cfg.get('auto_scale_lr') or {}, cfg.get('optim_wrapper') or {}
    base, steps = scaling.get('base_batch_size', 0), wrapper.get('accumulative_counts', 1)
    if not all(isinstance(number, int) and number > 0 for number in (base, images, steps)):
        return
    own_steps = recipe_accumulation(text)
    wanted = base * own_steps
    if num_processes is None:
        if wanted % (images * steps):
            what = f'no number of processes makes the {wanted} images of the recipe (auto_scale_lr.base_batch_size)'
            each = f'of {images} x {steps} accumulated steps each'
            yield warn('train_dataloader.batch_size', f'{what} {each}; choose a divisor of {wanted}')
        return
    now = num_processes * images * steps
    rate = (wrapper.get('optimizer') or {}).get('lr')
    mend = f'optim_wrapper.optimizer.lr={rate * now / wanted:.3g}' if isinstance(rate, float) else 'the rate to match'
    if scaling.get('enable') and steps != own_steps:
        what = f'MMEngine scales the rate by {num_processes} x {images} images over {base}'
        why = f'leaves out the {steps} accumulated steps, so that it is {_times(own_steps / steps)}'
        yield warn('auto_scale_lr.enable', f'{what} and {why}; set enable=False and {mend}')
    elif not scaling.get('enable') and now != wanted:
        what = f'{num_processes} x {images} images x {steps} accumulated steps make {now} per update'
        why = f"the recipe's rate belongs to {wanted}: it is {_times(wanted / now)}"
        yield warn('auto_scale_lr.base_batch_size', f'{what}, {why}; set {mend}')


def _times(factor: float) -> str:
    times = max(factor, 1 / factor)
    number = f'{times:,.0f}' if times >= 100 else f'{times:.3g}'
    return f'{number} times too {"high" if factor > 1 else "low"}'


def recipe_accumulation(text: str) -> int:
    """The accumulated steps that a recipe's batch is meant with.

    Config.text has the path and then the content of every file, bases first. Files after the one with `auto_scale_lr`
    are the user's, who may accumulate steps to reach the recipe's batch.
    """
    files = re.split(r'^/.*\.py$', text or '', flags=re.M)
    last = max((index for index, file in enumerate(files) if re.search(r'^auto_scale_lr\b', file, re.M)), default=0)
    steps = re.findall(r'accumulative_counts\s*=\s*(\d+)', ''.join(files[: last + 1]))
    return int(steps[-1]) if steps else 1
