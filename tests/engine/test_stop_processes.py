"""Signals to one of several processes, and a second signal."""
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from test_stop_hook import Signal, build, names

import beit_mm.engine.stop_hook as stop_hook
from beit_mm.engine.checkpoint_files import find_newest
from beit_mm.engine.stop_hook import TrainingStopped


@pytest.fixture(scope='module')
def context():
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['beit_mm'])
    return context


def ignore_the_first(folder: str) -> None:
    """A signal and, after more than the time in which it would be the same, another, while one step lasts."""
    stop_hook.SAME = 0.1

    class Twice(Hook):

        def before_train_iter(self, runner, *args, **kwargs):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            (Path(folder) / 'both').touch()
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGTERM)

    build(folder, Twice()).train()


def test_a_second_signal_ends_at_once_but_not_the_same_from_two_senders(context, tmp_path):
    process = context.Process(target=ignore_the_first, args=(str(tmp_path),), daemon=True)
    process.start()
    process.join(timeout=60)
    assert process.exitcode == -signal.SIGTERM
    assert (tmp_path / 'both').exists() and names(tmp_path) == []


def train_rank(rank: int, folder: str, stage: str, results) -> None:
    """One of two processes; the second gets the signal, the first is told by it."""
    torch.set_num_threads(1)
    os.environ['LOCAL_RANK'] = str(rank)
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    hooks = [Signal(stage, 5 if stage == 'train' else 4)] if rank == 1 else []
    runner = build(folder, *hooks, epochs=100, launcher='pytorch',
                   cfg=dict(model_wrapper_cfg=dict(type='MMDistributedDataParallel', device_ids=None)))
    try:
        runner.train()
    except TrainingStopped as stopped:
        results.put((rank, runner.iter, stopped.message))
        results.close()
        results.join_thread()  # the exit below would not wait for it
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)


@pytest.mark.parametrize('stage', ['train', 'val'])
def test_all_processes_stop_at_the_same_step_when_one_is_told(stage, context, tmp_path):
    results = context.Queue()
    processes = [context.Process(target=train_rank, args=(rank, str(tmp_path), stage, results), daemon=True)
                 for rank in range(2)]
    for process in processes:
        process.start()
    stops = sorted(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(timeout=20)
        assert process.exitcode == 0
    assert stops[0][1] == stops[1][1], 'iterations'
    assert stops[0][2].startswith('stopped by a signal to another process after iteration')
    assert stops[1][2].startswith('stopped by SIGTERM after iteration')
    newest = find_newest(tmp_path)
    assert str(newest) in stops[0][2] and str(newest) in stops[1][2]
