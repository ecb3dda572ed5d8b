"""Wall time of the parts of a run, for its report."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Measures named parts of which one runs at any moment; their seconds add up to the time since the start.

    It reads the host's clock and does not wait for a device. Work that a device still has from an earlier part counts
    in the part in which the host first waits for it.

    Args:
        part: the part that runs first.
    """

    def __init__(self, part: str):
        self._part = part
        self._since = time.monotonic()
        self._seconds: dict[str, float] = {}

    def switch(self, part: str) -> str:
        """Let another part run from now on; returns the one before."""
        previous, self._part = self._part, part
        now = time.monotonic()
        self._seconds[previous] = self._seconds.get(previous, 0.0) + now - self._since
        self._since = now
        return previous

    def seconds(self) -> dict[str, float]:
        """Seconds of every part until now, in order of appearance."""
        self.switch(self._part)
        return dict(self._seconds)


@contextmanager
def timed(runner, part: str) -> Iterator[None]:
    """Count what runs inside as a part of its own in the report of the run; without a ReportHook nothing happens.

    Args:
        runner: the runner, whose ReportHook has a `watch`.
        part: 'validation', 'checkpoints', 'pictures' or another name, as the report shows it.
    """
    watch = next((hook.watch for hook in runner.hooks if isinstance(getattr(hook, 'watch', None), Stopwatch)), None)
    if watch is None:
        yield
        return
    previous = watch.switch(part)
    try:
        yield
    finally:
        watch.switch(previous)
