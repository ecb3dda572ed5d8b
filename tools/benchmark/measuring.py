"""Timing candidates in turn, so that what else the machine does meets all of them."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from beit_mm.doctor import speed


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Args:
        rounds: how often each candidate is timed.
        batch: images in a step.
        width, depth: of the trunk; a head is 64 wide.
        size: side of an image, a multiple of 16.
    """

    rounds: int
    batch: int
    width: int
    depth: int
    size: int

    @property
    def heads(self) -> int:
        return self.width // 64


@dataclass(frozen=True)
class Row:
    """One candidate.

    Args:
        section, name: what was done, and by whom or at which size.
        seconds, fastest, slowest: per item, the median round, the smallest and the largest.
        ratio: seconds over those of the section's first row, which is ours where others are compared.
        working_bytes: memory at the highest point of a run less what was held before it (weights, optimizer states,
            inputs): of the device where it is a GPU, else of the process; None where neither is known.
        dtype: what matrix products are computed in.
        share_of_limit: of this machine's matrix products per second in that dtype, by the work that the section's
            first row needs, see limits.py.
        figures: other results.
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
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    first = next(iter(medians.values()))
    return [
        Row(section, name, median, min(times[name]), max(times[name]), median / first, memory.get(name))
        for name, median in medians.items()
    ]


def wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def working_memory(run: Callable[[], object]) -> int | None:
    """Bytes at the highest point of a run, less those held before it; None where Linux does not say so."""
    return speed.working_memory(run, torch.device('cuda' if torch.cuda.is_available() else 'cpu'))


def as_table(rows: Sequence[Row], unit: str = 'per second') -> str:
    """Markdown, one line per row of a section; memory is what a run takes beyond what was held before it."""
    titles = ['who', 'dtype', unit, 'ms (fastest to slowest)', 'time over the first', 'share of the limit',
              'working memory', 'found']  # yapf: disable
    table = [titles, ['---'] * len(titles)]
    for row in rows:
        table.append([
            row.name, row.dtype, f'{1 / row.seconds:.4g}',
            f'{1e3 * row.seconds:.4g} ({1e3 * row.fastest:.4g} to {1e3 * row.slowest:.4g})', f'{row.ratio:.2f}',
            '' if row.share_of_limit is None else f'{row.share_of_limit:.0%}',
            '' if row.working_bytes is None else f'{row.working_bytes / 2**20:.0f} MiB',
            ', '.join(f'{name} {value:.3g}' for name, value in row.figures.items()),
        ])  # yapf: disable
    kept = [index for index, column in enumerate(zip(*table[2:])) if any(column)]
    return '\n'.join(f'| {" | ".join(cells[index] for index in kept)} |' for cells in table)
