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
    """Count what runs inside as a part of its own, such as 'pictures', in the report of the run.

    Without a ReportHook, which holds the Stopwatch as `watch`, nothing happens.
    """
    watches = [hook.watch for hook in runner.hooks if isinstance(getattr(hook, 'watch', None), Stopwatch)]
    previous = [watch.switch(part) for watch in watches]
    try:
        yield
    finally:
        for watch, part_before in zip(watches, previous):
            watch.switch(part_before)
