"""Comparisons of gpu.py's parts, of as many candidates as the time allows."""

import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import limits
from limits import compare_steps, matrix_peak
from measuring import Sizes, wait_for_device
from steps import dtype_name, Step

from beit_mm.doctor.attention import REFUSALS
from beit_mm.doctor.speed import published_peak
from beit_mm.engine.hooks.machine_hook import device_name

COMPILING = 20  # seconds: with fewer left, a candidate is not compiled
MARGIN = 5  # seconds, for counting operations and measuring the limits
Found = Iterator[dict[str, Any]]
Makers = dict[str, Callable[[], Step]]


class Run(NamedTuple):
    """How a part is run: tiny or not, the folder of all results, and when it is ended (time.monotonic)."""

    is_small: bool
    out: Path
    end: float

    def sizes(self, **whole: int) -> Sizes:
        """Of a benchmark's section: base, with `whole` instead, or tiny."""
        if self.is_small:
            limits.SIDES = (64, 256)
            return Sizes(rounds=1, batch=2, width=64, depth=6, size=48)
        return Sizes(**{**dict(rounds=3, batch=128, width=768, depth=12, size=224), **whole})


class Comparison:
    """Candidates that are built one after the other. One that fails is left out, and the others go on.

    Attributes:
        found: for the JSON. `seconds of the first call` of rows are those of building and compiling.
        costs: seconds that the timing of a candidate takes.
    """

    def __init__(self, run: Run, sizes: Sizes):
        self.run, self.sizes = run, sizes
        self.found: dict[str, Any] = dict(rows=[], left_out=[], limits={}, published=published_peak(device_name()))
        self.costs: dict[Step, float] = {}

    def add_all(self, tables: dict[str, Makers]) -> Found:
        """Compare the candidates of every table by its title; then, with the time that is left, those that compile,
        beside ours.
        """
        ours: dict[str, dict[str, Step]] = {}
        for compiles, text in ((False, ''), (True, ', with torch.compile')):
            for title, makers in tables.items():
                chosen = {name: make for name, make in makers.items() if is_compiled(name) == compiles}
                if chosen:
                    steps = self.add(title + text, chosen, ours.get(title))
                    ours[title] = {name: step for name, step in steps.items() if name == 'ours'}
                    yield self.found

    def add(self, title: str, makers: Makers, steps: dict[str, Step] | None = None, batch: int = 0) -> dict[str, Step]:
        """Build candidates, compare them with `steps`, which are built already, and return all that work."""
        steps, first_calls = dict(steps or {}), {}
        for name, make in makers.items():
            start = time.monotonic()
            left = self.run.end - MARGIN - start - sum(self.costs[step] for step in steps.values())
            try:
                with time_limit(left, least=COMPILING if is_compiled(name) else 0):
                    step = make()
                    step.run()
                    wait_for_device()
                    begin = time.monotonic()
                    step.run()
                    wait_for_device()
            except (Exception, TimeIsOver) as error:
                reason = f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'
                if isinstance(error, TimeIsOver):
                    reason = 'no time was left'
                elif str(error).startswith(REFUSALS):
                    reason = 'not offered here'
                else:
                    traceback.print_exc()
                self.found['left_out'].append(dict(section=title, name=name, reason=reason))
            else:
                steps[name], first_calls[name] = step, begin - start
                self.costs[step] = (self.sizes.rounds + 2) * step.repeats * (time.monotonic() - begin)
        for row in compare_steps(title, steps, self.sizes.rounds, batch or self.sizes.batch) if first_calls else ():
            seconds = {'seconds of the first call': first_calls[row.name]} if row.name in first_calls else {}
            self.found['rows'].append(asdict(replace(row, figures={**row.figures, **seconds})))
        self.found['limits'] |= {dtype_name(dtype): matrix_peak(dtype) for dtype in {s.dtype for s in steps.values()}}
        return steps


def is_compiled(name: str) -> bool:
    return 'compiled' in name


class TimeIsOver(BaseException):
    """No Exception, which torch.compile would catch."""


@contextmanager
def time_limit(seconds: float, least: float) -> Iterator[None]:
    """TimeIsOver in what takes longer, or at once with fewer seconds than `least`: so a compilation without end loses
    only itself.
    """

    def stop(*_: object) -> None:
        raise TimeIsOver

    if seconds <= least:
        stop()
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 3)  # again, if a destructor was interrupted, which ignores it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
