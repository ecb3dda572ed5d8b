"""dist_train.sh goes on after a lost or stopped process, ends cleanly after signals, and is alone on this machine."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from support import ROOT
from support.forked_ranks import write_python
from support.tools import data_options, SMALL_TRUNK, VARIABLES

from beit_mm.checkpoint.files import find_damage, find_newest

SECONDS = 120


class Training:
    """tools/dist_train.sh on two processes, with a loader's worker each; its output goes to a file."""

    def __init__(self, digits: Path, folder: Path, *more: str):
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
            *more,
        ]
        command = ['tools/dist_train.sh', 'configs/demo/finetune.py', '2', '--work-dir', folder / 'run']
        with self.log.open('w') as log:
            streams = dict(stdout=log, stderr=subprocess.STDOUT)
            environment = {**os.environ, **VARIABLES, 'PYTHON': str(write_python(folder / 'python'))}
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


def listening_addresses(processes: list[int]) -> set[str]:
    """Hexadecimal addresses on which these processes listen for TCP connections."""
    links = [link for process in processes for link in Path(f'/proc/{process}/fd').iterdir()]
    sockets = {os.readlink(link).removeprefix('socket:[').rstrip(']') for link in links if link.exists()}
    rows = [line.split() for name in ('tcp', 'tcp6') for line in Path(f'/proc/net/{name}').read_text().splitlines()[1:]]
    return {row[1].split(':')[0] for row in rows if row[3] == '0A' and row[9] in sockets}


@pytest.fixture
def start(digits, tmp_path):
    started = []

    def start(*options: str) -> Training:
        started.append(Training(digits, tmp_path, *options))
        return started[-1]

    yield start
    for training in started:
        left = [process for rank in training.ranks() for process in (rank, *children(rank))]
        training.torchrun.kill()
        training.torchrun.wait()
        for process in left:
            os.kill(process, signal.SIGKILL)


def assert_gone(processes: list[int], seconds: float) -> None:
    end = time.monotonic() + seconds
    while alive := [process for process in processes if Path(f'/proc/{process}').exists()]:
        assert time.monotonic() < end, alive
        time.sleep(0.1)


def test_a_lost_process_and_then_a_signal(start, tmp_path):
    training = start()
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
    assert listening_addresses([training.torchrun.pid, *ranks, *workers]) == {'0100007F'}, '127.0.0.1'
    for process in (*workers, *ranks, training.torchrun.pid):  # as Slurm tells all of a job
        os.kill(process, signal.SIGTERM)
    assert training.torchrun.wait(SECONDS) == 0
    output = training.log.read_text()
    stops = re.findall(r'stopped by SIGTERM after iteration (\d+); --resume goes on from (.*)', output)
    newest = find_newest(tmp_path / 'run')
    stop = newest.stem.removeprefix('iter_'), str(newest)
    assert stops == [stop] * 2 and output.splitlines()[-1].startswith('stopped by SIGTERM'), 'in the log, and last'
    assert find_damage(newest) is None
    meta = torch.load(newest, weights_only=False)['meta']
    assert meta['iter'] == int(stop[0]) and meta['epoch'] == (meta['iter'] - 1) // 12 >= epoch
    assert_gone(ranks, 0)


@pytest.mark.long
def test_processes_end_with_their_launcher_and_save(start, tmp_path):
    training = start()
    training.wait_for(r'Epoch\(train\) +\[2\]\[ *5/12\]')
    ranks = training.ranks()
    workers = [worker for rank in ranks for worker in children(rank)]
    training.torchrun.kill()
    assert_gone([*ranks, *workers], SECONDS)
    newest = find_newest(tmp_path / 'run')
    assert f'stopped by SIGTERM after iteration {newest.stem.removeprefix("iter_")};' in training.log.read_text()


@pytest.mark.long
def test_a_stopped_process_is_named_and_all_go_on_from_the_step_before(start, tmp_path):
    training = start('default_hooks.watchdog.limit=5', 'default_hooks.checkpoint.interval=1000')
    training.wait_for(r'Epoch\(train\) +\[2\]\[ *5/12\]')
    os.kill(training.ranks()[1], signal.SIGSTOP)
    output = training.wait_for(r'resumed epoch[^$]*Epoch\(train\) +\[\d+\]\[ *5/12\]')
    iteration, name = re.search(r'after iteration (\d+): process 1 .* --resume goes on from .*/(.*)', output).groups()
    assert name == f'iter_{iteration}.pth' and int(iteration) >= 16
    assert f', iter: {iteration}' in output
    training.torchrun.send_signal(signal.SIGINT)
    assert training.torchrun.wait(SECONDS) == 130
    assert training.log.read_text().splitlines()[-1].startswith('stopped by SIGINT')


@pytest.mark.long
@pytest.mark.parametrize(
    'word, expected', [('train_dataloader.batch_size=4000', 'holds no batch'), ('lr', 'KEY=VALUE')]
)
def test_a_mistake_is_the_last_line_and_starts_nothing_anew(word, expected, start):
    training = start(word)
    assert training.torchrun.wait(SECONDS) == 1
    output = training.log.read_text()
    assert re.match(f'error: .*{expected}', output.splitlines()[-1]) and 'Traceback' not in output
    assert output.count(expected) <= 3, 'by each process and the launcher'
