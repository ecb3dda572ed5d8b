"""The examination: all parts one after the other within a time, and what it found."""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
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
from .steps import KERNEL_KEY, out_of_memory_as_none, Subject
from .tuning import Size

CUT_SIDES = (128, 256, 512)  # of the images of a segmentation, while a step is short
IMPORTS = 10.0  # seconds that a command takes before it begins
TINY_THREADS = 1  # models of the reference are so small that threads only wait for each other
Say = Callable[[str], object]


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
            if isinstance(value, Problem):
                return dict(where=value.key, sentence=value.sentence, is_error=value.is_error)
            if isinstance(value, (attention.Verdict, reference.Check)):
                value = vars(value)
            if isinstance(value, dict):
                return {str(key): plain(item) for key, item in value.items()}
            if isinstance(value, (list, tuple)):
                return [plain(item) for item in value]
            return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)

        return plain(vars(self))

    def right_kernels(self) -> list[str]:
        """Kernels of torch that take a learned bias in the dtype of trainings, right at every length."""
        wrong = self.wrong_kernels()
        dtype = 'bfloat16' if self.facts['bfloat16'] else 'float32'
        trained = [(v.kernel, v.status) for v in self.verdicts if v.dtype == dtype]
        return [
            name
            for name in KERNELS
            if name not in wrong and {status for kernel, status in trained if kernel == name} == {'OK'}
        ]

    def wrong_kernels(self) -> set[str]:
        """Those that torch may take, and what it does take, if any length or dtype is wrong."""
        taken = (*KERNELS, attention.AS_TORCH_CHOOSES)
        return {verdict.kernel for verdict in self.verdicts if verdict.status == 'wrong' and verdict.kernel in taken}


