"""Wall time of the parts of a run, for its report."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Measures the parts of a run by the host's clock, without waiting for a device; one part runs at any moment.

    Args:
        part: name of the first part.
    """

    def __init__(self, part: str):
        self._part, self._since = part, time.monotonic()
        self._seconds: dict[str, float] = {}

    def switch(self, part: str) -> str:
        """Begin another part; returns the one before."""
        previous, since = self._part, self._since
        self._part, self._since = part, time.monotonic()
        self._seconds[previous] = self._seconds.get(previous, 0.0) + self._since - since
        return previous

    def seconds(self) -> dict[str, float]:
        """Seconds of every part until now, in order of appearance."""
        self.switch(self._part)
        return dict(self._seconds)


@contextmanager
def timed(runner, part: str) -> Iterator[None]:
    """Count what runs inside as a part, such as 'pictures', in the report of the run, if it has a ReportHook."""
    watches = [hook.watch for hook in runner.hooks if isinstance(getattr(hook, 'watch', None), Stopwatch)]
    previous = [watch.switch(part) for watch in watches]
    try:
        yield
    finally:
        for watch, earlier in zip(watches, previous):
            watch.switch(earlier)
