"""How the cost of ours grows with images, batch, depth and processes."""

import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from limits import compare_steps
from measuring import as_rows, Row, Sizes, wait_for_device
from mmengine.model import MMDistributedDataParallel
from steps import build_wrapper, computing_dtype, device, dtype_name, Step
from torch import multiprocessing
from trunks import classifier_step, our_classifier

SIDES = (224, 288, 384, 512, 640)


def compare_scaling(sizes: Sizes, sides: Sequence[int] = SIDES, processes: Sequence[int] = (1, 2)) -> list[Row]:
    """Fine-tuning steps of ours; all times are per image, ratios to the first of a section.

    Args:
        sizes: `batch` is the smallest of four, each twice the one before; the other tables are made with the second.
            Depths are half, once and twice `depth`.
        sides: of images, instead of `sizes.size`; all but the first table are made with the first.
        processes: numbers of processes, one GPU each where there are GPUs, and then no more than those.
    """
    batch, batches = 2 * sizes.batch, [factor * sizes.batch for factor in (1, 2, 4, 8)]
    sizes = replace(sizes, size=sides[0], batch=batch)
    square, what = f'{sides[0]} x {sides[0]}', f'width {sizes.width}, depth {sizes.depth}'
    model, config = our_classifier(sizes)
    wrapper = build_wrapper(model, config)
    tables = [
        (
            f'image size, {what}, {batch} images',
            {f'{side} x {side}': classifier_step(model, wrapper, batch, side) for side in sides},
            batch,
        ),
        (
            f'batch, {what}, {square}',
            {f'{count} images': classifier_step(model, wrapper, count, sides[0]) for count in batches},
            {f'{count} images': count for count in batches},
        ),
    ]
    rows = [row for title, *steps in tables for row in _compare(title, *steps, sizes.rounds)]
    del model, wrapper, tables
    depths = (max(sizes.depth // 2, 1), sizes.depth, 2 * sizes.depth)
    steps = {f'{depth} blocks': _step(replace(sizes, depth=depth)) for depth in depths}
    rows += _compare(f'depth, width {sizes.width}, {square}, {batch} images', steps, batch, sizes.rounds)
    del steps
    title = f'scaling: processes, {what}, {square}, {batch} images in each'
    return rows + _compare_processes(title, sizes, processes)


def _compare(title: str, steps: dict[str, Step], images: int | dict[str, int], rounds: int) -> list[Row]:
    return compare_steps(f'scaling: {title}', steps, rounds, images, same_work=False)


def _step(sizes: Sizes, group: dist.ProcessGroup | None = None) -> Step:
    """A classifier's update, in a group of processes if there is one."""
    model, config = our_classifier(sizes)
    wrapper = build_wrapper(model, config)
    if group is not None:
        model = MMDistributedDataParallel(model, broadcast_buffers=False, process_group=group)
    return classifier_step(model, wrapper, sizes.batch, sizes.size)


def _compare_processes(section: str, sizes: Sizes, processes: Sequence[int]) -> list[Row]:
    """Images per second of all processes together, and its share of as many times one process.

    On a CPU every process has its share of the threads when all run, also when it runs alone.
    """
    if device() == 'cuda':
        processes = [count for count in processes if count <= torch.cuda.device_count()]
    threads = max(torch.get_num_threads() // max(processes), 1)
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_train, (folder, threads, processes, sizes), nprocs=max(processes))
        times = json.loads((Path(folder) / 'seconds.json').read_text())
    names = [f'{count} processes' if count > 1 else '1 process' for count in processes]
    rows = []
    for count, row in zip(processes, as_rows(section, dict(zip(names, times)), {})):
        factor = count / processes[0]
        figures = {f'share of {factor:g} times the first': 1 / factor / row.ratio} if rows else {}
        rows.append(replace(row, dtype=dtype_name(computing_dtype()), figures=figures))
    return rows


def _train(rank: int, folder: str, threads: int, processes: Sequence[int], sizes: Sizes) -> None:
    """One of the processes; those beyond a number wait until it is done. The first writes the seconds per image."""
    torch.set_num_threads(threads)
    if device() == 'cuda':
        torch.cuda.set_device(rank)
    backend, address = 'nccl' if device() == 'cuda' else 'gloo', f'file://{folder}/meeting'
    dist.init_process_group(backend, init_method=address, rank=rank, world_size=max(processes))
    times = []
    for count in processes:
        group = dist.new_group(range(count))
        if rank < count:
            step = _step(sizes, group if count > 1 else None)
            times.append([seconds / (sizes.batch * count) for seconds in _seconds(step, sizes.rounds, group)])
        dist.barrier()
    if rank == 0:
        (Path(folder) / 'seconds.json').write_text(json.dumps(times))
    dist.destroy_process_group()
    os._exit(0)  # the interpreter's shutdown can abort in torch's threads, see beit_mm/engine/runners/launch.py


def _seconds(step: Step, rounds: int, group: dist.ProcessGroup) -> list[float]:
    """Of an update in every round, after one to warm up; all processes begin and end together."""
    seconds = []
    for _ in range(rounds + 1):
        dist.barrier(group)
        start = time.perf_counter()
        step()
        wait_for_device()
        dist.barrier(group)
        seconds.append((time.perf_counter() - start) / step.repeats)
    return seconds[1:]
