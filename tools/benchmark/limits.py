"""What this machine can do at most, and the share of it that a step reaches."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import simplejpeg
import torch
from measuring import compare, Row
from photographs import write_photographs
from steps import computing_dtype, device, dtype_name, Step
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


def _attention(query, key, value, *args, **kwargs) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(gradient, query, key, value, *args, **kwargs) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


ATTENTION_ON_CPU = {  # torch 2.11 does not count it
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def operations(run: Callable[[], object]) -> int:
    """Floating-point operations (two per multiply and add) of a run's matrix products and convolutions."""
    with FlopCounterMode(display=False, custom_mapping=ATTENTION_ON_CPU) as counter:
        run()
    return counter.get_total_flops()


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
    works, work = [], None
    for name, step in steps.items():
        if work is None or not same_work:
            work = operations(step.run) / images[name]
        works.append(work)
    rows = compare(section, steps, rounds, {name: step.repeats * images[name] for name, step in steps.items()})
    return [
        replace(row, dtype=dtype_name(step.dtype), share_of_limit=work / row.seconds / matrix_peak(step.dtype))
        for row, step, work in zip(rows, steps.values(), works)
    ]


def _matrix_product(dtype: torch.dtype, side: int) -> Callable[[], torch.Tensor]:
    first, second = (torch.randn(side, side, device=device(), dtype=dtype) for _ in range(2))
    return lambda: torch.mm(first, second)


def _sides() -> Sequence[int]:
    return (4096, 8192, 16384) if device() == 'cuda' else (1024, 2048, 4096)


@cache
def matrix_peak(dtype: torch.dtype) -> float:
    """Operations per second of large matrix products, the best of several sizes and rounds."""
    return max(2 * side**3 / compare('', {'': _matrix_product(dtype, side)}, rounds=5)[0].fastest for side in _sides())


def compare_limits(rounds: int = 5, megabytes: int = 512) -> list[Row]:
    """Matrix products, memory bandwidth, and one core's decoding of JPEGs.

    Args:
        rounds: how often each is timed.
        megabytes: size of what is copied.
    """
    dtypes = dict.fromkeys((torch.float32, computing_dtype(), *([torch.float16] if device() == 'cuda' else [])))
    rows = []
    for side in _sides():
        found = compare(
            f'limit: matrix products of {side}, an item is 1 GFLOP',
            {dtype_name(dtype): _matrix_product(dtype, side) for dtype in dtypes},
            rounds,
            2 * side**3 / 1e9,
        )
        rows += [replace(row, dtype=row.name) for row in found]
    source = torch.ones(megabytes * 2**20 // 4, device=device())
    target = torch.empty_like(source)
    rows += compare(
        'limit: memory, an item is 1 GB read or written',
        {'copy': lambda: target.copy_(source)},
        rounds,
        2 * source.nbytes / 1e9,
    )
    with tempfile.TemporaryDirectory() as folder:
        jpeg = write_photographs(Path(folder), count=1)[0].read_bytes()

    def decode():
        for _ in range(50):
            simplejpeg.decode_jpeg(jpeg)

    return rows + compare('limit: decoding a JPEG of 500 x 375, one core', {'simplejpeg': decode}, rounds, 50)
