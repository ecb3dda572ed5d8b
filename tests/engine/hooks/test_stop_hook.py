"""A signal ends a training with one checkpoint, from which it goes on as if nothing had happened."""

import signal
import time

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from support.line_model import build, EightNumbers, Line, names, Signal
from torch.utils.data import DataLoader

from beit_mm.checkpoint.files import find_damage, find_newest, POINTER
from beit_mm.engine.hooks.stop_hook import StopOnSignalHook, TrainingStopped
from beit_mm.engine.runners.resume_position import is_between_updates
from beit_mm.registry import DATASETS


def final(runner) -> list:
    average = next(hook for hook in runner.hooks if type(hook).__name__ == 'EMAHook').ema_model
    moments = runner.optim_wrapper.optimizer.state[runner.model.weight]
    return [runner.model.weight.tolist(), average.module.weight.tolist(), *(item.tolist() for item in moments.values())]


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory) -> list:
    runner = build(tmp_path_factory.mktemp('whole'))
    runner.train()
    return final(runner)


@pytest.fixture(autouse=True)
def no_handler_left_behind():
    """A run that was stopped is the process's last, so it leaves its own."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    'by_epoch, kept',
    [(True, ['epoch_2.pth', 'epoch_3.pth', 'epoch_4.pth']), (False, ['iter_12.pth', 'iter_16.pth', 'iter_8.pth'])],
)
@pytest.mark.parametrize(
    'stage, at, stops_at',
    [('train', 0, 1), ('train', 5, 6), ('train', 7, 8), ('after', 9, 11), ('val', 8, 8), ('save', 4, 4)],
)
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(stage, at, stops_at, by_epoch, kept, uninterrupted, tmp_path):
    """In an epoch, at its first and last step, in a validation, and while a checkpoint is written."""
    if (stage, by_epoch) == ('save', False):
        at = 3  # saved before the step is counted
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingStopped) as stopped:
        build(tmp_path, Signal(stage, at), by_epoch=by_epoch, interval=1 if by_epoch else 4).train()
    signal.signal(signal.SIGTERM, handler)
    assert stopped.value.code == 0
    # Just then a regular checkpoint was written: in a validation, and where iterations are counted.
    regular = f'epoch_{stops_at // 4}.pth' if by_epoch else f'iter_{stops_at}.pth'
    name = regular if stage in ('val', 'save') or not by_epoch and stops_at % 4 == 0 else f'iter_{stops_at}.pth'
    assert stopped.value.message == (
        f'stopped by SIGTERM after iteration {stops_at}; --resume goes on from {tmp_path / name}'
    )
    assert (tmp_path / POINTER).read_text() == str(tmp_path / name)
    assert find_newest(tmp_path) == tmp_path / name and find_damage(tmp_path / name) is None
    meta = torch.load(tmp_path / name, weights_only=False)['meta']
    assert meta['iter'] == stops_at
    runner = build(tmp_path, resume=True, by_epoch=by_epoch, interval=1 if by_epoch else 4)
    runner.train()
    assert runner.iter == 16 and final(runner) == uninterrupted
    assert names(tmp_path) == kept
    assert signal.getsignal(signal.SIGTERM) == handler


def test_only_a_complete_update_is_a_place_to_stop(tmp_path):
    with pytest.raises(TrainingStopped):
        build(tmp_path, Signal('train', 4), accumulative_counts=3).train()
    assert names(tmp_path) == ['epoch_1.pth', 'iter_6.pth']


def test_checkpoints_of_stops_stay_until_two_regular_ones_are_there(tmp_path):
    for at, expected in [
        (1, ['iter_2.pth']),
        (2, ['iter_2.pth', 'iter_3.pth']),
        (5, ['epoch_1.pth', 'iter_3.pth', 'iter_6.pth']),
        (9, ['epoch_1.pth', 'epoch_2.pth', 'iter_10.pth']),
    ]:
        with pytest.raises(TrainingStopped):
            build(tmp_path, Signal('train', at), resume=True).train()
        assert names(tmp_path) == expected


def test_if_the_stop_s_checkpoint_is_damaged_the_one_before_is_taken(tmp_path):
    for number in ('epoch_1', 'epoch_2', 'iter_10', 'epoch_3'):
        torch.save(dict(number=number), tmp_path / f'{number}.pth')
        time.sleep(0.01)
    for expected in ('epoch_3', 'iter_10', 'epoch_2', 'epoch_1'):
        assert find_newest(tmp_path).stem == expected
        (tmp_path / f'{expected}.pth').write_bytes(b'damaged')
    with pytest.raises(ValueError, match='no checkpoint of .* is whole'):
        find_newest(tmp_path)


@pytest.mark.parametrize('signals, number', [(('SIGTERM', 'SIGUSR1'), signal.SIGUSR1), (('SIGUSR1',), signal.SIGUSR1)])
def test_other_signals_stop_if_they_are_named(signals, number, tmp_path):
    with pytest.raises(TrainingStopped) as stopped:
        build(tmp_path, Signal('train', 1, number), signals=signals).train()
    assert stopped.value.message.startswith('stopped by SIGUSR1 after iteration 2')


def test_an_unknown_signal_is_told():
    with pytest.raises(ValueError, match='signals must be names such as SIGTERM, got SIGTREM'):
        StopOnSignalHook(['SIGTERM', 'SIGTREM'])


def test_a_signal_stops_one_training_of_a_runner_and_not_the_next(tmp_path):
    told = Signal('train', 5)
    runner = build(tmp_path, told)
    with pytest.raises(TrainingStopped):
        runner.train()
    told.at = -1
    runner.train()
    assert runner.iter == 16
    for epoch in (2, 3, 4):
        meta = torch.load(tmp_path / f'epoch_{epoch}.pth', weights_only=False)['meta']
        assert (meta['epoch'], meta['iter']) == (epoch, 4 * epoch)


@pytest.mark.parametrize('loop, expected', [('mmengine.EpochBasedTrainLoop', True), ('EpochTrainLoop', False)])
def test_a_loop_that_begins_a_stopped_epoch_anew_is_told(loop, expected, tmp_path):
    runner = build(tmp_path, epochs=1)
    runner._train_loop['type'] = loop
    messages = []
    runner.logger.warning = lambda message: messages.append(str(message))
    runner.train()
    assert any('a resumed EpochBasedTrainLoop begins that epoch again' in message for message in messages) == expected


class Driven(Line):
    """Trained by one of several optimisers."""

    def train_step(self, data, optim_wrapper):
        losses = self(**data)
        optim_wrapper['line'].update_params(losses['loss'])
        return losses


def test_several_optimisers_train_stop_and_save(tmp_path):
    runner = build(tmp_path, Signal('train', 5))
    runner.model = Driven()
    runner.optim_wrapper = OptimWrapperDict(line=OptimWrapper(torch.optim.SGD(runner.model.parameters(), lr=1e-2)))
    with pytest.raises(TrainingStopped):
        runner.train()
    assert not is_between_updates(runner)
    assert names(tmp_path) == ['epoch_1.pth', 'iter_6.pth']


@DATASETS.register_module('StopHookTen')
class Ten(EightNumbers):
    def __len__(self):
        return 10


class Seen(Hook):
    """Which samples each epoch trained on."""

    def __init__(self):
        self.epochs = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.epochs.setdefault(runner.epoch, []).extend(data_batch['x'].int().tolist())


def test_smaller_steps_after_the_end_of_an_epoch_leave_nothing_of_the_next_out(tmp_path):
    """Ten images are two steps of eight, as long as eight steps of two, but five are an epoch."""

    def resized(batch_size, *hooks, **kwargs):
        runner = build(tmp_path, *hooks, epochs=3, interval=100, **kwargs)
        runner._train_dataloader.update(batch_size=batch_size, dataset=dict(type='StopHookTen'))
        runner._train_loop.update(allow_world_size_change=True)
        return runner

    with pytest.raises(TrainingStopped):
        resized(8, Signal('train', 1)).train()
    seen = Seen()
    runner = resized(2, seen, resume=True)
    runner.train()
    assert runner.iter == 15
    assert {epoch: sorted(samples) for epoch, samples in seen.epochs.items()} == {
        epoch: list(range(1, 11)) for epoch in (1, 2)
    }


def test_an_iteration_outside_the_epoch_is_told(tmp_path):
    """Of MMEngine's loop, whose checkpoints do not say how many images a step had."""
    runner = build(tmp_path, epochs=2)
    runner._train_loop['type'] = 'mmengine.EpochBasedTrainLoop'
    runner._train_dataloader['batch_size'] = 1
    runner.train()
    with pytest.raises(
        ValueError,
        match='iteration 16 of the checkpoint lies outside epoch 3 of 4 steps: was it '
        'written with another number of images per step',
    ):
        build(tmp_path, resume=True).train()


@pytest.mark.parametrize('by_epoch', [True, False], ids=['epochs', 'iterations'])
def test_a_loader_that_cannot_be_is_told(by_epoch, tmp_path):
    runner = build(tmp_path / 'large', by_epoch=by_epoch)
    runner._train_dataloader.update(batch_size=16, drop_last=True)
    with pytest.raises(ValueError, match='train_dataloader holds no batch: 8 images for batches of 16'):
        runner.train()
    runner = build(tmp_path / 'built', by_epoch=by_epoch)
    runner._train_dataloader = DataLoader(EightNumbers(), batch_size=2)
    with pytest.raises(ValueError, match='TrainLoop needs the config of its loader, got a DataLoader'):
        runner.train()
