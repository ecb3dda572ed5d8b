"""A signal ends a training with one checkpoint, from which it goes on as if nothing had happened."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from support.line_model import build, EightNumbers, Line, names, Signal
from support.processes import together
from support.tools import forkserver
from torch.distributed import TCPStore

from beit_mm.checkpoint.files import find_damage, find_newest, POINTER
from beit_mm.engine.hooks import stop_hook
from beit_mm.engine.hooks.stop_hook import StopOnSignalHook, TrainingStopped
from beit_mm.registry import DATASETS


def stop(*arguments, code: int = 0, **options) -> str:
    """Train until a signal; the message."""
    with pytest.raises(TrainingStopped) as stopped:
        build(*arguments, **options).train()
    assert stopped.value.code == code
    return stopped.value.message


def final(runner) -> list:
    average = next(hook for hook in runner.hooks if type(hook).__name__ == 'EMAHook').ema_model
    moments = runner.optim_wrapper.optimizer.state[runner.model.weight]
    return [runner.model.weight.tolist(), average.module.weight.tolist(), *(item.tolist() for item in moments.values())]


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory) -> list:
    runner = build(tmp_path_factory.mktemp('whole'))
    runner.train()
    return final(runner)


@pytest.mark.parametrize('by_epoch', [True, False])
@pytest.mark.parametrize(
    'stage, at, stops_at',
    [('train', 0, 1), ('train', 5, 6), ('train', 7, 8), ('after', 9, 11), ('val', 8, 8), ('save', 4, 4)],
)
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(stage, at, stops_at, by_epoch, uninterrupted, tmp_path):
    """In an epoch, at its first and last step, in a validation, and while a checkpoint is written."""
    if (stage, by_epoch) == ('save', False):
        at = 3  # saved before the step is counted
    handler, options = signal.getsignal(signal.SIGTERM), dict(by_epoch=by_epoch, interval=1 if by_epoch else 4)
    message = stop(tmp_path, Signal(stage, at), **options)
    signal.signal(signal.SIGTERM, handler)
    # In a validation, and if iterations are counted, a regular checkpoint has just been written.
    regular = f'epoch_{stops_at // 4}.pth' if by_epoch else f'iter_{stops_at}.pth'
    name = regular if stage in ('val', 'save') or not by_epoch and stops_at % 4 == 0 else f'iter_{stops_at}.pth'
    assert message == f'stopped by SIGTERM after iteration {stops_at}; --resume goes on from {tmp_path / name}'
    assert (tmp_path / POINTER).read_text() == str(tmp_path / name)
    assert find_newest(tmp_path) == tmp_path / name and find_damage(tmp_path / name) is None
    assert torch.load(tmp_path / name, weights_only=False)['meta']['iter'] == stops_at
    runner = build(tmp_path, resume=True, **options)
    runner.train()
    assert runner.iter == 16 and final(runner) == uninterrupted
    kept = ['epoch_2.pth', 'epoch_3.pth', 'epoch_4.pth'] if by_epoch else ['iter_12.pth', 'iter_16.pth', 'iter_8.pth']
    assert names(tmp_path) == kept
    assert signal.getsignal(signal.SIGTERM) == handler


def test_checkpoints_of_stops_stay_until_two_regular_ones_are_there(tmp_path):
    for at, expected in [
        (1, ['iter_2.pth']),
        (2, ['iter_2.pth', 'iter_3.pth']),
        (5, ['epoch_1.pth', 'iter_3.pth', 'iter_6.pth']),
        (9, ['epoch_1.pth', 'epoch_2.pth', 'iter_10.pth']),
    ]:
        stop(tmp_path, Signal('train', at), resume=True)
        assert names(tmp_path) == expected


@pytest.fixture
def hang_up():
    """SIGHUP is heard, also if these tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_other_signals_stop_after_a_complete_update(tmp_path, hang_up):
    """Those that are named; Ctrl-C without being named, with the exit code of shells."""
    sent = Signal('train', 4, signal.SIGUSR1)
    message = stop(tmp_path, sent, signals=('SIGTERM', 'SIGUSR1'), accumulative_counts=3)
    assert message.startswith('stopped by SIGUSR1 after iteration 6')
    assert names(tmp_path) == ['epoch_1.pth', 'iter_6.pth']
    message = stop(tmp_path, Signal('train', 6, signal.SIGINT), resume=True, code=130)
    assert message.startswith('stopped by SIGINT after iteration 7')
    message = stop(tmp_path, Signal('train', 7, signal.SIGHUP), resume=True)
    assert message.startswith('stopped by SIGHUP after iteration 8')
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    runner = build(tmp_path, Signal('train', 8, signal.SIGHUP), resume=True)
    runner.train()
    assert runner.iter == 16
    with pytest.raises(ValueError, match='signals must be names such as SIGTERM, got SIGTREM'):
        StopOnSignalHook(['SIGTERM', 'SIGTREM'])


