"""A training so small that its tests are about what happens around it: eight numbers and a model of two weights."""

import os
import signal
import time
from pathlib import Path

import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from beit_mm.checkpoint.files import find_newest
from beit_mm.registry import DATASETS


class Line(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((2,), 3.0))

    def forward(self, x, mode='loss'):
        if mode != 'loss':
            return [x]
        return dict(loss=(self.weight * x.mean() - 1).square().mean(), accuracy=self.weight.detach().mean())


@DATASETS.register_module('EightNumbers')
class EightNumbers(torch.utils.data.Dataset):
    metainfo = {}

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return dict(x=torch.tensor(index + 1.0))


class Half(BaseMetric):
    """An accuracy of one half, whatever was predicted."""

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(accuracy=0.5)


class Signal(Hook):
    """Sends signals to this process at one of the run's stages."""

    priority = 'LOWEST'

    def __init__(self, stage: str, at: int, number=signal.SIGTERM):
        self.stage, self.at, self.number = stage, at, number

    def _send(self, stage, runner):
        if stage == self.stage and runner.iter == self.at:
            os.kill(os.getpid(), self.number)

    def before_train_iter(self, runner, *args, **kwargs):
        self._send('train', runner)

    def after_train_iter(self, runner, *args, **kwargs):
        self._send('after', runner)

    def before_val_iter(self, runner, *args, **kwargs):
        self._send('val', runner)

    def before_save_checkpoint(self, runner, checkpoint):
        self._send('save', runner)


def loader(shuffle: bool = False) -> dict:
    """Four batches of two numbers."""
    return dict(
        dataset=dict(type='EightNumbers'),
        batch_size=2,
        num_workers=0,
        collate_fn=dict(type='default_collate'),
        sampler=dict(type='DefaultSampler', shuffle=shuffle),
    )


def build(
    folder,
    *hooks,
    model=None,
    epochs=4,
    resume=False,
    by_epoch=True,
    accumulative_counts=1,
    interval=1,
    signals=('SIGTERM', 'SIGINT', 'SIGHUP'),
    default_hooks=None,
    **kwargs,
) -> Runner:
    """Four steps an epoch, and a validation of four; other arguments replace those of the Runner."""
    newest = find_newest(Path(folder)) if resume else None
    length = dict(type='IterTrainLoop', max_iters=4 * epochs, val_interval=4)
    arguments = dict(
        model=model or Line(),
        work_dir=str(folder),
        train_cfg=dict(type='EpochTrainLoop', max_epochs=epochs) if by_epoch else length,
        val_cfg=dict(),
        val_evaluator=[Half()],
        train_dataloader=loader(shuffle=True),
        val_dataloader=loader(),
        optim_wrapper=dict(
            type='beit_mm.AutocastOptimWrapper',
            dtype='float32',
            accumulative_counts=accumulative_counts,
            optimizer=dict(type='AdamW', lr=1e-2, fused=True),
        ),
        default_hooks={
            'runtime_info': dict(type='beit_mm.DeferredRuntimeInfoHook'),
            'checkpoint': dict(
                type='beit_mm.VerifiedCheckpointHook', by_epoch=by_epoch, interval=interval, max_keep_ckpts=3
            ),
            'stop': dict(type='beit_mm.StopOnSignalHook', signals=signals),
            **(default_hooks or {}),
        },
        custom_hooks=[dict(type='EMAHook', momentum=0.5), *hooks],
        randomness=dict(seed=0),
        default_scope='beit_mm',
        load_from=newest and str(newest),
        resume=bool(newest),
        log_level='ERROR',
        experiment_name=f'{folder}_{time.time()}'.replace('/', '_'),
    )
    return Runner(**{**arguments, **kwargs})


def names(folder: Path) -> list:
    return sorted(path.name for path in folder.glob('*.pth'))
