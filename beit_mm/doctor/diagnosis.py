"""The examination: all parts one after the other within a time, and what it found."""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from beit_mm.checks.config_check import isolated
from beit_mm.checks.problems import Problem, warn
from beit_mm.config.flatten import drop_scope_stamps
from beit_mm.config.parts import get
from beit_mm.engine.hooks.machine_hook import describe_machine, KERNELS

from . import advice, attention, machine, reference, speed, tuning
from .steps import KERNEL_KEY, out_of_memory_as_none, SMALLER, Subject
from .tuning import Size

CUT_SIDES = (128, 256, 512)  # of the images of a segmentation, while a step is short
IMPORTS = 10.0  # seconds that a command takes before it begins


@dataclass
class Diagnosis:
    """What was found.

    Attributes:
        facts: about the machine, see machine.describe.
        verdicts: of attention kernels, see attention.Verdict.
        checks: of numbers, see reference.Check.
        speeds: by name, in FLOP/s, bytes/s and images/s.
        step: of the config: see `_examine_step`; empty without a config.
        settings: of machine.py: values and reasons by key.
        problems: all of them, errors first.
    """

    facts: dict[str, Any]
    verdicts: list[attention.Verdict] = field(default_factory=list)
    checks: list[reference.Check] = field(default_factory=list)
    speeds: dict[str, Any] = field(default_factory=dict)
    step: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, advice.Setting] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Texts, numbers, lists and dicts."""

        def plain(value: Any) -> Any:
            value = value._asdict() if hasattr(value, '_asdict') else value
            if isinstance(value, dict):
                return {str(key): plain(item) for key, item in value.items()}
            if isinstance(value, (list, tuple)):
                return [plain(item) for item in value]
            return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)

        return plain(vars(self))

    def right_kernels(self) -> list[str]:
        """Kernels of torch that take a learned bias in the dtype of trainings, right at every length."""
        dtype, wrong = 'bfloat16' if self.facts['bfloat16'] else 'float32', self.wrong_kernels()
        trained = {name: {v.status for v in self.verdicts if (v.kernel, v.dtype) == (name, dtype)} for name in KERNELS}
        return [name for name in KERNELS if name not in wrong and trained[name] == {'OK'}]

    def wrong_kernels(self) -> set[str]:
        """Those that torch may take, and what it does take, if any length or dtype is wrong."""
        taken = (*KERNELS, attention.AS_TORCH_CHOOSES)
        return {verdict.kernel for verdict in self.verdicts if verdict.status == 'wrong' and verdict.kernel in taken}

    def write(self, config: str, path: Path) -> None:
        """Write machine.py for a config that was examined."""
        facts, step = self.facts, self.step
        versions = f'torch {facts["torch"]}, beit_mm {facts["beit_mm"]}'
        notes = [f'Written by `beit-mm doctor` on {date.today()} for {facts["device"]}, {versions}.']
        notes += ['', f'    python tools/train.py {path}', '']
        notes.append(f'{step["rate"]:.3g} images/s on a device, {step["gain"]:.2f} times as fast as the defaults.')
        advice.write_machine(path, config, self.settings, describe_machine(torch.device(facts['kind'])), notes)


def examine(
    cfg: Config | None = None,
    device: str | None = None,
    minutes: float = 2.0,
    say: Callable[[str], object] = lambda text: print(text, file=sys.stderr, flush=True),
) -> Diagnosis:
    """Examine the machine, and how a config trains on it.

    Args:
        cfg: whose step is measured; None for none.
        device: 'cpu', 'cuda' or 'cuda:N'; None for the GPU if there is one.
        minutes: that it may take; a first compilation may take longer.
        say: is told what comes next.

    Raises:
        UserError: If there is no such device, or the config cannot be measured.
    """
    end = time.monotonic() + 60 * minutes - IMPORTS
    found = machine.find_device(device)
    result = Diagnosis(machine.describe(found))
    result.problems += machine.known_problems(result.facts)
    subject, scope = None, 'mmpretrain' if cfg is None else cfg.get('default_scope') or 'mmengine'
    with tempfile.TemporaryDirectory() as folder:
        if cfg is not None:  # first, since a config that cannot be measured is a mistake
            drop_scope_stamps(cfg)
            with isolated(scope):
                subject = Subject(cfg, found, Path(folder))
        with isolated('mmpretrain'):
            say('attention ...')
            result.verdicts = list(attention.examine_all(result.facts['compiler'] is not None, found))
            say('reference numbers ...')
            result.checks = reference.check_all(found, reference.read_numbers())
            result.problems += [each.problem for each in (*result.verdicts, *result.checks) if each.problem]
            say('speed of the machine ...')
            result.speeds = speed.measure_all(found, result.facts['bfloat16'], result.facts['devices'])
        if subject is not None:
            say('steps of the config ...')
            with isolated(scope):
                _examine_step(result, cfg, subject, lambda: end - time.monotonic())
    result.problems.sort(key=lambda problem: not problem.is_error)
    return result


def _examine_step(result: Diagnosis, cfg: Config, subject: Subject, time_left: Callable[[], float]) -> None:
    """Measure the step, choose settings, and forecast the run."""
    facts, device, devices = result.facts, subject.device, result.facts['devices']
    has_compiler, key = facts['compiler'] is not None, f'{subject.trunk}.compile_blocks'
    if get(cfg, key) and not has_compiler:
        mend = 'install g++, on a GPU also Triton, or set it to False'
        result.problems.append(Problem('compiler', f'{key}=True needs a compiler, and there is none; {mend}'))
        subject.cfg.merge_from_dict({key: False})
    kernels = result.right_kernels()
    # Where a kernel is wrong, the default may compute wrong numbers.
    base = {KERNEL_KEY: kernels} if kernels and result.wrong_kernels() else {}
    # Whole steps of a segmentation may take most of the time.
    for side in [None] if subject.side is None else [*(s for s in CUT_SIDES if s < subject.side), subject.side]:
        with out_of_memory_as_none(device) as shortages:
            step = subject.build(base, subject.fewest, side)
            operations, dtype = speed.count_operations(step) / step.images, str(step.dtype).rpartition('.')[2]
            (seconds,) = speed.time_in_turn({'': step}, 1, device)['']
        if shortages or 6 * seconds > tuning.MAX_STEP:
            break
    step, sizes = None, []
    if not shortages:
        make = lambda options, images: subject.build({**base, **options}, images, side)  # noqa: E731
        switches = tuning.switches(subject, kernels, reference.kept_dtypes(result.checks))
        most = max(advice.recipe_batch(cfg, devices) // devices, subject.fewest)
        tuner = tuning.Tuner(make, device, time_left, has_compiler)
        choice, trials, sizes, *shortages = tuner.tune(switches, subject.fewest, most)
    if not sizes:
        mend = f'set {subject.trunk}.with_cp=True, {SMALLER}'
        result.problems.append(Problem('memory', f'{shortages[0]} at {subject.fewest} images in a step; {mend}'))
        return
    result.problems += [Problem(trial.name, trial.reason) for trial in trials if trial.status == 'wrong']
    images, seconds, _ = sizes[-1]
    scale = 1.0 if side is None else (subject.side / side) ** 2  # at least so much work has a whole image
    sizes = [Size(s.images, s.seconds * scale, s.memory and round(s.memory * scale)) for s in sizes]
    rate, per_core = images / seconds / scale, speed.measure_rate(subject.load, 100)
    batch = advice.choose_batch(cfg, devices, sizes, facts['free_memory'], subject.state_bytes, side == subject.side)
    workers, problem = advice.choose_workers(rate, per_core, facts['cores'], devices)
    result.problems += filter(None, (batch.problem, problem))
    achieved, published = operations * images / seconds, speed.published_peak(facts['device'])
    constant, slope = advice.fit_memory(sizes)
    count = advice.count_images(cfg, advice.recipe_batch(cfg, devices))
    whole = min(rate * devices, per_core * facts['cores'])
    result.step = dict(
        images=images, side=side, whole_side=subject.side, seconds=seconds, dtype=dtype, rate=rate, gain=choice.gain,
        trials=trials, sizes=sizes, operations=operations * scale, loading=per_core, whole_rate=whole,
        share_of_measured=achieved / result.speeds['products'][dtype],
        share_of_published=achieved / published if published and dtype != 'float32' else None,
        memory=subject.state_bytes + constant + slope * batch.images, batch=batch.images, accumulated=batch.steps,
        images_of_recipe=count, hours=count / whole / 3600 if count else None, real_images=subject.listed.is_real,
    )  # yapf: disable
    for key, value in {**base, **choice.options}.items():
        gain = max((trial.gain for trial in trials if trial.status == 'faster' and key in trial.options), default=0.0)
        why = f'{gain:.2f} times as fast in steps of {images} images' if gain else 'others are wrong here'
        result.settings[key] = value, why
    if batch.problem is None:
        _set_batch(result, cfg, batch, machine.total_memory(device))
    if workers != cfg.train_dataloader.get('num_workers', 0):
        why = f'each loads {per_core:.0f} images/s, a device takes {rate:.3g}'
        result.settings['train_dataloader.num_workers'] = workers, why


def _set_batch(result: Diagnosis, cfg: Config, batch: advice.Batch, memory: int) -> None:
    images, steps = advice.settings_of(cfg)
    devices, key = result.facts['devices'], 'optim_wrapper.accumulative_counts'
    total = devices * batch.images * batch.steps
    if batch.images != images:
        why = f'{result.step["memory"] / 2**30:.1f} of {memory / 2**30:.1f} GiB'
        result.settings['train_dataloader.batch_size'] = batch.images, why
    if batch.steps != steps and (cfg.get('train_cfg') or {}).get('max_iters'):  # counts steps, not updates
        what = f"{batch.steps} steps must be accumulated for the recipe's {total} images per update"
        mend = f'make max_iters, schedules and intervals {batch.steps} times as long (docs/training.md)'
        result.problems.append(warn(key, f'{what}; {mend}'))
    elif batch.steps != steps:
        why = f"{devices} x {batch.images} x {batch.steps} = the recipe's {total} images"
        result.settings[key] = batch.steps, why
