"""Deferred scalars make the histories that MMEngine's own hook makes."""

import pytest
import torch
from mmengine.runner import Runner
from support import line_model

from beit_mm.engine.optimizers.autocast_wrapper import DeferredScalars


class Line(line_model.Line):
    """Logs a number among tensors, in some steps."""

    def train_step(self, data, optim_wrapper):
        losses = super().train_step(data, optim_wrapper)
        return losses if data['x'][0] > 4 else dict(first=float(data['x'][0]), **losses)


def run(folder, log_interval: int, hook='DeferredRuntimeInfoHook', wrapper='AutocastOptimWrapper', **options) -> Runner:
    """Two epochs of four steps, saved after five and eight."""
    runner = line_model.build(
        folder,
        model=Line(),
        epochs=2,
        optim_wrapper=dict(type=wrapper, optimizer=dict(type='SGD', lr=1e-3), clip_grad=dict(max_norm=1.0)),
        default_hooks=dict(
            runtime_info=dict(type=hook, **options),
            logger=dict(type='LoggerHook', interval=log_interval),
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=5),
        ),
    )
    runner.train()
    return runner


@pytest.mark.parametrize(
    'interval, options, num_fetches', [(1, {}, 8), (3, {}, 4), (50, {}, 2), (50, dict(interval=3), 4)]
)
def test_histories_equal_those_of_mmengine_and_are_fetched_when_they_are_logged_or_saved(
    interval, options, num_fetches, tmp_path, monkeypatch
):
    """And at the ends of both epochs. A checkpoint holds all so far."""
    fetches, flush = [], DeferredScalars.flush
    monkeypatch.setattr(DeferredScalars, 'flush', lambda self, hub: fetches.append(0) or flush(self, hub))
    ours = run(tmp_path / 'ours', interval, **options)
    assert len(fetches) == num_fetches + 2
    saved = torch.load(tmp_path / 'ours' / 'iter_5.pth', weights_only=False)['message_hub']['log_scalars']
    assert len(saved['train/loss'].data[0]) == 5 and len(saved['train/grad_norm'].data[0]) == 5
    host = run(tmp_path / 'host', interval, 'mmengine.RuntimeInfoHook', 'mmengine.OptimWrapper')
    for key, count in {'train/loss': 8, 'train/accuracy': 8, 'train/grad_norm': 8, 'train/first': 4}.items():
        actual, expected = (runner.message_hub.get_scalar(key).data for runner in (ours, host))
        assert len(expected[0]) == count
        assert actual[0].tolist() == pytest.approx(expected[0].tolist()) and (actual[1] == expected[1]).all(), key
