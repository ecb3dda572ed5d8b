"""How fast the machine is by itself: matrix products, memory, decoding, disk, and sums over several devices."""

import ctypes
import gc
import io
import os
import re
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
import torch.distributed as dist
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

Clock = Callable[[], float]
FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
FLASH_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
ATTENTION_ON_CPU = {  # torch 2.11 does not count it
    FLASH: lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value),
    FLASH_BACKWARD: lambda grad, query, key, value, *_, **__: sdpa_backward_flop_count(grad, query, key, value),
}
JPEG = (500, 375)  # pixels, ImageNet's usual size
# Of dense matrix products in bfloat16 (float16 on V100 and T4), in TFLOP/s, from NVIDIA's data sheets; the first part
# of a device's name that fits counts.
PUBLISHED_PEAKS = {
    'B200': 2250, 'GH200': 989, 'H200': 989, 'H100 PCIe': 756, 'H100': 989, 'H20': 148, 'A100': 312, 'L40S': 362,
    'L4': 121, 'A10': 125, 'RTX 4090': 165, 'RTX 3090': 71, 'V100': 125, 'T4': 65}  # yapf: disable


def published_peak(device_name: str) -> float | None:
    """FLOP/s of dense matrix products in half precision by the vendor; None for other devices."""
    return next((peak * 1e12 for name, peak in PUBLISHED_PEAKS.items() if name in device_name), None)


def count_operations(run: Callable[[], object]) -> int:
    """Floating-point operations (two per multiply and add) of a run's matrix products, convolutions and attention."""
    with FlopCounterMode(display=False, custom_mapping=ATTENTION_ON_CPU) as counter:
        run()
    return counter.get_total_flops()


def wait_for(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def working_memory(run: Callable[[], object], device: torch.device) -> int | None:
    """Bytes at the highest point of a run less those held before it; None where Linux does not say so.

    On a CPU it is the resident memory of the process.
    """
    gc.collect()
    if device.type == 'cuda':
        wait_for(device)
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        run()
        wait_for(device)
        return torch.cuda.max_memory_allocated(device) - held
    try:
        ctypes.CDLL(None).malloc_trim(0)  # freed memory that the allocator keeps would hide what a run takes
        Path('/proc/self/clear_refs').write_text('5')  # the peak begins anew, see proc(5)
    except (AttributeError, OSError):
        return None
    held = _resident('VmRSS')
    run()
    return max(_resident('VmHWM') - held, 0)


def _resident(name: str) -> int:
    return 1024 * int(re.search(rf'^{name}:\s+(\d+) kB', Path('/proc/self/status').read_text(), re.MULTILINE)[1])


def time_in_turn(
    runs: dict[str, Callable[[], object]], rounds: int, device: torch.device, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of every run in every round. In a round all run once after the other, so that what else the machine
    does meets all of them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            wait_for(device)
            start = clock()
            run()
            wait_for(device)
            seconds[name].append(clock() - start)
    return seconds


def _warm_seconds(run: Callable[[], object], rounds: int, device: torch.device) -> list[float]:
    return time_in_turn({'': run}, rounds + 1, device)[''][1:]


def measure_all(device: torch.device, has_bfloat16: bool, devices: int) -> dict[str, Any]:
    """By name, in FLOP/s, bytes/s and images/s."""
    dtypes = [torch.float32, *([torch.bfloat16] if has_bfloat16 else [])]
    dtypes += [torch.float16] if device.type == 'cuda' else []  # on a CPU it takes minutes
    speeds = dict(products=measure_products(device, dtypes), memory=measure_memory(device))
    speeds |= dict(decoding=measure_decoding(), disk=measure_disk(Path()))
    return speeds | (dict(sums=measure_sums(devices, 'nccl')) if devices > 1 else {})


def measure_products(device: torch.device, dtypes: Iterable[torch.dtype], rounds: int = 3) -> dict[str, float]:
    """FLOP/s of square matrix products by dtype, the best of two sizes."""
    peaks = {}
    for dtype in dtypes:
        best = 0.0
        for side in (8192, 16384) if device.type == 'cuda' else (1024, 2048):
            first, second = torch.randn(2, side, side, device=device, dtype=dtype)
            best = max(best, 2 * side**3 / min(_warm_seconds(partial(torch.mm, first, second), rounds, device)))
        peaks[str(dtype).rpartition('.')[2]] = best
    return peaks


def measure_memory(device: torch.device, rounds: int = 4) -> float:
    """Bytes per second read and written by a copy of 256 MiB, on a GPU of 2 GiB."""
    source = torch.ones((2**31 if device.type == 'cuda' else 2**28) // 4, device=device)
    copy = partial(torch.empty_like(source).copy_, source)
    return 2 * source.nbytes / statistics.median(_warm_seconds(copy, rounds, device))


def draw_jpeg() -> bytes:
    """A smooth random picture of ImageNet's usual size with some noise, about 60 KB."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (15, 20, 3), np.uint8))
    pixels = np.asarray(small.resize(JPEG, Image.Resampling.BICUBIC)) + rng.normal(0, 8, (*JPEG[::-1], 3))
    stream = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(stream, 'JPEG', quality=90)
    return stream.getvalue()


def measure_decoding() -> float:
    """JPEG files of 500 x 375 that one core decodes per second."""
    return measure_rate(partial(simplejpeg.decode_jpeg, draw_jpeg()), 100)


def measure_rate(run: Callable[[], object], count: int, limit: float = 2.0) -> float:
    """Calls per second, of `count` calls or of those that `limit` seconds allow, after one to warm up."""
    run()
    start = time.perf_counter()
    for done in range(1, count + 1):
        run()
        seconds = time.perf_counter() - start
        if seconds > limit:
            break
    return done / max(seconds, 1e-9)


def measure_disk(folder: Path, megabytes: int = 128) -> dict[str, float] | None:
    """Bytes per second written to a new file until they are on the disk, and read again without the system's copy.

    None if the folder cannot be written to. A disk in memory, or one that keeps its own copy, reads faster.
    """
    block = os.urandom(2**20)
    try:
        with tempfile.NamedTemporaryFile(dir=folder, buffering=0) as file:
            start = time.perf_counter()
            for _ in range(megabytes):
                file.write(block)
            os.fsync(file.fileno())
            written = time.perf_counter() - start
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            start = time.perf_counter()
            file.seek(0)
            while file.read(2**20):
                pass
            read = time.perf_counter() - start
    except OSError:
        return None
    return dict(write=megabytes * 2**20 / written, read=megabytes * 2**20 / read)


def measure_sums(count: int, backend: str, megabytes: int = 256, rounds: int = 5) -> float:
    """Bytes per second of a sum over `count` devices of this machine (all-reduce): the tensor's size over its time."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        meeting = f'tcp://127.0.0.1:{free.getsockname()[1]}'
    results = torch.multiprocessing.get_context('spawn').SimpleQueue()
    torch.multiprocessing.spawn(_sum, (count, meeting, backend, megabytes, rounds, results), nprocs=count)
    return megabytes * 2**20 / results.get()


def _sum(rank: int, count: int, meeting: str, backend: str, megabytes: int, rounds: int, results) -> None:
    device = torch.device('cuda', rank) if backend == 'nccl' else torch.device('cpu')
    if device.type == 'cuda':
        torch.cuda.set_device(device)
    dist.init_process_group(backend, meeting, rank=rank, world_size=count)
    tensor = torch.ones(megabytes * 2**18, device=device)
    seconds = _warm_seconds(partial(dist.all_reduce, tensor), rounds, device)
    if rank == 0:
        results.put(statistics.median(seconds))
    dist.destroy_process_group()