@pytest.mark.parametrize('loop', ['EpochTrainLoop', 'mmengine.EpochBasedTrainLoop'])
def test_a_signal_stops_one_training_of_a_runner_and_not_the_next(loop, tmp_path):
    """A loop that begins a stopped epoch again is a warning."""
    sent, messages = Signal('train', 5), []
    runner = build(tmp_path, sent)
    runner._train_loop['type'] = loop
    runner.logger.warning = lambda message: messages.append(str(message))
    with pytest.raises(TrainingStopped):
        runner.train()
    warned = any('a resumed EpochBasedTrainLoop begins that epoch again' in message for message in messages)
    assert warned == loop.startswith('mmengine')
    if warned:
        return
    sent.at = -1
    runner.train()
    assert runner.iter == 16
    for epoch in (2, 3, 4):
        meta = torch.load(tmp_path / f'epoch_{epoch}.pth', weights_only=False)['meta']
        assert (meta['epoch'], meta['iter']) == (epoch, 4 * epoch)


class Driven(Line):
    """Trained by one of several optimizers."""

    def train_step(self, data, optim_wrapper):
        losses = self(**data)
        optim_wrapper['line'].update_params(losses['loss'])
        return losses


def test_several_optimizers_train_stop_and_save(tmp_path):
    model = Driven()
    wrapper = OptimWrapperDict(line=OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-2)))
    stop(tmp_path, Signal('train', 5), model=model, optim_wrapper=wrapper)
    assert names(tmp_path) == ['epoch_1.pth', 'iter_6.pth']


def hear_no_signal(folder: str, number: int) -> None:
    """In its first step the main thread waits in torch, as for a lost process. Three signals come: two at once, and the
    last after the time in which it would be the same.
    """
    stop_hook.REPEAT_WINDOW = 0.2

    def send() -> None:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        time.sleep(0.5)
        (Path(folder) / 'both').touch()
        os.kill(os.getpid(), number)

    class Deaf(Hook):
        def before_train_iter(self, runner, *args, **kwargs):
            threading.Thread(target=send).start()
            TCPStore('127.0.0.1', 0, is_master=True).get('nothing')

    build(folder, Deaf()).train()


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once_but_not_the_same_from_two_senders(number, tmp_path):
    process = forkserver.Process(target=hear_no_signal, args=(str(tmp_path), number), daemon=True)
    process.start()
    process.join(timeout=60)
    assert process.exitcode == 128 + number
    assert (tmp_path / 'both').exists() and names(tmp_path) == []


# Several processes


@DATASETS.register_module('StopProcessesFive')
class Five(EightNumbers):
    def __len__(self):
        return 5


class Gradient(Hook):
    """The gradient of an incomplete update in this process when a validation begins."""

    priority = 'VERY_HIGH'
    value = None

    def before_val_epoch(self, runner):
        gradient = runner.model.module.weight.grad
        self.value = None if gradient is None else gradient.tolist()


def train_rank(rank: int, folder: Path, stage: str | None, uneven: bool, options: dict) -> tuple:
    """Iteration, message of the stop and gradient of one of two processes; the second gets the signal.

    If uneven, the first has three batches in a validation and the second two, and the first gets it in the third.
    """
    gradient, sent = Gradient(), Signal(stage, 5 if stage == 'train' else 4)
    if uneven:
        sent.before_val_iter = lambda runner, batch_idx, *_, **__: batch_idx == 2 and sent._send('val', runner)
    wrapper = dict(model_wrapper_cfg=dict(type='MMDistributedDataParallel', device_ids=None))
    hooks = [gradient, sent] if rank == 1 - uneven else [gradient]
    runner = build(folder, *hooks, launcher='pytorch', **options, cfg=wrapper)
    if uneven:
        sampler = dict(type='DefaultSampler', shuffle=False, round_up=False)
        runner._val_dataloader.update(dataset=dict(type='StopProcessesFive'), batch_size=1, sampler=sampler)
    message = ''
    try:
        runner.train()
    except TrainingStopped as stopped:
        message = stopped.message
    return runner.iter, message, gradient.value


def train_two(folder: Path, stage: str | None, uneven: bool = False, **options) -> list[tuple]:
    return together(2, folder, train_rank, folder, stage, uneven, {'epochs': 100, **options})


@pytest.mark.parametrize('stage, uneven', [('train', False), ('val', False), ('val', True)])
def test_all_processes_stop_at_the_same_step_after_a_signal_to_one(stage, uneven, tmp_path):
    """In a training, in a validation, and in a validation of unequal lengths."""
    stops = train_two(tmp_path, stage, uneven)
    assert stops[0][0] == stops[1][0], 'iterations'
    first, second = (stops[0][1], stops[1][1]) if uneven else (stops[1][1], stops[0][1])
    assert first.startswith('stopped by SIGTERM after iteration')
    assert second.startswith('stopped by a signal to another process after iteration')
    newest = str(find_newest(tmp_path))
    assert newest in first and newest in second


def test_validations_of_unequal_lengths_hold_nobody_up(tmp_path):
    ends = train_two(tmp_path, stage=None, uneven=True, epochs=4)
    assert [end[:2] for end in ends] == [(8, ''), (8, '')]


def test_a_stop_between_two_updates_saves_the_gradients_of_all(tmp_path):
    """After the fourth of steps of which three make an update."""
    ends = train_two(tmp_path, 'val', by_epoch=False, interval=100, accumulative_counts=3)
    assert [end[0] for end in ends] == [4, 4]
    gradients = torch.tensor([end[2] for end in ends])
    assert not torch.equal(*gradients)
    saved = torch.load(find_newest(tmp_path), weights_only=False)['beit_mm_gradients']['weight']
    torch.testing.assert_close(saved, gradients.mean(dim=0))
