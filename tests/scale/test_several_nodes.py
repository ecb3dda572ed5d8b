"""Two machines, played by two launchers on this one."""

import os
import socket
import subprocess
from pathlib import Path

import pytest
from support import ROOT
from support.checkpoints import content, differences
from support.processes import TIMEOUT
from support.tools import VARIABLES


def start_node(rank: int, port: int, config: Path, work_dir: Path, log: Path) -> subprocess.Popen:
    node = dict(NNODES='2', NODE_RANK=str(rank), MASTER_ADDR='127.0.0.1', PORT=str(port))
    command = ['tools/dist_train.sh', str(config), '1', '--work-dir', str(work_dir)]
    streams = dict(stdout=log.open('w'), stderr=subprocess.STDOUT)
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **VARIABLES, **node}, **streams)


@pytest.mark.long
def test_two_nodes_train_as_two_processes_of_one(configs, pretrained, tmp_path):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    work_dir, logs = tmp_path / 'run', [tmp_path / 'node_0.txt', tmp_path / 'node_1.txt']
    nodes = [start_node(rank, port, configs / 'pretrain.py', work_dir, log) for rank, log in enumerate(logs)]
    try:
        assert [node.wait(TIMEOUT) for node in nodes] == [0, 0], [log.read_text()[-2000:] for log in logs]
    finally:
        for node in nodes:
            node.kill()
    assert 'Epoch(train) [2][2/2]' in ' '.join(logs[0].read_text().split())
    assert 'Epoch(train)' not in logs[1].read_text(), 'the main process alone logs'

    one, _ = pretrained['']
    assert sorted(path.name for path in work_dir.glob('*.pth')) == ['epoch_1.pth', 'epoch_2.pth']
    assert differences(content(work_dir / 'epoch_2.pth'), content(one / 'epoch_2.pth')) == []
