"""The fastest switches of a config that change nothing, and the images that fit: compared in turn with the defaults."""

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from beit_mm.checks.problems import Problem
from beit_mm.models.tokenizers.discrete_vae import ENCODE_DTYPES

from .speed import Clock, time_in_turn, working_memory
from .steps import KERNEL_KEY, out_of_memory_as_none, Step, Subject

MIN_GAIN = 1.02  # how much faster a switch must be, beyond the noise of its rounds
ROUNDS, MIN_ROUNDS = 7, 4
COMPILING = 45.0  # seconds that a first compilation may take
MAX_STEP = 2.0  # seconds; more images than these allow are not measured
MEMORY_SHARE = 0.9  # of a device's memory that a step may take
# Allowed relative difference of the loss and of the norm of the gradients between equal steps.
TOLERANCES = {torch.float32: dict(loss=1e-4, gradient=1e-3), torch.bfloat16: dict(loss=5e-3, gradient=0.05)}


Make = Callable[[dict[str, Any], int], Step]  # a step with changed keys of the config, and a number of images


@dataclass(frozen=True)
class Switch:
    """Keys of the config that may make a step faster.

    Args:
        name: for the report.
        options: the keys and their values.
        compiles: whether it needs a compiler, and half a minute.
        changes_tokens: whether other tokens, and so another loss, are expected.
    """

    name: str
    options: dict[str, Any]
    compiles: bool = False
    changes_tokens: bool = False


@dataclass(frozen=True)
class Trial:
    """What became of a switch: `status` is 'faster', 'not faster', 'wrong' or 'not tried'; `gain` is the time of the
    default over its own.
    """

    switch: Switch
    status: str
    reason: str = ''
    gain: float | None = None
    problem: Problem | None = None


@dataclass(frozen=True)
class Size:
    """A number of images in a step, its seconds, and its working memory in bytes if that is known."""

    images: int
    seconds: float
    memory: int | None


@dataclass
class Tuning:
    """Results: the settings, what was tried, and steps of the chosen settings by their number of images."""

    options: dict[str, Any] = field(default_factory=dict)
    gain: float = 1.0
    trials: list[Trial] = field(default_factory=list)
    sizes: list[Size] = field(default_factory=list)
    default_seconds: float = math.nan
    shortage: str | None = None


def switches(subject: Subject, right_kernels: Iterable[str], kept: dict[str, float], min_kept: float) -> list[Switch]:
    """The switches that a config's parts have and that differ from what it sets.

    Args:
        right_kernels: of attention, on this device.
        kept: the share of float64's tokens that each dtype of the tokenizer keeps.
        min_kept: the least of them to choose a dtype.
    """
    found = []
    cfg, trunk, tokenizer = subject.cfg, subject.trunk, subject.tokenizer

    def add(name: str, key: str, value: object, default: object, **kind: bool) -> None:
        holder, _, last = key.rpartition('.')
        node = cfg
        for part in holder.split('.'):
            node = node[int(part)] if isinstance(node, (list, tuple)) else node[part]
        if node.get(last, default) != value:
            found.append(Switch(name, {key: value}, **kind))

    if tokenizer:
        for dtype in ENCODE_DTYPES:
            is_slow = dtype == 'float16' and subject.device.type == 'cpu'  # no arithmetic of its own: minutes
            if dtype == 'float32' or kept.get(dtype, 0.0) >= min_kept and not is_slow:
                add(f'tokenizer in {dtype}', f'{tokenizer}.encode_dtype', dtype, 'float32', changes_tokens=True)
    kernels = list(right_kernels)
    if len(kernels) > 1:
        found += [Switch(f'{name} attention', {KERNEL_KEY: [name]}) for name in kernels]
    add('no activation checkpointing', f'{trunk}.with_cp', False, False)
    add('compiled blocks', f'{trunk}.compile_blocks', True, False, compiles=True)
    if tokenizer:
        add('compiled tokenizer', f'{tokenizer}.compile_encoder', True, False, compiles=True)
    return found


def compare_numbers(switch: Switch, expected: dict[str, float], actual: dict[str, float], dtype: torch.dtype) -> str:
    """What is wrong with the first update of a switch; empty if nothing is."""
    for name, allowed in TOLERANCES[dtype].items():
        if name not in expected:
            continue
        if not math.isfinite(actual[name]):
            return f'the {name} is {actual[name]}'
        difference = abs(actual[name] - expected[name]) / max(abs(expected[name]), 1e-12)
        if difference > allowed * (20 if switch.changes_tokens else 1):
            what = f'{expected[name]:.6g} becomes {actual[name]:.6g}'
            return f'the {name} of {what}, {100 * difference:.2g} % off (allowed {100 * allowed:.2g} %)'
    return ''


