"""dist_train.sh goes on after a lost process, and stops cleanly after SIGTERM."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from support import ROOT
from support.tools import data_options, SMALL_TRUNK, VARIABLES

from beit_mm.checkpoint.files import find_damage, find_newest

SECONDS = 120


class Training:
    """tools/dist_train.sh on two processes, with a loader's worker each; its output goes to a file."""

    def __init__(self, digits: Path, folder: Path):
        self.log = folder / 'log.txt'
        options = [
            *SMALL_TRUNK,
            'model.head.in_channels=32',
            'model.backbone.init_cfg=None',
            *data_options(digits),
            'train_dataloader.batch_size=4',
            'train_dataloader.num_workers=1',
            'train_cfg.max_epochs=100000',
            'train_cfg.val_interval=100000',
            'param_scheduler.0.end=1',
            'param_scheduler.1.end=100000',
            'default_hooks.checkpoint.interval=1',
            'default_hooks.logger.interval=1',
        ]
        command = ['tools/dist_train.sh', 'configs/demo/finetune.py', '2', '--work-dir', folder / 'run']
        with self.log.open('w') as log:
            streams = dict(stdout=log, stderr=subprocess.STDOUT)
            environment = {**os.environ, **VARIABLES}
            self.torchrun = subprocess.Popen(
                [*command, '--cfg-options', *options], cwd=ROOT, env=environment, **streams
            )

    def wait_for(self, pattern: str) -> str:
        """The output once it has a pattern."""
        start = time.monotonic()
        while not re.search(pattern, self.log.read_text()):
            assert self.torchrun.poll() is None and time.monotonic() < start + SECONDS, self.log.read_text()[-3000:]
            time.sleep(0.05)
        return self.log.read_text()

    def ranks(self) -> list[int]:
        return children(self.torchrun.pid)


def children(pid: int) -> list[int]:
    lines = [Path(path).read_text() for path in Path(f'/proc/{pid}/task').glob('*/children')]
    return [int(child) for line in lines for child in line.split()]


@pytest.fixture
def training(digits, tmp_path):
    training = Training(digits, tmp_path)
    yield training
    left = [process for rank in training.ranks() for process in (rank, *children(rank))]
    training.torchrun.kill()
    training.torchrun.wait()
    for process in left:
        os.kill(process, signal.SIGKILL)


def test_a_lost_process_and_then_a_signal(training, tmp_path):
    training.wait_for(r'Epoch\(train\) +\[3\]\[ *5/12\]')
    lost = training.ranks()[1]
    os.kill(lost, signal.SIGKILL)
    output = training.wait_for(r'resumed epoch[^$]*Epoch\(train\) +\[\d+\]\[ *5/12\]')
    epoch, iteration = map(int, re.search(r'resumed epoch: (\d+), iter: (\d+)', output).groups())
    assert epoch >= 2 and iteration == 12 * epoch
    assert lost not in training.ranks()

    ranks = training.ranks()
    workers = [worker for rank in ranks for worker in children(rank)]
    assert len(ranks) == 2 and len(workers) >= 2
    for process in (*workers, *ranks, training.torchrun.pid):  # as Slurm tells all of a job
        os.kill(process, signal.SIGTERM)
    training.torchrun.wait(SECONDS)
    output = training.log.read_text()
    stops = re.findall(r'stopped by SIGTERM after iteration (\d+); --resume goes on from (.*)', output)
    assert len(stops) == 1
    newest = find_newest(tmp_path / 'run')
    assert stops[0] == (newest.stem.removeprefix('iter_'), str(newest)) and find_damage(newest) is None
    meta = torch.load(newest, weights_only=False)['meta']
    assert meta['iter'] == int(stops[0][0]) and meta['epoch'] == (meta['iter'] - 1) // 12 >= epoch
    for rank in ranks:
        with pytest.raises(ProcessLookupError):
            os.kill(rank, 0)
