"""The hook keeps what the run needs, whatever happens while it saves."""

import errno
import shutil
import time
from pathlib import Path

import pytest
import torch
from mmengine.runner import FlexibleRunner, Runner
from support import line_model
from support.line_model import names

from beit_mm.checkpoint.files import find_damage, find_newest, POINTER, VerifiedFiles
from beit_mm.engine.hooks.checkpoint_hook import VerifiedCheckpointHook
from beit_mm.errors import UserError


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


@pytest.mark.parametrize('by_epoch, saved', [(True, ['epoch_3.pth']), (False, ['iter_12.pth'])])
def test_a_training_that_a_hook_ends_early_saves_its_last_state(by_epoch, saved, tmp_path):
    """As any end does, and no second time."""
    early = dict(type='EarlyStoppingHook', monitor='accuracy', rule='greater', patience=2, min_delta=0.1)
    for interval in (100, 3 if by_epoch else 12):
        runner = line_model.build(tmp_path / str(interval), early, by_epoch=by_epoch, interval=interval)
        runner.train()
        assert (runner.iter, names(tmp_path / str(interval))) == (12, saved)
        assert find_newest(tmp_path / str(interval)).name == saved[0]


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
    runner = run(3, [0.1, 0.3, 0.2], resume=True)  # a resumed run begins with the validation
    assert runner.iter == 6 and (runner.epoch == 3 or not by_epoch)
    assert len(names(tmp_path)) == 4


@pytest.mark.parametrize(
    'template', ['../{}.pth', 'a/{}.pth', '.epoch_{}.pth', '{:x}.pth', '{:,}.pth', '{', '{}{}', '{n}']
)
def test_names_of_files_must_be_such_that_their_number_can_be_read(template):
    with pytest.raises(UserError, match='filename_tmpl must be a file name with the number in digits, such as epoch_'):
        VerifiedCheckpointHook(filename_tmpl=template)
    with pytest.raises(UserError, match='out_dir must be a folder of this machine or a mounted one, got s3://bucket'):
        VerifiedCheckpointHook(out_dir='s3://bucket')


@pytest.mark.parametrize('by_epoch', [True, False])
def test_a_new_run_says_which_checkpoints_are_there_and_a_host_s_tool_resumes_from_them(by_epoch, tmp_path, caplog):
    options = dict(type='beit_mm.VerifiedCheckpointHook', by_epoch=by_epoch, interval=1, filename_tmpl='m_{:04d}.pth')

    def run(epochs, **more):
        runner = line_model.build(
            tmp_path,
            epochs=epochs,
            by_epoch=by_epoch,
            default_hooks=dict(checkpoint=options),
            log_level='WARNING',
            **more,
        )
        runner.logger.addHandler(caplog.handler)
        runner._resume = 'load_from' in more  # as by MMPretrain's tool, without the name of a file
        runner.train()
        output = caplog.text
        caplog.clear()
        return runner, output

    last = 'm_0002.pth' if by_epoch else 'm_0008.pth'
    assert 'earlier run' not in run(2)[1]
    output = run(1)[1]
    assert f'{tmp_path} holds an earlier run: m_0001.pth, m_0002.pth' in output
    assert f'{last}; last_checkpoint names {last}. This run starts from the beginning' in output
    runner, output = run(2, load_from=None)
    assert (tmp_path / POINTER).read_text().endswith(last) and 'earlier run' not in output
    (tmp_path / last).write_bytes(b'damaged')
    runner = line_model.build(tmp_path, epochs=2, by_epoch=by_epoch, default_hooks=dict(checkpoint=options))
    runner._resume = True
    runner.build_train_loop(runner._train_loop)
    assert Path(runner._load_from).name == ('m_0001.pth' if by_epoch else 'm_0007.pth')


def contents(folder) -> dict:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}