def measure_gain(
    default: Step, other: Step, rounds: int, device: torch.device, clock: Clock = time.perf_counter
) -> tuple[float, float]:
    """The median of the default's time over the other's in the same rounds, and its noise (two standard errors)."""
    seconds = time_in_turn(dict(default=default, other=other), rounds, device, clock)
    gains = [first / second for first, second in zip(*seconds.values())]
    return statistics.median(gains), 2 * statistics.stdev(gains) / math.sqrt(len(gains))


def tune(
    make: Make,
    candidates: list[Switch],
    images: int,
    most_images: int,
    device: torch.device,
    time_left: Callable[[], float],
    has_compiler: bool = True,
    clock: Clock = time.perf_counter,
) -> Tuning:
    """Find the settings of a step.

    First the default with more and more images, then every switch by itself against the default, then the faster ones
    together, again against the default: what is not faster once more is left out.

    Args:
        make: builds a step.
        candidates: switches to try.
        images, most_images: the fewest and the most in a step.
        time_left: seconds that may still be used.
        has_compiler: whether torch.compile can work.
        clock: of the timing.
    """
    result = Tuning()
    result.sizes, result.shortage = measure_sizes(make, {}, images, most_images, device, time_left, clock)
    if not result.sizes:
        return result
    size = result.sizes[-1]
    result.default_seconds = size.seconds
    default = make({}, size.images)
    expected = default.numbers()

    def trial(switch: Switch) -> Trial:
        if switch.compiles and not has_compiler:
            return Trial(switch, 'not tried', 'torch.compile needs a compiler, there is none')
        cost = (3 + 2 * MIN_ROUNDS) * size.seconds + (COMPILING if switch.compiles else 0)
        if time_left() < cost:
            return Trial(switch, 'not tried', f'it takes {cost:.0f} s; --minutes gives more time')
        with out_of_memory_as_none(device) as shortages:
            step = make(switch.options, size.images)
            fault = compare_numbers(switch, expected, step.numbers(), default.dtype)
            if fault:
                what = f'{fault}; leave {", ".join(f"{key}={value}" for key, value in switch.options.items())}'
                return Trial(switch, 'wrong', what, problem=Problem(switch.name, what))
            rounds = max(MIN_ROUNDS, min(ROUNDS, int(time_left() / (6 * size.seconds))))
            gain, noise = measure_gain(default, step, rounds, device, clock)
            is_faster = gain - noise >= MIN_GAIN
            return Trial(switch, 'faster' if is_faster else 'not faster', f'noise {100 * noise:.1f} %', gain)
        return Trial(switch, 'not tried', shortages[0])

    result.trials = [trial(switch) for switch in candidates]
    # Of switches for the same key only the fastest counts.
    faster = sorted((t for t in result.trials if t.status == 'faster'), key=lambda each: -each.gain)
    chosen: dict[str, Any] = {}
    for each in faster:
        if not set(each.switch.options) & set(chosen):
            chosen |= each.switch.options
    names = [
        each.switch.name for each in faster if all(chosen[key] == value for key, value in each.switch.options.items())
    ]
    if len(names) > 1 and chosen:
        merged = Switch(' and '.join(names), chosen, any(t.switch.compiles for t in faster), True)
        together = trial(merged)
        result.trials.append(together)
        if together.status != 'faster' or together.gain < faster[0].gain:
            chosen, together = faster[0].switch.options, faster[0]
        result.options, result.gain = chosen, together.gain
    elif chosen:
        # The fastest of many may have been lucky.
        again = trial(replace(faster[0].switch, name=f'{faster[0].switch.name}, again'))
        result.trials.append(again)
        if again.status == 'faster':
            result.options, result.gain = chosen, min(again.gain, faster[0].gain)
    if result.options:
        del default
        sizes, _ = measure_sizes(make, result.options, size.images, most_images, device, time_left, clock)
        result.sizes = sizes or result.sizes
    return result


def measure_sizes(
    make: Make,
    options: dict[str, Any],
    images: int,
    most: int,
    device: torch.device,
    time_left: Callable[[], float],
    clock: Clock = time.perf_counter,
) -> tuple[list[Size], str | None]:
    """Steps of more and more images, and torch's sentence if too little memory ended them."""
    sizes: list[Size] = []
    for count in itertools.takewhile(lambda number: number <= most, (images * 2**power for power in range(20))):
        with out_of_memory_as_none(device) as shortages:
            step = make(options, count)
            step()  # makes the optimizer's states
            memory = working_memory(step, device)
            (seconds,) = time_in_turn({'': step}, 2, device, clock).values()
            sizes.append(Size(count, min(seconds), memory))
        if shortages:
            return sizes, shortages[0]
        is_long = 2 * sizes[-1].seconds > MAX_STEP or time_left() < 20 * sizes[-1].seconds
        if is_long and (len(sizes) > 1 or time_left() < 8 * sizes[-1].seconds):  # two tell what an image takes
            break
    return sizes, None
