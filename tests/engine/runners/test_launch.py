"""Restarts resume from their own checkpoints; configs that resume, that cannot be read, and default hooks."""

import os
import time
from argparse import Namespace
from functools import partial

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import IterTimerHook
from mmengine.runner import CheckpointLoader, EpochBasedTrainLoop, Runner
from support import CONFIGS
from support.tiny import make, SEGMENTOR, tokenizer, trunk
from torch import nn
from torch.utils.data import DataLoader

from beit_mm.engine import PicturesHook, ReportHook
from beit_mm.engine.runners import launch
from beit_mm.errors import UserError


@pytest.fixture
def cfg(tmp_path):
    return Config(dict(work_dir=str(tmp_path / 'run'), model=dict()))


def save(cfg, name: str) -> str:
    path = f'{cfg.work_dir}/{name}.pth'
    os.makedirs(cfg.work_dir, exist_ok=True)
    torch.save(dict(state_dict={}, meta=dict(epoch=1, iter=4)), path)
    return path


@pytest.fixture
def restart(tmp_path, monkeypatch):
    """Start a second attempt of the launch."""
    (tmp_path / 'launch').mkdir()
    monkeypatch.setenv('TORCHELASTIC_ERROR_FILE', str(tmp_path / 'launch' / 'attempt_0' / '0' / 'error.json'))
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '0')
    return lambda: monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')


@pytest.mark.parametrize('name', ['epoch_2', 'epoch_9', 'model_3', None])
def test_a_restart_resumes_from_the_newest_checkpoint_of_the_launch(name, cfg, restart):
    """Whatever the clocks of this machine and of the file server say, and also if an older file was written over; never
    from an older run in the same folder.
    """
    cfg.default_hooks = dict(checkpoint=dict(filename_tmpl='model_{}.pth' if name == 'model_3' else 'epoch_{}.pth'))
    os.utime(save(cfg, 'epoch_9'), (time.time() + 1000,) * 2)
    launch._set_resume(cfg, None)
    assert 'resume' not in cfg
    if name:
        newest = save(cfg, name)
        os.utime(newest, (time.time() - 1000,) * 2)
    restart()
    launch._set_resume(cfg, None)
    assert cfg.resume and cfg.load_from == newest if name else 'resume' not in cfg


def test_a_run_that_was_resumed_falls_back_on_its_own_start(cfg, restart):
    start = save(cfg, 'epoch_9')
    launch._set_resume(cfg, start)
    restart()
    for resume in (start, 'auto'):
        launch._set_resume(cfg, resume)
        assert cfg.load_from == start


@pytest.mark.parametrize('load_from', ['other.pth', None])
def test_a_config_that_resumes_takes_the_newest_that_is_whole(load_from, cfg):
    whole = save(cfg, 'epoch_1')
    with open(save(cfg, 'epoch_2'), 'r+b') as file:
        file.truncate(100)
    cfg.resume, cfg.load_from = True, load_from
    launch._set_resume(cfg, None)
    assert cfg.resume and cfg.load_from == (load_from or whole)


@pytest.mark.parametrize('build', [trunk, tokenizer, partial(nn.Linear, 1, 1)])
@pytest.mark.parametrize('more', [None, {}, dict(meta={}), dict(meta=dict(epoch=1, iter=2))])
def test_weights_alone_are_no_run(build, more, tmp_path):
    """Runner.resume of MMEngine, by which no hook of a training loop is asked."""
    weights = build().state_dict()
    content = weights if more is None else dict(more, state_dict=weights)
    torch.save(content, tmp_path / 'first.pth')
    again = CheckpointLoader.load_checkpoint(str(tmp_path / 'first.pth'))
    torch.save(again, tmp_path / 'weights.pth')
    torch.load(tmp_path / 'weights.pth', weights_only=True)
    assert again.get('meta', {}) == content.get('meta', {}), 'stays as it is'
    runner = Runner(nn.Linear(1, 1), str(tmp_path), default_scope='mmpretrain', log_level='CRITICAL')
    runner._train_loop = EpochBasedTrainLoop(runner, DataLoader([0]), max_epochs=1)
    with pytest.raises(UserError, match='a checkpoint of a training, got weights only; use load_from without resume'):
        runner.resume(str(tmp_path / 'weights.pth'))


def test_default_hooks_that_are_none_are_left_out(tmp_path):
    """Ours as MMEngine's."""

    def hooks_of(name: str, **options) -> set:
        args = dict(config=str(CONFIGS / 'demo' / 'finetune.py'), work_dir=str(tmp_path / name), launcher='none')
        hooks = launch.prepare_config(Namespace(cfg_options=options, **args)).default_hooks
        options = dict(default_scope='mmpretrain', experiment_name=name, log_level='ERROR')
        return {type(hook) for hook in Runner(nn.Linear(1, 1), args['work_dir'], default_hooks=hooks, **options).hooks}

    assert {PicturesHook, ReportHook, IterTimerHook} <= hooks_of('all')
    options = {f'default_hooks.{name}': None for name in ('pictures', 'report', 'timer')}
    assert not {PicturesHook, ReportHook, IterTimerHook} & hooks_of('few', **options)


@pytest.mark.parametrize(
    'evaluator', [[dict(type='beit_mm.IoUMetric')], dict(metrics=[dict(type='IoUMetric', iou_metrics=['mIoU'])])]
)
def test_label_maps_are_written_with_evaluators_of_every_form_and_data_sets_in_wrappers(evaluator, in_data, tmp_path):
    config, weights, options = make(tmp_path, 'beit_segment.py', SEGMENTOR, 'model.backbone.init_cfg')
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(options)
    dataset = dict(cfg.test_dataloader.dataset, indices=2)
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[dataset])
    cfg.test_evaluator = evaluator
    cfg.tta_pipeline = dataset['pipeline'][:1] + [
        dict(
            type='TestTimeAug',
            transforms=[
                [dict(type='Resize', scale=(192, 48), keep_ratio=True)],
                dataset['pipeline'][2:3],
                dataset['pipeline'][3:],
            ],
        )
    ]
    cfg.dump(tmp_path / 'config.py')
    arguments = dict(checkpoint=str(weights), work_dir=str(tmp_path / 'run'), cfg_options=None, launcher='none')
    launch.test(
        Namespace(config=str(tmp_path / 'config.py'), out=str(tmp_path / 'maps'), show_dir=None, tta=True, **arguments)
    )
    assert len(list((tmp_path / 'maps').glob('*.png'))) == 2
