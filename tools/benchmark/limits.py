"""What this machine can do at most, and the share of it that a step reaches."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import simplejpeg
import torch
from measuring import compare, Row, Sizes
from photographs import write_photographs
from steps import computing_dtype, device, dtype_name, Step

from beit_mm.doctor.speed import count_operations

SIDES = (4096, 8192, 16384) if device() == 'cuda' else (1024, 2048, 4096)  # of square matrices
MEGABYTES = 512  # of what is copied


def compare_steps(
    section: str, steps: dict[str, Step], rounds: int, images: int | dict[str, int], same_work: bool = True
) -> list[Row]:
    """Compare steps on as many images each, with the share of this machine's limit that each reaches.

    Args:
        images: in one update, or one per candidate.
        same_work: whether what the first step computes is the work of all, so that one that needs more operations
            for the same result has the lower share.
    """
    images = images if isinstance(images, dict) else dict.fromkeys(steps, images)
    counted = list(steps)[:1] if same_work else steps
    works = {name: count_operations(steps[name].run) / images[name] for name in counted}
    rows = compare(section, steps, rounds, {name: step.repeats * images[name] for name, step in steps.items()})
    first = works[rows[0].name]
    return [
        replace(
            row,
            dtype=dtype_name(step.dtype),
            share_of_limit=works.get(row.name, first) / row.seconds / matrix_peak(step.dtype),
        )
        for row, step in zip(rows, steps.values())
    ]


def _matrix_product(dtype: torch.dtype, side: int) -> Callable[[], torch.Tensor]:
    first, second = torch.randn(2, side, side, device=device(), dtype=dtype)
    return lambda: torch.mm(first, second)


@cache
def matrix_peak(dtype: torch.dtype) -> float:
    """Operations per second of large matrix products, the best of several sizes and rounds."""
    return max(2 * side**3 / compare('', {'': _matrix_product(dtype, side)}, rounds=5)[0].fastest for side in SIDES)


def compare_limits(sizes: Sizes) -> list[Row]:
    """Matrix products, memory bandwidth, and one core's decoding of JPEGs."""
    dtypes = dict.fromkeys((torch.float32, computing_dtype(), *([torch.float16] if device() == 'cuda' else [])))
    rows = []
    for side in SIDES:
        products = {dtype_name(dtype): _matrix_product(dtype, side) for dtype in dtypes}
        section = f'limit: matrix products of {side}, an item is 1 GFLOP'
        rows += [replace(row, dtype=row.name) for row in compare(section, products, sizes.rounds, 2 * side**3 / 1e9)]
    source = torch.ones(MEGABYTES * 2**20 // 4, device=device())
    target = torch.empty_like(source)
    copy = {'copy': lambda: target.copy_(source)}
    rows += compare('limit: memory, an item is 1 GB read or written', copy, sizes.rounds, 2 * source.nbytes / 1e9)
    with tempfile.TemporaryDirectory() as folder:
        jpeg = write_photographs(Path(folder), count=1)[0].read_bytes()
    decode = {'simplejpeg': lambda: [simplejpeg.decode_jpeg(jpeg) for _ in range(50)]}
    return rows + compare('limit: decoding a JPEG of 500 x 375, one core', decode, sizes.rounds, 50)
