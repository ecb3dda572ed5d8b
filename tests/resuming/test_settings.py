"""What applies after a resume: the config's schedules as if always set, the checkpoint's rates, and a table."""

import re
from contextlib import nullcontext

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import FlexibleRunner, Runner
from support import line_model
from support.resuming import train, workers, write_config

from beit_mm.engine.runners.resume_settings import draw_table
from beit_mm.errors import UserError


class TwoParameters(line_model.Line):
    """So that the optimizer has two groups, of their own rates and decays."""

    def __init__(self):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.ones(1))

    def forward(self, x, mode='loss'):
        outputs = super().forward(x, mode)
        return dict(outputs, loss=outputs['loss'] + self.bias.square().sum()) if mode == 'loss' else outputs


class Rates(Hook):
    """What the optimizer is about to use in each step."""

    def __init__(self):
        self.steps = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        groups = runner.optim_wrapper.param_groups
        self.steps[runner.iter] = [[group.get(key) for key in ('lr', 'betas', 'weight_decay')] for group in groups]


def warmed_up(epochs: int, **more) -> list:
    iters = dict(by_epoch=True, **more)
    cosine = dict(type='CosineAnnealingLR', eta_min_ratio=1e-2, begin=1, end=epochs, **iters)
    return [dict(type='LinearLR', start_factor=1e-3, begin=0, end=1, **iters), cosine]


POLY = dict(type='PolyLR', eta_min=0.0, by_epoch=False, begin=0)
RISE = dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0)
MOMENTUM = dict(type='CosineAnnealingMomentum', eta_min=0.5, by_epoch=False)
DECAY = dict(type='mmpretrain.CosineAnnealingWeightDecay', eta_min=0.2, by_epoch=True, convert_to_iter_based=True)
# The schedules of a run of two epochs of four steps, and what they become when it is to last four.
SCHEDULES = {
    'recipes by epoch': (warmed_up(2, convert_to_iter_based=True), warmed_up(4, convert_to_iter_based=True)),
    'stepped by epoch': (warmed_up(2), warmed_up(4)),
    'recipe by iteration': ([dict(RISE, end=3), dict(POLY, end=9)], [dict(RISE, end=6), dict(POLY, end=17)]),
    'momentum': ([dict(MOMENTUM, end=8)], [dict(MOMENTUM, end=16)]),
    'weight decay': ([dict(DECAY, end=2)], [dict(DECAY, end=4), *warmed_up(4)]),
    'another type': ([dict(type='StepLR', step_size=1)], [dict(type='ExponentialLR', gamma=0.5)]),
    'milestones': ([dict(type='MultiStepLR', milestones=[1])], [dict(type='MultiStepLR', milestones=[1, 3])]),
    'periods': (
        [dict(type='CosineRestartLR', periods=[8], eta_min=0.0, by_epoch=False)],
        [dict(type='CosineRestartLR', periods=[8, 8], restart_weights=[1, 0.5], eta_min=0.0, by_epoch=False)],
    ),
    'one cycle': (
        [dict(type='OneCycleLR', eta_max=0.1, total_steps=8, by_epoch=False)],
        [dict(type='OneCycleLR', eta_max=0.2, total_steps=16, by_epoch=False)],
    ),
    'mixed': ([*warmed_up(2), dict(RISE, end=6)], [*warmed_up(4), dict(RISE, end=6), dict(MOMENTUM, end=16)]),
    'none before': (None, warmed_up(4)),
    'none now': ([*warmed_up(2), dict(MOMENTUM, end=8)], None),
}


def rates(folder, epochs, schedules, *hooks, runner=Runner, lr=1e-2, **more) -> dict:
    """Steps and their rates of a run that saves every step."""
    seen = Rates()
    settings = dict(param_scheduler=schedules, val_cfg=None, val_dataloader=None, val_evaluator=None)
    two = dict(type='AdamW', lr=lr, weight_decay=0.1, fused=True)
    wrapper = dict(type='AutocastOptimWrapper', dtype='float32', optimizer=two)
    wrapper['paramwise_cfg'] = dict(custom_keys=dict(bias=dict(lr_mult=0.3, decay_mult=0.0)))
    built = line_model.build(
        folder, seen, *hooks, model=TwoParameters(), epochs=epochs, optim_wrapper=wrapper, **settings, **more
    )
    if runner is not Runner:
        arguments = {name: getattr(built, f'_{name}') for name in ('train_dataloader', 'load_from', 'resume')}
        built = runner(
            model=TwoParameters(),
            work_dir=str(folder),
            train_cfg=dict(type='EpochTrainLoop', max_epochs=epochs),
            optim_wrapper=wrapper,
            param_scheduler=schedules,
            default_hooks=dict(checkpoint=dict(type='VerifiedCheckpointHook', interval=1)),
            custom_hooks=[seen, *hooks],
            default_scope='beit_mm',
            log_level='ERROR',
            experiment_name=f'{built.experiment_name}_flexible',
            **arguments,
        )
    try:
        built.train()
    except SystemExit:
        pass
    return seen.steps


