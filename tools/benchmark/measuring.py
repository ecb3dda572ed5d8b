"""Timing candidates in turn, so that what else the machine does meets all of them."""

import ctypes
import gc
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch


@dataclass(frozen=True)
class Row:
    """One candidate.

    Args:
        section, name: what was done, and by whom or at which size.
        seconds, fastest, slowest: per item, the median round, the smallest and the largest.
        ratio: seconds over those of the section's first row, which is ours where others are compared.
        working_bytes: memory at the highest point of a run less what was held before it (weights, optimizer states,
            inputs): of the device where it is a GPU, else of the process; None where neither can be told.
        dtype: what matrix products are computed in.
        share_of_limit: of this machine's matrix products per second in that dtype, by the work that the section's
            first row needs, see limits.py.
        figures: what else was found.
    """

    section: str
    name: str
    seconds: float
    fastest: float
    slowest: float
    ratio: float
    working_bytes: int | None = None
    dtype: str = ''
    share_of_limit: float | None = None
    figures: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict:
        return asdict(self)


def compare(
    section: str, candidates: dict[str, Callable[[], object]], rounds: int, items: float | dict[str, float] = 1
) -> list[Row]:
    """Run every candidate once to warm up and once for its memory, then all in turn.

    Args:
        section: for the table.
        candidates: by name, ours first; each call works on all items.
        rounds: how often each is timed.
        items: images in one call, one number or one per candidate.

    Returns:
        One row per candidate, in their order.
    """
    items = items if isinstance(items, dict) else dict.fromkeys(candidates, items)
    memory = {}
    for name, run in candidates.items():
        run()  # also makes the optimizer's states, which every later run finds
        memory[name] = working_memory(run)
    times = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            wait_for_device()
            start = time.perf_counter()
            run()
            wait_for_device()
            times[name].append((time.perf_counter() - start) / items[name])
    return as_rows(section, times, memory)


def as_rows(section: str, times: dict[str, list[float]], memory: dict[str, int | None]) -> list[Row]:
    """Rows from the seconds per item of all rounds and the working memory of every candidate."""
    first = statistics.median(next(iter(times.values())))
    return [
        Row(
            section,
            name,
            statistics.median(seconds),
            min(seconds),
            max(seconds),
            statistics.median(seconds) / first,
            memory.get(name),
        )
        for name, seconds in times.items()
    ]


def wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def working_memory(run: Callable[[], object]) -> int | None:
    """Bytes at the highest point of a run, less those held before it; None where that cannot be told.

    On a CPU it is the resident memory of the process, which Linux tells.
    """
    gc.collect()
    if torch.cuda.is_available():
        wait_for_device()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        run()
        wait_for_device()
        return torch.cuda.max_memory_allocated() - held
    if not _reset_peak():
        run()
        return None
    held = _memory('VmRSS')
    run()
    return max(_memory('VmHWM') - held, 0)


def _reset_peak() -> bool:
    """Let the process's peak begin anew (proc(5), clear_refs); False where the system has or allows no such thing."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # freed memory that the allocator keeps would hide what a run takes
        Path('/proc/self/clear_refs').write_text('5')
    except (AttributeError, OSError):
        return False
    return True


def _memory(name: str) -> int:
    kibibytes = re.search(rf'^{name}:\s+(\d+) kB', Path('/proc/self/status').read_text(), re.MULTILINE).group(1)
    return 1024 * int(kibibytes)


def as_table(rows: Sequence[Row]) -> str:
    """Markdown, one line per row; memory is what a run takes beyond what was held before it."""
    lines = [
        '| what | who | dtype | per second | ms (fastest to slowest) | time over the first | share of the limit '
        '| working memory | found |',
        '| --- | --- | --- | --- | --- | --- | --- | --- | --- |',
    ]
    for row in rows:
        spread = f'{1e3 * row.seconds:.4g} ({1e3 * row.fastest:.4g} to {1e3 * row.slowest:.4g})'
        share = '' if row.share_of_limit is None else f'{row.share_of_limit:.0%}'
        memory = '' if row.working_bytes is None else f'{row.working_bytes / 2**20:.0f} MiB'
        found = ', '.join(f'{name} {value:.3g}' for name, value in row.figures.items())
        lines.append(
            f'| {row.section} | {row.name} | {row.dtype} | {1 / row.seconds:.4g} | {spread} | '
            f'{row.ratio:.2f} | {share} | {memory} | {found} |'
        )
    return '\n'.join(lines)
