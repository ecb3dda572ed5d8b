"""The fastest switches of a config that change nothing, and the images that fit: compared in turn with the defaults."""

import itertools
import math
import statistics
import time
from collections.abc import Callable, Container
from typing import Any, NamedTuple

import torch

from beit_mm.config.parts import get
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


class Switch(NamedTuple):
    """Keys of the config that may make a step faster, and what became of them.

    Attributes:
        name: for the report.
        options: the keys and their values.
        compiles: whether it needs a compiler, and half a minute.
        changes_tokens: whether other tokens, and so another loss, are expected.
        status: 'faster', 'not faster', 'wrong' or 'not tried'.
        reason: of that.
        gain: the time of the default over its own; 0 if it is not known.
    """

    name: str
    options: dict[str, Any]
    compiles: bool = False
    changes_tokens: bool = False
    status: str = 'not tried'
    reason: str = ''
    gain: float = 0.0


class Size(NamedTuple):
    """A number of images in a step, its seconds, and its working memory in bytes if that is known."""

    images: int
    seconds: float
    memory: int | None


DEFAULTS = Switch('defaults', {}, gain=1.0)


def switches(subject: Subject, kernels: list[str], kept: Container[str]) -> list[Switch]:
    """The switches that a config's parts have and that differ from what it sets.

    Args:
        kernels: of attention, right on this device.
        kept: dtypes of the tokenizer that keep enough of float64's tokens.
    """
    found, trunk, tokenizer = [], subject.trunk, subject.tokenizer

    def add(name: str, key: str, value: object, default: object, **kind: bool) -> None:
        now = get(subject.cfg, key)
        if value != (default if now is None else now):
            found.append(Switch(name, {key: value}, **kind))

    for dtype in ENCODE_DTYPES if tokenizer else ():
        is_slow = dtype == 'float16' and subject.device.type == 'cpu'  # no arithmetic of its own: minutes
        if dtype == 'float32' or dtype in kept and not is_slow:
            add(f'tokenizer in {dtype}', f'{tokenizer}.encode_dtype', dtype, 'float32', changes_tokens=True)
    found += [Switch(f'{name} attention', {KERNEL_KEY: [name]}) for name in kernels if len(kernels) > 1]
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


class Tuner(NamedTuple):
    """Compares steps.

    Attributes:
        make: builds a step.
        device: that computes.
        time_left: seconds that may still be used.
        has_compiler: whether torch.compile can work.
        clock: of the timing.
    """

    make: Make
    device: torch.device
    time_left: Callable[[], float]
    has_compiler: bool = True
    clock: Clock = time.perf_counter

    def tune(
        self, switches: list[Switch], images: int, most: int
    ) -> tuple[Switch, list[Switch], list[Size], str | None]:
        """Find the settings of a step.

        First the default with more and more images, from `images` to `most`; then every switch by itself against the
        default, then the faster ones together, or if that is no better the fastest, again against the default: what is
        not faster once more is left.

        Returns:
            the choice; all that was tried; steps of the choice by their number of images; torch's sentence if too
            little memory ended those of the default.
        """
        sizes, shortage = self.measure_sizes({}, images, most)
        if not sizes:
            return DEFAULTS, [], [], shortage
        default = self.make({}, sizes[-1].images)
        expected, size = default.numbers(), sizes[-1]
        tried = [self._try(switch, default, expected, size) for switch in switches]
        faster = sorted((switch for switch in tried if switch.status == 'faster'), key=lambda switch: -switch.gain)
        names, merged = [], {}
        for switch in faster:
            if not set(switch.options) & set(merged):  # of switches for the same key only the fastest counts
                names.append(switch.name)
                merged |= switch.options
        again = [switch._replace(name=f'{switch.name}, again', gain=0.0) for switch in faster[:1]]
        if len(names) > 1:
            compiles = any(switch.compiles for switch in faster)
            again.insert(0, Switch(' and '.join(names), merged, compiles, changes_tokens=True, gain=faster[0].gain))
        for switch in again:
            tried.append(self._try(switch, default, expected, size))
            if tried[-1].status == 'faster' and tried[-1].gain >= switch.gain:
                del default  # frees its memory
                return tried[-1], tried, self.measure_sizes(switch.options, size.images, most)[0] or sizes, shortage
        return DEFAULTS, tried, sizes, shortage

    def _try(self, switch: Switch, default: Step, expected: dict[str, float], size: Size) -> Switch:
        if switch.compiles and not self.has_compiler:
            return switch._replace(reason='torch.compile needs a compiler, there is none')
        cost = (3 + 2 * MIN_ROUNDS) * size.seconds + (COMPILING if switch.compiles else 0)
        if self.time_left() < cost:
            return switch._replace(reason=f'it takes {cost:.0f} s; --minutes gives more time')
        with out_of_memory_as_none(self.device) as shortages:
            step = self.make(switch.options, size.images)
            fault = compare_numbers(switch, expected, step.numbers(), default.dtype)
            if fault:
                options = ', '.join(f'{key}={value}' for key, value in switch.options.items())
                return switch._replace(status='wrong', reason=f'{fault}; leave {options}')
            rounds = max(MIN_ROUNDS, min(ROUNDS, int(self.time_left() / (6 * size.seconds))))
            seconds = time_in_turn(dict(default=default, other=step), rounds, self.device, self.clock)
            gains = [first / second for first, second in zip(*seconds.values())]
            gain, noise = statistics.median(gains), 2 * statistics.stdev(gains) / math.sqrt(len(gains))
            status = 'faster' if gain - noise >= MIN_GAIN else 'not faster'
            return switch._replace(status=status, reason=f'noise {100 * noise:.1f} %', gain=gain)
        return switch._replace(reason=shortages[0])

    def measure_sizes(self, options: dict[str, Any], images: int, most: int) -> tuple[list[Size], str | None]:
        """Steps of more and more images, and torch's sentence if too little memory ended them."""
        sizes: list[Size] = []
        for count in itertools.takewhile(lambda number: number <= most, (images * 2**power for power in range(20))):
            with out_of_memory_as_none(self.device) as shortages:
                step = self.make(options, count)
                step()  # makes the optimizer's states
                memory = working_memory(step, self.device)
                seconds = min(time_in_turn({'': step}, 2, self.device, self.clock)[''])
                sizes.append(Size(count, seconds, memory))
            if shortages:
                return sizes, shortages[0]
            is_long = 2 * seconds > MAX_STEP or self.time_left() < 20 * seconds
            if is_long and (len(sizes) > 1 or self.time_left() < 8 * seconds):  # two tell what an image takes
                break
        return sizes, None
