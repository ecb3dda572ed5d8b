"""A training that is killed again and again resumes every time, and ends as if it had not been."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from support.checkpoints import content, differences
from support.resuming import KINDS, train, workers, write_config
from support.tools import forkserver, leave_text_as_it_is

from beit_mm.checkpoint.files import find_damage, find_newest
from beit_mm.files import PARTIAL

NO_END = 10**5
PATIENCE = 120  # seconds for a run to get further than the one before


def write(kind: str, path: Path, num_steps: int, num_workers: int = 0) -> Path:
    by_epoch = 'train_cfg.max_epochs' in KINDS[kind][1]
    length = {'train_cfg.max_epochs': num_steps // 4} if by_epoch else {'train_cfg.max_iters': num_steps}
    return write_config(kind, path, **workers(num_workers), **length, **{'default_hooks.checkpoint.max_keep_ckpts': 3})


def resume(folder: str, config: Path, work_dir: Path) -> None:
    torch.set_num_threads(1)
    os.chdir(folder)
    leave_text_as_it_is()
    train(config, work_dir, resume='auto')


def last_step(folder: Path) -> int:
    return max((int(path.stem.removeprefix('iter_')) for path in folder.glob('iter_*.pth')), default=0)


def is_saving(folder: Path) -> bool:
    return bool(list(folder.glob(f'.*{PARTIAL}*')))


@pytest.mark.parametrize(
    'kind, num_kills', [('finetune', 3), *(pytest.param(kind, 60, marks=pytest.mark.long) for kind in KINDS)]
)
def test_killed_training_ends_as_one_never_killed(kind, num_kills, in_data, tmp_path):
    generator, reached, while_saving = np.random.default_rng(0), 0, 0
    killed, whole = tmp_path / 'killed', tmp_path / 'whole'
    for kill in range(num_kills):
        config = write(kind, tmp_path / 'killed.py', NO_END, num_workers=2 * (kill % 4 == 3))
        process = forkserver.Process(target=resume, args=(os.getcwd(), config, killed))
        process.start()
        try:
            end = time.monotonic() + PATIENCE
            while last_step(killed) < reached + 2:
                assert process.is_alive() and time.monotonic() < end
                time.sleep(0.01)
            time.sleep(generator.uniform(0, 0.2))
            while kill % 2 and not is_saving(killed):
                assert process.is_alive()
            os.kill(process.pid, signal.SIGKILL)
        finally:
            process.kill()
            process.join()
        while_saving += is_saving(killed)
        assert not [path for path in killed.glob('iter_*.pth') if find_damage(path)]
        reached = int(find_newest(killed).stem.removeprefix('iter_'))
    # Every second kill waits for a save; a kill just after its last byte finds no file half written. A step whose save
    # was killed is done again, so fewer than two steps stay of some kills.
    assert while_saving >= num_kills // 4 and reached > num_kills

    last = -(-(reached + 1) // 12) * 12  # whole epochs of four steps, whole updates of three
    train(write(kind, tmp_path / 'killed.py', last), killed, resume='auto')
    train(write(kind, tmp_path / 'whole.py', last), whole)
    assert differences(content(killed / f'iter_{last}.pth'), content(whole / f'iter_{last}.pth')) == []
