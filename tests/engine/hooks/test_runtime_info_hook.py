"""Deferred scalars make the histories that MMEngine's own hook makes."""

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from beit_mm.engine.optimizers.finite_updates import DeferredScalars


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


@pytest.mark.parametrize('interval, given', [(1, False), (2, True), (3, False), (7, True), (50, False)])
def test_histories_equal_those_of_mmengine(interval, given, tmp_path):
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
    fetches, flush = [], DeferredScalars.flush
    monkeypatch.setattr(DeferredScalars, 'flush', lambda self, hub: fetches.append(0) or flush(self, hub))
    run(tmp_path, 'DeferredRuntimeInfoHook', 'AutocastOptimWrapper', interval)
    # Logs, ends of both epochs, and the three checkpoints.
    assert len(fetches) == {1: 14, 3: 6, 50: 2}[interval] + 3


def test_a_checkpoint_holds_all_scalars_so_far(tmp_path):
    run(tmp_path, 'DeferredRuntimeInfoHook', 'AutocastOptimWrapper', 50, interval=50)
    saved = torch.load(tmp_path / 'iter_5.pth', weights_only=False)['message_hub']['log_scalars']
    assert len(saved['train/loss'].data[0]) == 5 and len(saved['train/grad_norm'].data[0]) == 5


def test_the_wrapper_logs_every_ten_updates_without_the_hook(tmp_path):
    runner = run(tmp_path, 'mmengine.RuntimeInfoHook', 'AutocastOptimWrapper', 50)
    assert len(runner.message_hub.get_scalar('train/loss').data[0]) == 14
    assert len(runner.message_hub.get_scalar('train/grad_norm').data[0]) == 10


def flush(*steps: dict) -> MessageHub:
    """The histories of steps that are fetched together."""
    scalars, hub = DeferredScalars(), MessageHub('scalars')
    for iteration, step in enumerate(steps, 1):
        for name, value in step.items():
            scalars.add(name, value)
        scalars.end_step(iteration)
    assert len(scalars) == len(steps)
    scalars.flush(hub)
    assert len(scalars) == 0
    return hub


def test_tensors_and_numbers_are_fetched_in_their_order():
    hub = flush(
        dict(a=torch.tensor([1.5], requires_grad=True), b=2), dict(b=3, a=torch.tensor(3, dtype=torch.int64)), dict()
    )
    assert hub.get_scalar('a').data[0].tolist() == [1.5, 3]
    assert hub.get_scalar('b').data[0].tolist() == [2, 3]


def test_scalars_of_several_devices_take_one_transfer_each(monkeypatch):
    stack, devices = torch.stack, []

    def stack_and_note(tensors):
        devices.append({tensor.device.type for tensor in tensors})
        return stack(tensors) if devices[-1] == {'cpu'} else torch.arange(len(tensors)) + 7.0

    monkeypatch.setattr(torch, 'stack', stack_and_note)
    names = ('cpu', 'meta', 'cpu', 'meta')
    hub = flush(*(dict(value=torch.full((), float(step), device=device)) for step, device in enumerate(names)))
    assert hub.get_scalar('value').data[0].tolist() == [0.0, 7.0, 2.0, 8.0]
    assert devices == [{'cpu'}, {'meta'}]
