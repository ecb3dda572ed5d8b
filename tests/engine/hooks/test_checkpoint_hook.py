"""The hook keeps what the run needs, whatever happens while it saves."""

import errno
import time
from pathlib import Path

import pytest
import torch
from mmengine.runner import FlexibleRunner, Runner
from support import line_model
from support.line_model import names

from beit_mm.checkpoint.files import find_damage, find_newest, POINTER, VerifiedFiles
from beit_mm.engine.hooks.checkpoint_hook import VerifiedCheckpointHook


class Scores(line_model.Half):
    """Gives one score after another."""

    def __init__(self, scores):
        super().__init__()
        self.scores = list(scores)

    def compute_metrics(self, results):
        return dict(accuracy=self.scores.pop(0))


def build(folder, epochs=6, scores=(), resume=False, runner=Runner, train_cfg=None, **options) -> Runner:
    """A training of two steps an epoch that saves every epoch; options are those of the hook."""
    loader = dict(line_model.loader(), batch_size=4)
    validation = dict(val_dataloader=loader, val_cfg=dict(), val_evaluator=[Scores(scores)]) if scores else {}
    newest = find_newest(Path(folder)) if resume else None
    return runner(
        line_model.Line(),
        work_dir=str(folder),
        train_dataloader=loader,
        **validation,
        train_cfg=train_cfg or dict(type='EpochBasedTrainLoop', max_epochs=epochs),
        optim_wrapper=dict(type='AutocastOptimWrapper', optimizer=dict(type='SGD', lr=1e-3, momentum=0.9)),
        default_hooks=dict(checkpoint={'type': 'VerifiedCheckpointHook', 'interval': 1, **options}),
        default_scope='beit_mm',
        load_from=newest and str(newest),
        resume=bool(newest),
        log_level='ERROR',
        experiment_name=f'{folder}_{time.time()}'.replace('/', '_'),
    )


@pytest.mark.parametrize(
    'max_keep, expected',
    [
        (3, ['epoch_4.pth', 'epoch_5.pth', 'epoch_6.pth']),
        (1, ['epoch_5.pth', 'epoch_6.pth']),
        (-1, [f'epoch_{epoch}.pth' for epoch in range(1, 7)]),
    ],
)
def test_so_many_checkpoints_stay_and_never_fewer_than_two(max_keep, expected, tmp_path):
    build(tmp_path, max_keep_ckpts=max_keep).train()
    assert names(tmp_path) == expected
    assert all(find_damage(tmp_path / name) is None for name in expected)
    assert (tmp_path / POINTER).read_text() == str(tmp_path / 'epoch_6.pth')


def test_unknown_arguments_which_mmengine_ignores_are_refused():
    for name in ('max_keep_ckpt', 'backend_args', 'file_client_args'):
        with pytest.raises(TypeError, match=f"got an unexpected keyword argument '{name}'"):
            VerifiedCheckpointHook(**{name: None})


def test_a_best_score_replaces_the_best_checkpoint_and_writes_no_other(tmp_path):
    options = dict(interval=2, save_best='accuracy', rule='greater')
    build(tmp_path, epochs=4, scores=(0.3, 0.2, 0.5, 0.4), **options).train()
    assert names(tmp_path) == ['best_accuracy_epoch_3.pth', 'epoch_2.pth', 'epoch_4.pth']
    (tmp_path / 'epoch_4.pth').unlink()
    # Epoch 2 knows a best score of 0.3: the third epoch finds its own again, and the fourth is none.
    build(tmp_path, epochs=4, scores=(0.5, 0.4), resume=True, **options).train()
    assert names(tmp_path) == ['best_accuracy_epoch_3.pth', 'epoch_2.pth', 'epoch_4.pth']
    # Epoch 4 knows 0.5 and its file.
    build(tmp_path, epochs=6, scores=(0.45, 0.6), resume=True, **options).train()
    assert names(tmp_path) == ['best_accuracy_epoch_6.pth', 'epoch_2.pth', 'epoch_4.pth', 'epoch_6.pth']


@pytest.mark.parametrize('by_epoch, name, meta', [(True, 'epoch_1', (1, 2)), (False, 'iter_2', (0, 2))])
def test_a_best_score_counts_no_step_twice_under_flexible_runner(by_epoch, name, meta, tmp_path):
    """It writes a checkpoint anew after the validation, when the step is counted already."""
    options = dict(by_epoch=by_epoch, interval=1 if by_epoch else 2, save_best='accuracy', rule='greater')

    def run(epochs, scores, resume=False):
        iters = dict(type='IterTrainLoop', max_iters=2 * epochs, val_interval=2)
        length = dict(type='EpochTrainLoop', max_epochs=epochs) if by_epoch else iters
        runner = build(tmp_path, scores=scores, resume=resume, runner=FlexibleRunner, train_cfg=length, **options)
        runner.train()
        return runner

    run(1, [0.1])
    assert names(tmp_path) == [f'best_accuracy_{name}.pth', f'{name}.pth']
    for file in names(tmp_path):
        saved = torch.load(tmp_path / file, weights_only=False)['meta']
        assert (saved['epoch'], saved['iter']) == meta, file
    runner = run(3, [0.3, 0.2], resume=True)
    assert runner.iter == 6 and (runner.epoch == 3 or not by_epoch)
    assert len(names(tmp_path)) == 4


def test_a_save_that_fails_deletes_nothing(tmp_path, monkeypatch):
    put = VerifiedFiles.put

    def full(files, content, path):
        if 'epoch_4' in path:
            raise OSError(errno.ENOSPC, 'No space left on device')
        put(files, content, path)

    monkeypatch.setattr(VerifiedFiles, 'put', full)
    with pytest.raises(OSError, match='No space left'):
        build(tmp_path, max_keep_ckpts=2).train()
    assert names(tmp_path) == ['epoch_2.pth', 'epoch_3.pth']
    assert (tmp_path / POINTER).read_text() == str(tmp_path / 'epoch_3.pth')
    monkeypatch.undo()
    runner = build(tmp_path, resume=True, max_keep_ckpts=2)
    runner.train()
    assert runner.epoch == 6 and names(tmp_path) == ['epoch_5.pth', 'epoch_6.pth']
