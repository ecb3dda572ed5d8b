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
from support.line_model import build, EightNumbers, names, Signal

import beit_mm.engine.hooks.stop_hook as stop_hook
from beit_mm.checkpoint.files import find_newest
from beit_mm.engine.hooks.stop_hook import TrainingStopped
from beit_mm.registry import DATASETS


@pytest.fixture(scope='module')
def context():
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['beit_mm'])
    return context


def ignore_the_first(folder: str) -> None:
    """A signal and, after more than the time in which it would be the same, another, while one step lasts."""
    stop_hook.REPEAT_WINDOW = 0.1

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


@DATASETS.register_module('StopProcessesFive')
class Five(EightNumbers):
    def __len__(self):
        return 5


class InThirdBatch(Hook):
    """A signal in a validation of so many batches; in unequal ones the other process is through by then."""

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx == 2:
            os.kill(os.getpid(), signal.SIGTERM)


class Gradient(Hook):
    """What of an update is in the making in this process when a validation begins."""

    priority = 'VERY_HIGH'
    value = None

    def before_val_epoch(self, runner):
        gradient = runner.model.module.weight.grad
        self.value = None if gradient is None else gradient.tolist()


def train_rank(rank: int, folder: str, stage: str | None, uneven: bool, options: dict, results) -> None:
    """One of two processes; the second gets the signal, the first is told by it.

    If uneven, the first has three batches in a validation and the second two, and the first gets it in the third.
    """
    torch.set_num_threads(1)
    os.environ['LOCAL_RANK'] = str(rank)
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    gradient = Gradient()
    hooks = []
    if stage and uneven:
        hooks = [InThirdBatch()]
    elif stage and rank == 1:
        hooks = [Signal(stage, 5 if stage == 'train' else 4)]
    runner = build(
        folder,
        gradient,
        *hooks,
        launcher='pytorch',
        **options,
        cfg=dict(model_wrapper_cfg=dict(type='MMDistributedDataParallel', device_ids=None)),
    )
    if uneven:
        runner._val_dataloader.update(
            dataset=dict(type='StopProcessesFive'),
            batch_size=1,
            sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
        )
    message = ''
    try:
        runner.train()
    except TrainingStopped as stopped:
        message = stopped.message
    results.put((rank, runner.iter, message, gradient.value))
    results.close()
    results.join_thread()  # the exit below would not wait for it
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)


def train_two(context, folder: Path, stage: str | None, uneven=False, epochs=100, **options) -> list:
    """Rank, iteration, message of the stop and gradient of both processes."""
    results = context.Queue()
    options.update(epochs=epochs)
    processes = [
        context.Process(target=train_rank, args=(rank, str(folder), stage, uneven, options, results), daemon=True)
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    try:
        ends = sorted(results.get(timeout=60) for _ in processes)
        for process in processes:
            process.join(timeout=20)
            assert process.exitcode == 0
    finally:
        for process in processes:
            process.kill()
    return ends


@pytest.mark.parametrize(
    'stage, uneven',
    [('train', False), ('val', False), ('val', True)],
    ids=['in training', 'in validation', 'in a validation of unequal lengths'],
)
def test_all_processes_stop_at_the_same_step_when_one_is_told(stage, uneven, context, tmp_path):
    stops = train_two(context, tmp_path, stage, uneven)
    assert stops[0][1] == stops[1][1], 'iterations'
    told = 0 if uneven else 1
    assert stops[told][2].startswith('stopped by SIGTERM after iteration')
    assert stops[1 - told][2].startswith('stopped by a signal to another process after iteration')
    newest = find_newest(tmp_path)
    assert str(newest) in stops[0][2] and str(newest) in stops[1][2]


def test_validations_of_unequal_lengths_hold_nobody_up(context, tmp_path):
    ends = train_two(context, tmp_path, stage=None, uneven=True, epochs=4)
    assert [end[1:3] for end in ends] == [(8, ''), (8, '')]


def test_a_stop_between_two_updates_saves_the_gradients_of_all(context, tmp_path):
    """After the fourth of steps of which three make an update."""
    ends = train_two(context, tmp_path, 'val', by_epoch=False, interval=100, accumulative_counts=3)
    assert [end[1] for end in ends] == [4, 4]
    gradients = torch.tensor([end[3] for end in ends])
    assert not torch.equal(*gradients)
    saved = torch.load(find_newest(tmp_path), weights_only=False)['beit_mm_gradients']['weight']
    torch.testing.assert_close(saved, gradients.mean(dim=0))
