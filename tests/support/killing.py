"""SIGKILL, again and again, of trainings by the recipes; at the end they equal one that was never killed."""

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from beit_mm.checkpoint.files import find_damage, find_newest
from beit_mm.files import PARTIAL
from support.runners import leave_text_as_it_is
from support.runs import content, differences, KINDS, train, workers, write_config

NO_END = 10**5
PATIENCE = 120  # seconds for a run to get further than the one before


class Kills(NamedTuple):
    """What was seen: kills, those while a checkpoint was being written, and the step that was reached."""

    count: int
    while_saving: int
    step: int


def kill_and_resume(kind: str, num_kills: int, folder: Path) -> Kills:
    """Kill a training at random points, every second time while it saves, and let it resume; then compare.

    Args:
        kind: one of KINDS.
        num_kills: how many times.
        folder: an empty one; the working directory holds `data`.
    """
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['beit_mm', 'runs'])
    generator, last, while_saving = np.random.default_rng(0), 0, 0
    killed = folder / 'killed'
    for kill in range(num_kills):
        config = _write(kind, folder / 'killed.py', NO_END, num_workers=2 * (kill % 4 == 3))
        process = context.Process(target=_train, args=(os.getcwd(), config, killed))
        process.start()
        try:
            _wait_for_step(killed, last + 2, process)
            time.sleep(generator.uniform(0, 0.2))
            while kill % 2 and not list(killed.glob(f'.*{PARTIAL}.pth')):
                assert process.is_alive()
            os.kill(process.pid, signal.SIGKILL)
        finally:
            process.kill()
            process.join()
        while_saving += bool(list(killed.glob(f'.*{PARTIAL}.pth')))
        damaged = [path for path in killed.glob('iter_*.pth') if find_damage(path)]
        assert not damaged
        last = _step(find_newest(killed))
    _compare(kind, folder, last)
    return Kills(num_kills, while_saving, last)


def _compare(kind: str, folder: Path, reached: int) -> None:
    """Let the killed run come to an end, and another one without a kill to the same."""
    last = -(-(reached + 1) // 12) * 12  # whole epochs of four steps, whole updates of three
    for name in ('killed', 'whole'):
        train(
            _write(kind, folder / f'{name}.py', last, num_workers=0),
            folder / name,
            resume='auto' if name == 'killed' else None,
        )
    left, right = (content(folder / name / f'iter_{last}.pth') for name in ('killed', 'whole'))
    assert differences(left, right) == []


def _write(kind: str, path: Path, num_steps: int, num_workers: int) -> Path:
    by_epoch = 'train_cfg.max_epochs' in KINDS[kind][1]
    length = {'train_cfg.max_epochs': num_steps // 4} if by_epoch else {'train_cfg.max_iters': num_steps}
    return write_config(kind, path, **workers(num_workers), **length, **{'default_hooks.checkpoint.max_keep_ckpts': 3})


def _train(folder: str, config: Path, work_dir: Path) -> None:
    torch.set_num_threads(1)
    os.chdir(folder)
    leave_text_as_it_is()
    train(config, work_dir, resume='auto')


def _wait_for_step(folder: Path, step: int, process) -> None:
    end = time.monotonic() + PATIENCE
    while max(map(_step, folder.glob('iter_*.pth')), default=0) < step:
        assert process.is_alive() and time.monotonic() < end
        time.sleep(0.01)


def _step(path: Path) -> int:
    return int(path.stem.split('_')[1])
