"""Checks of a training's course: schedules, hooks, batch and precision against the length and place of the run."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from mmengine.device import get_device
from mmengine.hooks import CheckpointHook
from mmengine.optim import AmpOptimWrapper

from beit_mm.engine.hooks.anneal_hook import AnnealHook
from beit_mm.engine.optimizers.autocast_wrapper import AutocastOptimWrapper

from .model_sizes import argument
from .parts import Part
from .problems import Problem
from .run_plan import quiet, RunPlan

EPOCHS, ITERATIONS = 'epochs', 'iterations'


class Course(NamedTuple):
    """Length of a training and what it is counted in."""

    length: int
    unit: str
    key: str


def course_of(cfg: dict) -> Course | None:
    """How long a config trains; None if it does not say so in MMEngine's words."""
    loop = cfg.get('train_cfg')
    for name, unit in (('max_epochs', EPOCHS), ('max_iters', ITERATIONS)):
        if isinstance(loop, dict) and isinstance(loop.get(name), int):
            return Course(loop[name], unit, f'train_cfg.{name}')
    return None


def check_schedules(plan: RunPlan) -> Iterator[Problem]:
    """Parameter schedules: what their classes refuse, in which unit they count, and where they begin and end."""
    course = course_of(plan.cfg)
    schedules = [part for part in plan.parts if part.key.startswith('param_scheduler') and part.cls is not None]
    for part in schedules:
        yield from _check_built(part)
    if course is None:
        return
    in_unit = [part for part in schedules if _unit(part) == course.unit]
    for part in schedules:
        if _unit(part) == EPOCHS and course.unit == ITERATIONS and not part.cfg.get('convert_to_iter_based'):
            yield Problem(
                f'{part.key}.by_epoch',
                'never moves in a training that counts iterations, set '
                'by_epoch=False and count begin and end in iterations',
            )
        if _unit(part) == ITERATIONS and course.unit == EPOCHS and part.cfg.get('end') == course.length > 1:
            yield Problem(
                f'{part.key}.by_epoch',
                f'by_epoch=False ends after {course.length} iterations, not epochs; '
                f'set by_epoch=True if epochs are meant',
                is_error=False,
            )
    for part in in_unit:
        yield from _check_place(part, course)
    yield from _check_together(in_unit, course)


def _unit(part: Part) -> str:
    return EPOCHS if part.cfg.get('by_epoch', True) else ITERATIONS


def _check_built(part: Part) -> Iterator[Problem]:
    """Build a schedule on an optimiser of one number, for the errors of its arguments."""
    arguments = part.arguments
    converts = arguments.pop('convert_to_iter_based', False)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.9)
    try:
        with quiet():
            if not converts:
                part.cls(optimizer=optimizer, **arguments)
            elif not arguments.get('by_epoch', True):
                raise ValueError('convert_to_iter_based needs by_epoch=True')
            else:
                part.cls.build_iter_from_epoch(optimizer=optimizer, epoch_length=2, **dict(dict(end=10), **arguments))
    except AssertionError as error:
        ratio = {'eta_min', 'eta_min_ratio'} <= set(arguments)
        yield Problem(
            part.key,
            'takes one of eta_min and eta_min_ratio, got both; set one of them to None'
            if ratio
            else f'cannot be built: {str(error) or "its arguments do not fit each other"}',
        )
    except ValueError as error:
        yield Problem(part.key, f'cannot be built: {error}')
    except Exception:  # an unknown argument, told elsewhere, or a schedule of something that this optimiser lacks
        return


def _end(part: Part, course: Course) -> Any:
    end = part.cfg.get('end')
    return course.length if end is None else end


def _check_place(part: Part, course: Course) -> Iterator[Problem]:
    begin, end = part.cfg.get('begin', 0), _end(part, course)
    rises = part.name.startswith('Linear') and begin == 0
    if begin >= course.length:
        yield Problem(
            f'{part.key}.begin',
            f'begins at {begin}, after the run of {course.length} {course.unit} '
            f'({course.key}); shorten the schedule with the run',
            is_error=False,
        )
    elif rises and end > course.length:
        yield Problem(
            f'{part.key}.end',
            f'the warm-up ends at {end}, after the run of {course.length} {course.unit} '
            f'({course.key}), so the full rate is never reached; set a smaller end',
            is_error=False,
        )
    elif end <= begin:
        yield Problem(f'{part.key}.end', f'must lie after begin={begin}, got {end}; set a larger end')
    late = [step for step in part.cfg.get('milestones', ()) if step >= course.length]
    if late:
        yield Problem(
            f'{part.key}.milestones',
            f'{late[0]} is never reached in {course.length} {course.unit} '
            f'({course.key}); shorten the schedule with the run',
            is_error=False,
        )