@pytest.mark.parametrize('way', ['copied', 'moved', 'by file'])
def test_a_run_resumed_elsewhere_deletes_nothing_where_it_came_from(way, tmp_path):
    """Neither its regular checkpoints nor those of stops and best scores; its own ones rotate as before."""
    options = dict(type='beit_mm.VerifiedCheckpointHook', interval=1, max_keep_ckpts=2, save_best='accuracy')
    original, other = tmp_path / 'run', tmp_path / 'other' / 'name'

    def run(folder, *hooks, scores, **more):
        hooks_of_run = dict(checkpoint=options)
        runner = line_model.build(folder, *hooks, val_evaluator=[Scores(scores)], default_hooks=hooks_of_run, **more)
        runner._resume |= way == 'by file' and not hooks
        runner.train()

    with pytest.raises(SystemExit):
        run(original, line_model.Signal('train', 13), scores=(0.1, 0.3, 0.2))
    assert names(original) == ['best_accuracy_epoch_2.pth', 'epoch_2.pth', 'epoch_3.pth', 'iter_14.pth']
    before = contents(original)
    if way == 'by file':
        run(other, scores=(0.4, 0.5, 0.6), epochs=6, load_from=str(original / 'iter_14.pth'))
    else:
        (shutil.copytree if way == 'copied' else shutil.move)(original, other.parent.mkdir() or other)
        run(other, scores=(0.4, 0.5, 0.6), epochs=6, resume=True)
    assert names(other) == ['best_accuracy_epoch_6.pth', 'epoch_5.pth', 'epoch_6.pth']
    assert contents(original) == ({} if way == 'moved' else before)


OUTSIDE = ['iter_3.pth', 'epoch_1.pth', 'best_accuracy_epoch_1.pth', 'last.pth']
HOSTILE = {
    'absolute names': lambda folder: [str(folder / name) for name in OUTSIDE],
    'names of the folder above': lambda folder: [f'../outside/{name}' for name in OUTSIDE],
    'own files of other kinds': lambda folder: ['last_checkpoint', 'notes.txt', 'best_of_all.pth', '.', '..', ''],
    'links and folders': lambda folder: ['iter_7.pth', 'iter_8.pth', 'best_accuracy_epoch_7.pth', 'epoch_8.pth'],
    'no names': lambda folder: [
        7,
        -1,
        1.5,
        True,
        None,
        10**400,
        [],
        {},
        b'epoch_1.pth',
        torch.ones(3),
        '\0',
        'a' * 5000,
    ],
    'no lists': None,
}


@pytest.mark.parametrize('form', HOSTILE)
def test_whatever_a_checkpoint_names_only_own_checkpoints_are_deleted(form, tmp_path):
    run, outside = tmp_path / 'run', tmp_path / 'outside'
    options = dict(max_keep_ckpts=2, save_best='accuracy', rule='greater')
    build(run, epochs=1, scores=[0.1], **options).train()
    outside.mkdir()
    (run / 'iter_8.pth').mkdir()
    (run / 'best_accuracy_epoch_7.pth').symlink_to(outside / 'epoch_1.pth')
    (run / 'iter_7.pth').symlink_to(outside / 'iter_3.pth')
    for path in [*(outside / name for name in OUTSIDE), *(run / name for name in ('notes.txt', 'best_of_all.pth'))]:
        path.write_text('kept')
    before = set(tmp_path.rglob('*')) - {run / 'best_accuracy_epoch_1.pth', run / 'epoch_1.pth'}
    saved = torch.load(run / 'epoch_1.pth', weights_only=False)
    named = HOSTILE[form](outside) if HOSTILE[form] else [dict(a=1), 'iter_3.pth', 5, None, torch.ones(2)]
    for best in named:
        lists = named if HOSTILE[form] else best
        hub = dict(keep_ckpt_ids=lists, stop_ckpts=lists, best_ckpt=best, best_ckpt_accuracy=best)
        saved['message_hub']['runtime_info'].update(hub)
        saved['message_hub']['resumed_keys'].update(dict.fromkeys(hub, True))
        torch.save(saved, run / 'epoch_1.pth')
        (run / POINTER).write_text('epoch_1.pth')
        build(run, epochs=4, scores=(0.2, 0.3, 0.4), resume=True, **options).train()
        assert before <= set(tmp_path.rglob('*')), best
        assert {(run / name).read_bytes() for name in ('notes.txt', 'iter_7.pth')} == {b'kept'}
        assert {'best_accuracy_epoch_4.pth', 'epoch_3.pth', 'epoch_4.pth'} <= set(names(run))
        assert 'epoch_2.pth' not in names(run) and 'best_accuracy_epoch_3.pth' not in names(run)


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