def examine(
    cfg: Config | None = None,
    device: str | None = None,
    minutes: float = 2.0,
    say: Say = lambda text: print(text, file=sys.stderr, flush=True),
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
            result.verdicts = list(_examine_attention(result.facts, found))
            say('reference numbers ...')
            result.checks = list(_examine_reference(found))
            result.problems += [each.problem for each in (*result.verdicts, *result.checks) if each.problem]
            say('speed of the machine ...')
            result.speeds = _measure(found, result.facts)
        if subject is not None:
            say('steps of the config ...')
            with isolated(scope):
                _examine_step(result, cfg, subject, lambda: end - time.monotonic())
    result.problems.sort(key=lambda problem: not problem.is_error)
    return result


def _examine_attention(facts: dict[str, Any], device: torch.device) -> Iterator[attention.Verdict]:
    kernels = attention.kernels(facts['compiler'] is not None, device)
    for case in attention.draw_cases(device):
        for name, attend in kernels.items():
            yield attention.examine(name, attend, case)


def _examine_reference(device: torch.device) -> Iterator[reference.Check]:
    threads, numbers = torch.get_num_threads(), reference.read_numbers()
    torch.set_num_threads(TINY_THREADS)
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield from reference.check_pretraining(device, numbers)
            yield from reference.check_steps(device, numbers)
            yield from reference.check_classifier(device, numbers)
            yield from reference.check_segmentor(device)
        yield from reference.check_tokens(device)
    finally:
        torch.set_num_threads(threads)


def _measure(device: torch.device, facts: dict[str, Any]) -> dict[str, Any]:
    dtypes = [torch.float32, *([torch.bfloat16] if facts['bfloat16'] else [])]
    dtypes += [torch.float16] if device.type == 'cuda' else []  # on a CPU it takes minutes
    speeds: dict[str, Any] = dict(
        products=speed.measure_products(device, dtypes),
        memory=speed.measure_memory(device),
        decoding=speed.measure_decoding(),
        disk=speed.measure_disk(Path()),
    )
    if facts['devices'] > 1:
        speeds['sums'] = speed.measure_sums(facts['devices'], 'nccl')
    return speeds


def _examine_step(result: Diagnosis, cfg: Config, subject: Subject, time_left: Callable[[], float]) -> None:
    """Measure the step, choose settings, and forecast the run."""
    facts, device = result.facts, subject.device
    if get(cfg, f'{subject.trunk}.compile_blocks') and facts['compiler'] is None:
        what = f'{subject.trunk}.compile_blocks=True needs a compiler, and there is none'
        result.problems.append(Problem('compiler', f'{what}; install g++, on a GPU also Triton, or set it to False'))
        subject.cfg.merge_from_dict({f'{subject.trunk}.compile_blocks': False})
    kernels = result.right_kernels()
    # Where a kernel is wrong, the default may compute wrong numbers.
    base = {KERNEL_KEY: kernels} if kernels and result.wrong_kernels() else {}
    # Whole steps of a segmentation may take most of the time.
    for side in [None] if subject.side is None else [*(s for s in CUT_SIDES if s < subject.side), subject.side]:
        with out_of_memory_as_none(device) as shortages:
            step = subject.build(base, subject.fewest, side)
            operations = speed.count_operations(step) / step.images
            dtype = str(step.dtype).rpartition('.')[2]
            (seconds,) = speed.time_in_turn({'': step}, 1, device).values()
        if shortages:
            result.problems.append(_too_large(subject, shortages[0]))
            return
        if 6 * seconds[0] > tuning.MAX_STEP:
            break
    del step
    kept = {check.name.rpartition(' ')[2]: check.error for check in result.checks if check.name.startswith('tokens')}
    candidates = tuning.switches(subject, kernels, kept, reference.MIN_KEPT)
    tuned = tuning.tune(
        lambda options, images: subject.build({**base, **options}, images, side),
        candidates,
        subject.fewest,
        max(advice.recipe_batch(cfg, facts['devices']) // facts['devices'], subject.fewest),
        device,
        time_left,
        facts['compiler'] is not None,
    )
    if tuned.shortage and not tuned.sizes:
        result.problems.append(_too_large(subject, tuned.shortage))
        return
    result.problems += [trial.problem for trial in tuned.trials if trial.problem]
    size = tuned.sizes[-1]
    scale = 1.0 if side is None else (subject.side / side) ** 2  # at least so much work has a whole image
    sizes = [Size(s.images, s.seconds * scale, s.memory and round(s.memory * scale)) for s in tuned.sizes]
    rate = size.images / size.seconds / scale
    peaks = result.speeds['products']
    batch = advice.choose_batch(
        cfg, facts['devices'], sizes, facts['free_memory'], subject.state_bytes, side == subject.side
    )
    result.problems += [batch.problem] if batch.problem else []
    per_core = speed.measure_rate(subject.load, 100)
    workers, problem = advice.choose_workers(rate, per_core, facts['cores'], facts['devices'])
    result.problems += [problem] if problem else []
    achieved = operations * size.images / size.seconds
    published = speed.published_peak(facts['device'])
    constant, slope = advice.fit_memory(sizes)
    count = advice.count_images(cfg, advice.recipe_batch(cfg, facts['devices']))
    whole = min(rate * facts['devices'], per_core * facts['cores'])
    result.step = dict(
        images=size.images,
        side=side,
        whole_side=subject.side,
        seconds=size.seconds,
        dtype=dtype,
        rate=rate,
        gain=tuned.gain,
        default_seconds=tuned.default_seconds,
        trials=[dict(name=t.switch.name, status=t.status, reason=t.reason, gain=t.gain) for t in tuned.trials],
        sizes=[asdict(each) for each in sizes],
        operations=operations * scale,
        share_of_measured=achieved / peaks[dtype],
        share_of_published=achieved / published if published and dtype != 'float32' else None,
        memory=subject.state_bytes + constant + slope * batch.images,
        loading=per_core,
        batch=batch.images,
        accumulated=batch.steps,
        workers=workers,
        whole_rate=whole,
        images_of_recipe=count,
        hours=count / whole / 3600 if count else None,
        real_images=subject.listed.is_real,
    )
    result.settings = dict(_settings(result, cfg, subject, tuned, batch, workers, base))


def _too_large(subject: Subject, shortage: str) -> Problem:
    mend = f'set {subject.trunk}.with_cp=True, take a smaller model, or several devices (docs/scale.md)'
    return Problem('memory', f'{shortage} at {subject.fewest} images in a step; {mend}')


def _settings(result, cfg, subject, tuned, batch, workers, base) -> Iterator[tuple[str, advice.Setting]]:
    """Values and reasons by key, of what differs from the config."""
    step = result.step
    gains = {key: trial.gain for trial in tuned.trials for key in trial.switch.options if trial.status == 'faster'}
    for key, value in tuned.options.items():
        alone = f'{gains.get(key, tuned.gain):.2f} times as fast'
        yield key, (value, f'{alone} in steps of {step["images"]} images')
    if base and KERNEL_KEY not in tuned.options:
        yield KERNEL_KEY, (base[KERNEL_KEY], 'others are wrong here')
    if batch.problem is None:
        if batch.images != cfg.train_dataloader.get('batch_size', 1):
            why = f'{step["memory"] / 2**30:.1f} of {machine.total_memory(subject.device) / 2**30:.1f} GiB'
            yield 'train_dataloader.batch_size', (batch.images, why)
        if batch.steps != cfg.optim_wrapper.get('accumulative_counts', 1):
            total = batch.images * batch.steps * result.facts['devices']
            if advice.counts_updates(cfg):
                what = f"{batch.steps} steps must be accumulated for the recipe's {total} images per update"
                mend = f'make max_iters, schedules and intervals {batch.steps} times as long (docs/training.md)'
                result.problems.append(warn('optim_wrapper.accumulative_counts', f'{what}; {mend}'))
            else:
                why = f"{result.facts['devices']} x {batch.images} x {batch.steps} = the recipe's {total} images"
                yield 'optim_wrapper.accumulative_counts', (batch.steps, why)
    if workers != cfg.train_dataloader.get('num_workers', 0):
        why = f'each loads {step["loading"]:.0f} images/s, a device takes {step["rate"]:.3g}'
        yield 'train_dataloader.num_workers', (workers, why)


def write(result: Diagnosis, config: str, path: Path) -> None:
    """Write machine.py for a config that was examined."""
    facts, step = result.facts, result.step
    versions = f'torch {facts["torch"]}, beit_mm {facts["beit_mm"]}'
    notes = [f'Written by `beit-mm doctor` on {date.today()} for {facts["device"]}, {versions}.']
    notes += ['', f'    python tools/train.py {path}', '']
    notes.append(f'{step["rate"]:.3g} images/s on a device, {step["gain"]:.2f} times as fast as the defaults.')
    advice.write_machine(path, config, result.settings, describe_machine(torch.device(facts['kind'])), notes)