@pytest.mark.parametrize('stop', [5, 8])
@pytest.mark.parametrize('name', SCHEDULES)
def test_a_run_that_is_made_longer_goes_on_with_the_rates_of_a_run_that_always_was(name, stop, tmp_path):
    """In the middle of an epoch or at its end."""
    short, long = SCHEDULES[name]
    signals = [line_model.Signal('train', stop - 1)] if stop < 8 else []
    before = rates(tmp_path / 'run', 2, short, *signals)
    after = rates(tmp_path / 'run', 4, long, resume=True)
    always = rates(tmp_path / 'always', 4, long)
    assert list(before) == list(range(stop)) and list(after) == list(range(stop, 16))
    assert after == {step: always[step] for step in after}


@pytest.mark.parametrize('runner', [Runner, FlexibleRunner])
@pytest.mark.parametrize('is_best', [False, True])
def test_the_checkpoint_s_rates_apply_unless_it_holds_none(is_best, runner, tmp_path):
    """A best checkpoint holds neither schedules nor the optimizer's state."""
    short, long = SCHEDULES['recipes by epoch']
    rates(tmp_path / 'run', 2, short, runner=runner)
    newest = tmp_path / 'run' / 'epoch_2.pth'
    if is_best:
        saved = torch.load(newest, weights_only=False)
        torch.save({key: saved[key] for key in ('meta', 'state_dict', 'message_hub')}, newest)
    after = rates(tmp_path / 'run', 4, long, resume=True, runner=runner, lr=0.5)
    always = rates(tmp_path / 'always', 4, long, lr=0.5 if is_best else 1e-2)
    assert list(after) == list(range(8, 16)) and after == {step: always[step] for step in after}


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(meta=None, message_hub=None), 'weights.pth holds weights, but no run to resume; start from'),
        (dict(meta=dict(iter=4)), 'holds weights, but no run to resume'),
        (dict(meta=dict(epoch=1, iter=-4)), 'holds weights, but no run to resume'),
        (dict(meta=dict(epoch='1', iter=4)), 'meta.epoch must be a number, got 1 of type str'),
        (dict(optimizer=[1, 2]), 'optimizer holds no groups of parameters'),
    ],
)
def test_a_file_that_holds_no_run_is_not_resumed(changes, message, tmp_path):
    rates(tmp_path, 1, None)
    saved = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    content = {**saved, **changes}
    torch.save({key: value for key, value in content.items() if value is not None}, tmp_path / 'weights.pth')
    runner = line_model.build(tmp_path / 'new', load_from=str(tmp_path / 'weights.pth'))
    runner._resume = True
    with pytest.raises(UserError, match=message):
        runner.train()


class Scores(line_model.Half):
    """The best accuracy comes after the fourth epoch, the least error after the second."""

    def compute_metrics(self, results):
        return dict(
            accuracy=[0, 0.1, 0.5, 0.4, 0.6, 0.3, 0.2, 0.1, 0.1][self.epoch],
            error=[9, 3.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0][self.epoch],
        )


class Ends(Hook):
    """Tells the metric its epoch, and ends a run without saving, as a kill."""

    def __init__(self, metric, stage: str = '', at: int = 0):
        self.metric, self.stage, self.at = metric, stage, at

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if (self.stage, self.at) == ('train', runner.iter):
            raise InterruptedError

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        self.metric.epoch = runner.iter // 4
        if (self.stage, self.at) == ('val', runner.iter):
            raise InterruptedError


