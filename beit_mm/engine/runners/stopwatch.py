"""Wall time shared out among the parts of a run, for its report."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Of named parts one runs at any moment; the seconds of all add up to the time since the start.

    It reads the host's clock alone and waits for no device: work that a device still has before it counts in the part
    in which the host first waits for it.

    Args:
        part: what runs from now on.
    """

    def __init__(self, part: str):
        self._part = part
        self._since = time.monotonic()
        self._seconds: dict[str, float] = {}

    def switch(self, part: str) -> str:
        """Another part runs from now on; the one before."""
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
    """What runs inside counts as this part in the run's report, if a ReportHook measures it.

    Args:
        runner: the runner.
        part: 'validation', 'checkpoints', 'pictures' or another name, as the report will show it.
    """
    runner.call_hook('begin_part', part=part)
    try:
        yield
    finally:
        runner.call_hook('end_part')
