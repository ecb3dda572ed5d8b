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
from measuring import as_rows, Row, wait_for_device
from mmengine.model import MMDistributedDataParallel
from steps import build_wrapper, computing_dtype, device, dtype_name, Step
from torch import multiprocessing
from trunks import classifier_step, our_classifier

SIZES = (224, 288, 384, 512, 640)


def compare_scaling(
    rounds: int = 3,
    batch: int | None = None,
    width: int = 192,
    depth: int = 12,
    sizes: Sequence[int] = SIZES,
    processes: Sequence[int] = (1, 2),
) -> list[Row]:
    """Fine-tuning steps of ours; all times are per image, ratios to the first of a kind.

    Args:
        rounds: how often each is timed.
        batch: the smallest of four, each twice the one before; by default 1 on a CPU and 32 on a GPU. The other tables
            are made with the second.
        width, depth: of the trunk; depths are half, once and twice that. A head is 64 wide.
        sizes: sides of images; all but the first table are made with the first.
        processes: numbers of processes, one GPU each where there are GPUs, and then no more than those.
    """
    batch = batch or (32 if device() == 'cuda' else 1)
    what = f'width {width}, depth {depth}'
    model, config = our_classifier(width, depth, sizes[0])
    wrapper = build_wrapper(model, config)
    steps = {f'{size} x {size}': classifier_step(model, wrapper, 2 * batch, size) for size in sizes}
    rows = compare_steps(f'scaling: image size, {what}, {2 * batch} images', steps, rounds, 2 * batch, same_work=False)

    batches = {f'{count} images': count for count in (batch, 2 * batch, 4 * batch, 8 * batch)}
    steps = {name: classifier_step(model, wrapper, count, sizes[0]) for name, count in batches.items()}
    rows += compare_steps(f'scaling: batch, {what}, {sizes[0]} x {sizes[0]}', steps, rounds, batches, same_work=False)
    del model, wrapper, steps

    depths = {f'{count} blocks': count for count in (max(depth // 2, 1), depth, 2 * depth)}
    steps = {name: _step(width, count, sizes[0], 2 * batch) for name, count in depths.items()}
    rows += compare_steps(
        f'scaling: depth, width {width}, {sizes[0]} x {sizes[0]}, {2 * batch} images',
        steps,
        rounds,
        2 * batch,
        same_work=False,
    )
    del steps
    return rows + _compare_processes(
        f'scaling: processes, {what}, {sizes[0]} x {sizes[0]}, {2 * batch} images in each',
        rounds,
        2 * batch,
        width,
        depth,
        sizes[0],
        processes,
    )


def _step(width: int, depth: int, size: int, batch: int) -> Step:
    model, config = our_classifier(width, depth, size)
    return classifier_step(model, build_wrapper(model, config), batch, size)


def _compare_processes(
    section: str, rounds: int, batch: int, width: int, depth: int, size: int, processes: Sequence[int]
) -> list[Row]:
    """Images per second of all processes together, and its share of as many times one process.

    On a CPU every process has its share of the threads when all run, also when it runs alone.
    """
    if device() == 'cuda':
        processes = [count for count in processes if count <= torch.cuda.device_count()]
    threads = max(torch.get_num_threads() // max(processes), 1)
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(
            _train, (folder, threads, processes, rounds, batch, width, depth, size), nprocs=max(processes)
        )
        times = json.loads((Path(folder) / 'seconds.json').read_text())
    rows = as_rows(
        section,
        {f'{count} processes' if count > 1 else '1 process': seconds for count, seconds in zip(processes, times)},
        {},
    )
    return [
        replace(
            row,
            dtype=dtype_name(computing_dtype()),
            figures={}
            if count == processes[0]
            else {f'share of {count / processes[0]:g} times the first': processes[0] / count / row.ratio},
        )
        for count, row in zip(processes, rows)
    ]


def _train(
    rank: int,
    folder: str,
    threads: int,
    processes: Sequence[int],
    rounds: int,
    batch: int,
    width: int,
    depth: int,
    size: int,
) -> None:
    """One of the processes; those beyond a number wait until it is done. The first writes the seconds per image."""
    torch.set_num_threads(threads)
    if device() == 'cuda':
        torch.cuda.set_device(rank)
    dist.init_process_group(
        'nccl' if device() == 'cuda' else 'gloo',
        init_method=f'file://{folder}/meeting',
        rank=rank,
        world_size=max(processes),
    )
    times = []
    for count in processes:
        group = dist.new_group(range(count))
        if rank < count:
            model, config = our_classifier(width, depth, size)
            wrapper = build_wrapper(model, config)
            if count > 1:
                model = MMDistributedDataParallel(model, broadcast_buffers=False, process_group=group)
            step = classifier_step(model, wrapper, batch, size)
            times.append([seconds / (batch * count) for seconds in _seconds(step, rounds, group)])
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