@pytest.mark.parametrize('by_epoch', [True, False])
def test_best_scores_and_early_stopping_go_on_after_a_kill(by_epoch, tmp_path):
    """Checkpoints are written before the validation of their step, so a resumed run begins with that."""

    def run(folder, *kill, resume=False):
        metric = Scores()
        best = dict(save_best=['accuracy', 'error'], rule=['greater', 'less'], max_keep_ckpts=2, by_epoch=by_epoch)
        runner = line_model.build(
            folder,
            Ends(metric, *kill),
            dict(type='EarlyStoppingHook', monitor='accuracy', patience=2, min_delta=0.0),
            epochs=8,
            by_epoch=by_epoch,
            resume=resume,
            val_evaluator=[metric],
            default_hooks=dict(checkpoint=dict(type='VerifiedCheckpointHook', interval=1 if by_epoch else 4, **best)),
        )
        with nullcontext() if not kill else pytest.raises(InterruptedError):
            runner.train()
        info = runner.message_hub.runtime_info
        return runner.iter, {key: value for key, value in info.items() if key.startswith('best_score')}

    whole = run(tmp_path / 'whole')
    assert whole == (24, dict(best_score_accuracy=0.6, best_score_error=1.0))
    run(tmp_path / 'killed', 'train', 13)
    run(tmp_path / 'killed', 'val', 16, resume=True)
    run(tmp_path / 'killed', 'train', 21, resume=True)
    assert run(tmp_path / 'killed', resume=True) == whole
    assert line_model.names(tmp_path / 'killed') == line_model.names(tmp_path / 'whole')


def log_of(folder) -> str:
    return max(folder.glob('*/*.log')).read_text()


def test_a_resume_says_what_differs_and_what_applies(in_data, tmp_path):
    run, file = tmp_path / 'run', tmp_path / 'run.py'
    train(write_config('finetune', file, **workers(0)), run)
    train(file, run, resume='auto')
    assert f'resuming {run}/iter_8.pth after epoch 1, iteration 8.' in log_of(run)
    assert 'The run is complete after 8 iterations: nothing is left to train.\nIts settings are those' in log_of(run)
    rows = {
        'optim_wrapper.optimizer.lr': (0.004, 0.5, 'checkpoint'),
        'optim_wrapper.optimizer.weight_decay': (0.05, 0.7, 'checkpoint'),
        'randomness.seed': (0, 3, 'checkpoint'),
        'train_cfg.max_epochs': (2, 4, 'config'),
        'param_scheduler.1.end': (2, 4, 'config'),
        'train_dataloader.dataset.data_root': ('data/imagenet', 'data/./imagenet', 'config'),
        'model.backbone.drop_path_rate': (0.3, 0.25, 'config'),
        'default_hooks.logger.interval': (1, 2, 'config'),
    }
    changes = {key: now for key, (_, now, _) in rows.items()}
    train(write_config('finetune', file, **workers(0), **changes), run, resume='auto')
    log = re.sub(' +', ' ', log_of(run))
    for key, (was, now, applies) in rows.items():
        values = [repr(value) if len(repr(value)) < 15 else f'{repr(value)[:11]}...' for value in (was, now)]
        assert f'\n{key} {" ".join(values)} {applies}\n' in log
    table = log.partition('setting checkpoint config applies\n')[2].partition('To train with all values of the config')[
        0
    ]
    assert len(table.splitlines()) == len(rows)
    assert "Its schedules go on as if they had always been the config's." in log
    for change, message in {
        'optim_wrapper.optimizer.type': ('Adam', "state of 'AdamW', which does not fit .*optimizer.type='Adam'; start"),
        'model.backbone.frozen_stages': (1, 'optimizer has 71 parameters in .*; take those of the checkpoint, or'),
    }.items():
        with pytest.raises(UserError, match=message[1]):
            train(write_config('finetune', file, **workers(0), **{change: message[0]}), run, resume='auto')


def test_a_table_hides_secrets_and_cuts_what_is_long():
    rows = [(f'key{i}', '1', '2', 'config') for i in range(40)]
    values = [f"'{'a' * 20}/{folder}/y'" for folder in 'xz']
    line = draw_table([('train_dataloader.dataset.pipeline.12.scale', *values, 'config')]).splitlines()[1]
    assert line.split() == ['train_dataloader...pipeline.12.scale', "...a/x/y'", "...a/z/y'", 'config']
    table = draw_table(
        [('hook.token', "'abc'", "'x' * 9", 'config'), ('a', "'" + 'b' * 90, '\x1b[31m', 'config'), *rows]
    )
    assert 'abc' not in table and '\x1b' not in table and 'b' * 41 not in table
    assert max(map(len, table.splitlines())) <= 80
    assert len(table.splitlines()) == 32 and table.endswith('... and 12 more')
