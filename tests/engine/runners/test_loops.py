"""Loops that resume exactly: other sizes of a step, and loaders that are refused."""

from types import SimpleNamespace

import pytest
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from support.line_model import build, EightNumbers, Signal
from torch.utils.data import DataLoader

from beit_mm.engine.hooks.stop_hook import TrainingStopped
from beit_mm.engine.runners import loops
from beit_mm.registry import DATASETS


@DATASETS.register_module('TenNumbers')
class Ten(EightNumbers):
    def __len__(self):
        return 10


class Seen(Hook):
    """Which samples each epoch trained on."""

    def __init__(self):
        self.epochs = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.epochs.setdefault(runner.epoch, []).extend(data_batch['x'].int().tolist())


def test_smaller_steps_after_the_end_of_an_epoch_use_all_samples_of_the_next(tmp_path):
    """Ten images are two steps of eight, as long as eight steps of two, but five are an epoch."""

    def resized(batch_size, *hooks, **kwargs):
        runner = build(tmp_path, *hooks, epochs=3, interval=100, **kwargs)
        runner._train_dataloader.update(batch_size=batch_size, dataset=dict(type='TenNumbers'))
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


def test_an_iteration_outside_the_epoch_is_refused(tmp_path):
    """A checkpoint of MMEngine's loop does not say how many images a step had."""
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
def test_a_loader_without_a_batch_is_refused_and_a_built_one_runs_in_mmengines_loop(by_epoch, tmp_path):
    runner = build(tmp_path / 'large', by_epoch=by_epoch)
    runner._train_dataloader.update(batch_size=16, drop_last=True)
    with pytest.raises(ValueError, match='train_dataloader holds no batch: 8 images for batches of 16'):
        runner.train()
    runner = build(tmp_path / 'built', by_epoch=by_epoch)
    runner._train_dataloader = DataLoader(EightNumbers(), batch_size=2)
    runner.train()
    assert type(runner.train_loop) is (EpochBasedTrainLoop if by_epoch else IterBasedTrainLoop)
    assert runner.iter == runner.max_iters


@pytest.mark.parametrize('differs, seed', [(True, 5), (False, 8)])
def test_seeds_that_differ_by_rank_are_one_seed_of_the_run(differs, seed, monkeypatch):
    monkeypatch.setattr(loops, 'get_rank', lambda: 3)
    assert loops.seed_of_run(SimpleNamespace(seed=8, _randomness_cfg=dict(diff_rank_seed=differs))) == seed
