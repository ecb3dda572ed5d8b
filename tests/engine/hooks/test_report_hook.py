"""Every end of a run writes its report and its record; a report that cannot be written does no harm."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from support import line_model

from beit_mm.engine import ReportHook
from beit_mm.engine.hooks import report_hook
from beit_mm.engine.hooks.stop_hook import TrainingStopped
from beit_mm.engine.runners import launch

STEPS = 8


class Act(Hook):
    """Does something in the fifth iteration."""

    def __init__(self, act):
        self.act = act

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 4:
            self.act()


def build(folder: Path, *hooks: Hook, **options) -> Runner:
    """A training of eight steps, with a validation and a checkpoint every four."""
    return line_model.build(
        folder,
        *hooks,
        by_epoch=False,
        interval=4,
        test_dataloader=line_model.loader(),
        test_cfg=dict(),
        test_evaluator=[line_model.Half()],
        log_processor=dict(by_epoch=False),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False), report=dict(type='ReportHook')
        ),
        **{'epochs': 2, **options},
    )


def run(runner: Runner) -> None:
    """As the tools do."""
    launch._explain(runner.cfg, runner, runner.train)


def records(folder: Path, purpose: str = 'train') -> list:
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f'*/vis_data/run_{purpose}.json'))]


def test_a_training_ends_with_its_page_and_the_time_of_its_parts(tmp_path):
    runner = build(tmp_path)
    run(runner)
    (record,) = records(tmp_path)
    assert (record['state'], record['iteration'], record['max_iterations']) == ('finished', STEPS, STEPS)
    assert record['versions']['torch'] == torch.__version__ and record['model']['parameters'] == '2'
    assert list(record['seconds']) == ['set-up', 'loading', 'steps', 'checkpoints', 'validation', 'the rest']
    assert all(spent > 0 for spent in record['seconds'].values())
    page = (tmp_path / 'report.html').read_text()
    logged = [json.loads(line) for path in tmp_path.glob('*/vis_data/scalars.json') for line in open(path)]
    values = [line['loss'] for line in logged if 'loss' in line]
    assert len(values) == STEPS and f'loss {values[-1]:.4g}' in page and 'finished' in page


def test_a_test_after_the_training_has_its_own_record(tmp_path):
    runner = build(tmp_path)
    run(runner)
    runner.test()
    (trained,), (tested,) = records(tmp_path), records(tmp_path, 'test')
    assert trained['state'] == tested['state'] == 'finished'
    assert 'test' in tested['seconds'] and 'steps' not in tested['seconds']
    page = (tmp_path / 'report.html').read_text()
    assert '<td>0.5</td>' in page.partition('<h2>Tests</h2>')[2]


@pytest.mark.parametrize('stage, at', [('train', 3), ('val', 4)])
def test_a_signal_leaves_a_page_that_says_where_the_training_stopped(stage, at, tmp_path):
    with pytest.raises(TrainingStopped):
        run(build(tmp_path, line_model.Signal(stage, at)))
    (record,) = records(tmp_path)
    assert (record['state'], record['iteration']) == ('stopped', 4)
    assert record['message'].startswith('stopped by SIGTERM after iteration 4; --resume goes on from')
    assert '<strong>stopped</strong> by SIGTERM after iteration 4' in (tmp_path / 'report.html').read_text()


def test_an_error_leaves_a_page_that_tells_it(tmp_path):
    def fail():
        raise ValueError('the disk <is> full')

    with pytest.raises(ValueError, match='the disk <is> full'):
        run(build(tmp_path, Act(fail)))
    (record,) = records(tmp_path)
    assert (record['state'], record['iteration'], record['message']) == ('failed', 4, 'the disk <is> full')
    assert 'the disk &lt;is&gt; full' in (tmp_path / 'report.html').read_text()


def test_an_error_before_the_training_leaves_the_page_of_the_one_before(tmp_path):
    (tmp_path / 'report.html').write_text('of the one before')
    runner = build(tmp_path)
    runner._load_from = str(tmp_path / 'none.pth')
    with pytest.raises(FileNotFoundError):
        run(runner)
    assert (tmp_path / 'report.html').read_text() == 'of the one before' and not records(tmp_path)


def test_a_killed_run_leaves_a_record_of_its_last_checkpoint(tmp_path):
    runner = build(tmp_path, Act(lambda: seen.extend(records(tmp_path))))
    seen = []
    run(runner)
    (record,) = seen
    assert (record['state'], record['ended'], record['iteration']) == ('running', '', 4)


def test_a_resumed_training_goes_on_in_the_same_page(tmp_path):
    run(build(tmp_path, epochs=1))
    first = next(tmp_path.glob('*/vis_data'))
    first.parent.rename(tmp_path / '0')  # both may begin in the same second
    run(build(tmp_path, resume=True))
    _, resumed = records(tmp_path)
    assert resumed['resumed'] and (resumed['first_iteration'], resumed['iteration']) == (4, STEPS)
    page = (tmp_path / 'report.html').read_text()
    assert 'resumed after iteration 4' in page


@pytest.mark.parametrize('part, error', [('page', 'IsADirectoryError'), ('record', 'AttributeError: a model')])
def test_what_cannot_be_written_is_a_warning(part, error, tmp_path, monkeypatch):
    def fail(runner):
        raise AttributeError('a model')

    if part == 'page':
        (tmp_path / 'report.html').mkdir()
    else:
        monkeypatch.setattr(report_hook, 'describe_model', fail)
    runner, warnings = build(tmp_path), []
    runner.logger.warning = warnings.append
    run(runner)
    assert runner.iter == STEPS and [warning for warning in warnings if f'no report of this run: {error}' in warning]
    assert bool(records(tmp_path)) == (part == 'page')


def test_a_loop_that_calls_no_hook_at_its_start_is_not_harmed(tmp_path):
    hook, runner = ReportHook(), build(tmp_path)
    hook.before_run(runner)
    hook.before_train_iter(runner, 0)
    hook.after_train_iter(runner, 0)
    hook.after_train(runner)
    hook.after_test(runner)
    hook.on_exception(runner, TrainingStopped('stopped'))
    hook.after_run(runner)
    assert not records(tmp_path) and not (tmp_path / 'report.html').exists()


def test_a_validation_writes_its_record_once(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(report_hook.Record, 'write', lambda record, folder: written.append(record.seconds))
    runner = build(tmp_path)
    runner.val()
    assert len(written) == 3  # at its start, after the validation, at its end
    assert [seconds.get('validation', 0) > 0 for seconds in written] == [False, True, True]
