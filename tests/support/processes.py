"""Functions and trainings on several gloo processes of this machine."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from beit_mm.engine.runners import launch
from support import tools
from support.tools import forkserver, leave_text_as_it_is

TIMEOUT = 120  # seconds


def together(number: int, folder: Path, function: Callable, *arguments) -> list:
    """What a function returns in so many processes, which are one group; its first argument is the rank."""
    folder.mkdir(parents=True, exist_ok=True)
    results = [folder / f'result_{time.monotonic_ns()}_{rank}.pt' for rank in range(number)]
    processes = [forkserver.Process(target=_work, args=(rank, results, function, arguments)) for rank in range(number)]
    for process in processes:
        process.start()
    end = time.monotonic() + TIMEOUT
    try:
        while any(process.is_alive() for process in processes) and time.monotonic() < end:
            time.sleep(0.01)
            if any(process.exitcode for process in processes):
                break
        assert [process.exitcode for process in processes] == [0] * number
    finally:
        for process in processes:
            process.kill()
            process.join()
    return [torch.load(path, weights_only=False) for path in results]


def _work(rank: int, results: list[Path], function: Callable, arguments: tuple) -> None:
    torch.set_num_threads(1)
    world_size = len(results)
    ranks = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=world_size, LOCAL_WORLD_SIZE=world_size)
    os.environ.update({name: str(value) for name, value in ranks.items()}, CUDA_VISIBLE_DEVICES='')
    if world_size > 1:
        dist.init_process_group('gloo', f'file://{results[0]}.group', rank=rank, world_size=world_size)
    torch.save(function(rank, *arguments), results[rank])
    # As tools/train.py leaves: torch's own threads abort some shutdowns.
    if world_size > 1:
        dist.barrier()
    os._exit(0)


def train(config: Path, work_dir: Path, processes: int = 1, resume: str | None = None, **options) -> dict[str, list]:
    """tools/train.py on so many processes; for each scalar the values of all steps, the mean over processes."""
    scalars = together(processes, work_dir, _train, config, work_dir, processes, resume, options)
    return {key: torch.tensor([each[key] for each in scalars], dtype=torch.float64).mean(dim=0) for key in scalars[0]}


def _train(rank: int, config: Path, work_dir: Path, processes: int, resume: str | None, options: dict) -> dict:
    leave_text_as_it_is()
    build, runners = launch._build_runner, []
    launch._build_runner = lambda *arguments: runners.append(build(*arguments)) or runners[-1]
    launcher = 'pytorch' if processes > 1 else 'none'
    tools.train(config, work_dir, resume, launcher=launcher, cfg_options=options)
    return {
        key: buffer.data[0].tolist()
        for key, buffer in runners[0].message_hub.log_scalars.items()
        if key.startswith('train/') and 'time' not in key
    }
