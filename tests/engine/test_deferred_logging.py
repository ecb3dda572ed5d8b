"""Deferred scalars make the histories that MMEngine's own hook makes."""

import pytest
import torch
from mmengine.hooks import RuntimeInfoHook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from beit_mm.engine.hooks.runtime_info_hook import DeferredRuntimeInfoHook, PendingScalars


class Line(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([3.0]))

    def forward(self, x, mode='loss'):
        return dict(loss=(self.weight * x).square().mean(), accuracy=self.weight.detach().mean())


class Data(torch.utils.data.Dataset):
    metainfo = {}

    def __len__(self):
        return 7

    def __getitem__(self, index):
        return dict(x=torch.full((2,), index + 1.0))


def run(folder, hook: str, optim_wrapper: str, log_interval: int, **kwargs) -> Runner:
    runner = Runner(
        Line(),
        str(folder),
        train_dataloader=dict(
            dataset=Data(),
            batch_size=1,
            num_workers=0,
            collate_fn=dict(type='default_collate'),
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=2),
        optim_wrapper=dict(type=optim_wrapper, optimizer=dict(type='SGD', lr=1e-3), clip_grad=dict(max_norm=1.0)),
        default_hooks=dict(
            runtime_info=dict(type=hook, **kwargs),
            logger=dict(type='LoggerHook', interval=log_interval),
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=5),
        ),
        default_scope='beit_mm',
        experiment_name=f'{folder}_{hook}'.replace('/', '_'),
        log_level='ERROR',
    )
    runner.train()
    return runner


@pytest.mark.parametrize('interval', [1, 2, 3, 7, 50])
@pytest.mark.parametrize('given', [True, False], ids=['interval', 'logger'])
def test_histories_are_mmengine_s(interval, given, tmp_path):
    ours = run(
        tmp_path / 'ours',
        'DeferredRuntimeInfoHook',
        'AutocastOptimWrapper',
        interval,
        **(dict(interval=interval) if given else {}),
    )
    host = run(tmp_path / 'host', 'mmengine.RuntimeInfoHook', 'mmengine.OptimWrapper', interval)
    for key in ('train/loss', 'train/accuracy', 'train/grad_norm'):
        actual, expected = (runner.message_hub.get_scalar(key).data for runner in (ours, host))
        assert len(expected[0]) == 14
        assert actual[0].tolist() == pytest.approx(expected[0].tolist()) and (actual[1] == expected[1]).all(), key


@pytest.mark.parametrize('interval', [1, 3, 50])
def test_scalars_are_fetched_when_they_are_logged(interval, tmp_path, monkeypatch):
    fetches, fetch = [], PendingScalars.fetch
    monkeypatch.setattr(PendingScalars, 'fetch', lambda self: fetches.append(0) or fetch(self))
    run(tmp_path, 'DeferredRuntimeInfoHook', 'AutocastOptimWrapper', interval)
    # Logs, ends of both epochs, and the three checkpoints.
    assert len(fetches) == {1: 14, 3: 6, 50: 2}[interval] + 3


def test_a_checkpoint_holds_all_scalars_so_far(tmp_path):
    run(tmp_path, 'DeferredRuntimeInfoHook', 'AutocastOptimWrapper', 50, interval=50)
    saved = torch.load(tmp_path / 'iter_5.pth', weights_only=False)['message_hub']['log_scalars']
    assert len(saved['train/loss'].data[0]) == 5 and len(saved['train/grad_norm'].data[0]) == 5


def test_our_wrapper_without_the_hook_logs_as_mmengine_s(tmp_path):
    runner = run(tmp_path, 'mmengine.RuntimeInfoHook', 'AutocastOptimWrapper', 50)
    assert len(runner.message_hub.get_scalar('train/grad_norm').data[0]) == 14
    assert runner.optim_wrapper.scalars is None


def test_one_transfer_fetches_tensors_and_numbers_in_their_order():
    scalars = PendingScalars()
    for key, value in (
        ('a', torch.tensor([1.5], requires_grad=True)),
        ('b', 2),
        ('a', torch.tensor(3, dtype=torch.int64)),
    ):
        scalars.add(key, value)
    assert scalars.fetch() == [('a', 1.5), ('b', 2), ('a', 3.0)]
    assert scalars.fetch() == []
    assert issubclass(DeferredRuntimeInfoHook, RuntimeInfoHook)


def test_scalars_of_several_devices_take_one_transfer_each(monkeypatch):
    stack, devices = torch.stack, []

    def give(tensors):
        devices.append({tensor.device.type for tensor in tensors})
        return stack(tensors) if devices[-1] == {'cpu'} else torch.arange(len(tensors)) + 7.0

    monkeypatch.setattr(torch, 'stack', give)
    scalars = PendingScalars()
    for number, device in enumerate(('cpu', 'meta', 'cpu', 'meta')):
        scalars.add('value', torch.full((), float(number), device=device))
    assert [value for _, value in scalars.fetch()] == [0.0, 7.0, 2.0, 8.0]
    assert devices == [{'cpu'}, {'meta'}]