def _check_together(schedules: list[Part], course: Course) -> Iterator[Problem]:
    """Whether decaying schedules end with the run, and whether one begins in the middle of another."""
    decays = [
        part
        for part in schedules
        if part.name.startswith(('Cosine', 'Poly'))
        and part.cfg.get('begin', 0) < course.length
        and 'T_max' not in part.cfg
    ]
    if decays:
        last = max(decays, key=lambda part: _end(part, course))
        end = _end(last, course)
        if abs(end - course.length) > 1:  # PolyLR reaches its end one step early
            what = 'stays where it is from there on' if end < course.length else 'never reaches its end'
            yield Problem(
                f'{last.key}.end',
                f'the schedule ends at {end} and the run at {course.length} {course.unit} '
                f'({course.key}), so the rate {what}; set the same end',
                is_error=False,
            )
    for first in schedules:
        for second in decays:
            begin = second.cfg.get('begin', 0)
            if second is not first and first.cfg.get('begin', 0) < begin < _end(first, course) < course.length:
                yield Problem(
                    f'{second.key}.begin',
                    f'begins at {begin}, within {first.key}, which ends at '
                    f'{_end(first, course)}; begin there, or at 0 where both shall multiply',
                    is_error=False,
                )


def check_hooks(plan: RunPlan) -> Iterator[Problem]:
    """Hooks that never act in this run, or want of the model what it does not have."""
    course = course_of(plan.cfg)
    for part in plan.parts:
        if part.is_a(CheckpointHook) and course and course.unit == ITERATIONS and argument(part, 'by_epoch'):
            yield Problem(
                f'{part.key}.by_epoch',
                'counts epochs in a training that counts iterations, so checkpoints '
                'come only at its end; set by_epoch=False',
                is_error=False,
            )
        if part.is_a(CheckpointHook) and part.cfg.get('save_best') and plan.cfg.get('val_dataloader') is None:
            yield Problem(
                f'{part.key}.save_best',
                'never comes without val_dataloader, remove it or add val_dataloader, val_cfg and val_evaluator',
                is_error=False,
            )
        if part.is_a(AnnealHook):
            yield from _check_annealing(plan, part, course)


def _check_annealing(plan: RunPlan, part: Part, course: Course | None) -> Iterator[Problem]:
    attribute, length = part.cfg.get('attribute'), part.cfg.get('num_iters')
    if plan.model is not None and isinstance(attribute, str) and not hasattr(plan.model, attribute):
        numbers = [name for name, value in vars(plan.model).items() if isinstance(value, float)]
        yield Problem(
            f'{part.key}.attribute',
            f'{type(plan.model).__name__} has no {attribute!r}, it may be one of '
            f'{", ".join(sorted(numbers)) or "no number"}',
        )
    if isinstance(length, int) and course and course.unit == ITERATIONS and length > course.length:
        yield Problem(
            f'{part.key}.num_iters',
            f'ends at {length}, after the run of {course.length} iterations ({course.key}); shorten it with the run',
            is_error=False,
        )


def check_precision(plan: RunPlan) -> Iterator[Problem]:
    """Number formats that the optimiser wrapper or this machine does not have."""
    part = plan.part('optim_wrapper')
    if part is None:
        return
    dtype, is_cpu = part.cfg.get('dtype'), get_device() == 'cpu'
    if part.is_a(AmpOptimWrapper):
        if isinstance(dtype, str) and dtype not in AmpOptimWrapper.valid_dtypes:
            yield Problem(
                f'{part.key}.dtype', f'must be one of {", ".join(AmpOptimWrapper.valid_dtypes)}, got {dtype!r}'
            )
        if is_cpu:
            yield Problem(
                f'{part.key}.type',
                'AmpOptimWrapper needs a GPU and this machine has none; '
                "type='beit_mm.AutocastOptimWrapper' runs on both",
                is_error=plan.is_training,
            )
    if part.is_a(AutocastOptimWrapper) and 'dtype' in part.cfg:
        try:
            AutocastOptimWrapper(dtype=dtype, optimizer=torch.optim.SGD([torch.zeros(1)], lr=0.1))
        except ValueError as error:
            yield Problem(f'{part.key}.dtype', str(error))
