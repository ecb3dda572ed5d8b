"""Timing candidates in turn, so that what else the machine does meets all of them."""
import statistics
import time
from dataclasses import asdict, dataclass
from typing import Callable, Dict, List, Sequence

import torch


@dataclass(frozen=True)
class Row:
    """One candidate: seconds per item (median, smallest and largest round), and how many times ours is as fast.

    `peak_bytes` is the device's memory at its highest, where it is a GPU.
    """
    section: str
    name: str
    seconds: float
    fastest: float
    slowest: float
    ratio: float
    peak_bytes: int = 0

    def as_dict(self) -> dict:
        return asdict(self)


def compare(section: str, candidates: Dict[str, Callable[[], object]], rounds: int, items: int = 1) -> List[Row]:
    """Run all candidates once to warm up, then in turn.

    Args:
        section: for the table.
        candidates: by name, ours first; each call works on all items.
        rounds: how often each is timed.
        items: images in one call.

    Returns:
        One row per candidate, in their order.
    """
    times = {name: [] for name in candidates}
    peaks = dict.fromkeys(candidates, 0)
    for name, run in candidates.items():
        run()
    for _ in range(rounds):
        for name, run in candidates.items():
            if torch.cuda.is_available():
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
                peaks[name] = max(peaks[name], torch.cuda.max_memory_allocated())
            times[name].append((time.perf_counter() - start) / items)
    ours = statistics.median(next(iter(times.values())))
    return [Row(section, name, statistics.median(seconds), min(seconds), max(seconds),
                statistics.median(seconds) / ours, peaks[name]) for name, seconds in times.items()]


def as_table(rows: Sequence[Row]) -> str:
    """Markdown: items per second, milliseconds per item with their spread, and the time over ours."""
    lines = ['| what | who | per second | ms (fastest to slowest) | time over ours | peak memory |',
             '| --- | --- | --- | --- | --- | --- |']
    for row in rows:
        spread = f'{1e3 * row.seconds:.4g} ({1e3 * row.fastest:.4g} to {1e3 * row.slowest:.4g})'
        memory = f'{row.peak_bytes / 2**30:.2f} GiB' if row.peak_bytes else ''
        lines.append(f'| {row.section} | {row.name} | {1 / row.seconds:.4g} | {spread} | {row.ratio:.2f} | {memory} |')
    return '\n'.join(lines)
