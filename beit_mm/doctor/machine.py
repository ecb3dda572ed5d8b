"""What is here: versions, device, memory, cores, compiler; and combinations that are known to fail."""

import os
import platform
import re
import shutil
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from beit_mm.checks.problems import Problem, warn
from beit_mm.engine.hooks.machine_hook import device_name
from beit_mm.engine.optimizers.autocast_wrapper import computes_in_bfloat16
from beit_mm.errors import UserError
from beit_mm.version import __version__

HOSTS = ('mmengine', 'mmcv', 'mmpretrain', 'mmseg')
OTHERS = ('torchvision', 'numpy')
MIN_SHARED = 2**30  # bytes of /dev/shm, through which the workers of loaders send their batches


def find_device(name: str | None) -> torch.device:
    """The device of a name; None for the GPU if there is one. UserError if there is no such device."""
    name = name or ('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.empty(1, device=name).device
    except (RuntimeError, AssertionError):  # an unknown name or number, or a build of torch without it
        device = None
    if device is None or device.type not in ('cpu', 'cuda'):
        count = torch.cuda.device_count()
        raise UserError(f'--device must be cpu, or cuda or cuda:N of {count} GPUs, got {name}')
    return device


def describe(device: torch.device) -> dict[str, Any]:
    """Facts by name: texts and numbers, sizes in bytes."""
    driver, shared = Path('/proc/driver/nvidia/version'), Path('/dev/shm')
    facts: dict[str, Any] = dict(
        device=device_name(device), kind=device.type, memory=total_memory(device), free_memory=free_memory(device),
        devices=max(torch.cuda.device_count(), 1) if device.type == 'cuda' else 1,
        cores=count_cores(), threads=torch.get_num_threads(), compiler=find_compiler(device),
        shared_memory=shutil.disk_usage(shared).total if shared.is_dir() else None,
        bfloat16=computes_in_bfloat16(device.type), has_nvidia=driver.is_file(), cuda=torch.version.cuda,
        python=platform.python_version(), torch=torch.__version__, beit_mm=__version__,
    )  # yapf: disable
    facts |= {name: import_module(name).__version__ for name in (*OTHERS, *HOSTS)}
    if driver.is_file():
        match = re.search(r'\b\d{3}\.[\d.]+', driver.read_text())
        facts['driver'] = match[0] if match else 'unknown'
    if device.type == 'cuda':
        facts['capability'] = torch.cuda.get_device_capability(device)
        facts |= dict(cudnn=torch.backends.cudnn.version(), architectures=torch.cuda.get_arch_list())
    return facts


def count_cores() -> int:
    """Cores that this process may use: its affinity, and what a container leaves of their time."""
    cores = len(os.sched_getaffinity(0))
    quota = Path('/sys/fs/cgroup/cpu.max')
    if quota.is_file() and (numbers := quota.read_text().split())[0].isdigit():
        cores = min(cores, max(int(numbers[0]) // int(numbers[1]), 1))
    return cores


def total_memory(device: torch.device) -> int:
    if device.type == 'cuda':
        return torch.cuda.get_device_properties(device).total_memory
    return _memory('MemTotal', '/sys/fs/cgroup/memory.max', 0)


def free_memory(device: torch.device) -> int:
    """Bytes that a training may still take."""
    if device.type == 'cuda':
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    used = Path('/sys/fs/cgroup/memory.current')
    return _memory('MemAvailable', '/sys/fs/cgroup/memory.max', int(used.read_text()) if used.is_file() else 0)


def _memory(name: str, limit: str, used: int) -> int:
    """Bytes of a line of /proc/meminfo, or what a container's limit leaves if that is less."""
    info = Path('/proc/meminfo').read_text()
    size = 1024 * int(re.search(rf'^{name}:\s+(\d+) kB', info, re.MULTILINE)[1])
    text = Path(limit).read_text().strip() if Path(limit).is_file() else 'max'
    return min(size, int(text) - used) if text.isdigit() else size


def find_compiler(device: torch.device) -> str | None:
    """What torch.compile needs on a device: Triton on a GPU, a C++ compiler on a CPU; None if it is not there."""
    if device.type == 'cpu':
        return next(filter(None, map(shutil.which, (os.environ.get('CXX', ''), 'g++', 'clang++'))), None)
    if find_spec('triton') is None:
        return None
    # Triton compiles its launcher in C.
    has_c = any(map(shutil.which, (os.environ.get('CC', ''), 'gcc', 'clang', 'cc')))
    return f'triton {import_module("triton").__version__}' if has_c else None


def known_problems(facts: dict[str, Any]) -> Iterator[Problem]:
    """Combinations that are known to fail, as errors, and what is known to be slow or wrong in part, as warnings."""
    is_gpu, torch_version = facts['kind'] == 'cuda', facts['torch']
    if not is_gpu and facts.get('has_nvidia'):
        if facts['cuda'] is None:
            what = f'torch {torch_version} is built without CUDA, but there is an NVIDIA driver'
            yield Problem('torch', f'{what}; install a CUDA build of torch')
        else:
            what = f'torch is built for CUDA {facts["cuda"]}, but finds no GPU with the driver {facts.get("driver")}'
            yield Problem('driver', f'{what}; update the driver, or unset CUDA_VISIBLE_DEVICES')
    if is_gpu:
        major, minor = facts['capability']
        if not any(name.startswith(f'sm_{major}') for name in facts['architectures']):
            built = ', '.join(facts['architectures'])
            yield Problem('torch', f'is built for {built}, not for sm_{major}{minor}; install a build for this GPU')
        if major == 9 and tuple(map(int, re.findall(r'\d+', torch_version)[:2])) >= (2, 11):
            what = 'cuDNN attention with a bias can give NaN gradients at 64, 192, ... 576 tokens'
            yield warn('attention', f'{what} (pytorch issue 196678); the checks below say whether it does here')
    if is_gpu and not facts['bfloat16']:
        yield warn('device', 'has no bfloat16, so recipes train in float32; expect twice the time and memory')
    if facts['threads'] > facts['cores']:
        what = f'torch uses {facts["threads"]} threads on {facts["cores"]} cores, which wait for each other'
        yield warn('threads', f'{what}; set OMP_NUM_THREADS={facts["cores"]}')
    if facts['shared_memory'] is not None and facts['shared_memory'] < MIN_SHARED:
        what = f'has only {facts["shared_memory"] / 2**20:.0f} MiB, and workers of loaders send batches through it'
        yield warn('/dev/shm', f'{what}; make it larger (docker run --shm-size=8g), or set num_workers=0')
    if '+cpu' in torch_version and '+cpu' not in facts['torchvision'] and '+' in facts['torchvision']:
        what = f'{facts["torchvision"]} is not of the same build as torch {torch_version}'
        yield Problem('torchvision', f'{what}; install both from the same index')
