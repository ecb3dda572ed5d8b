"""Every end of a run writes its report and its record; a report that cannot be written does no harm."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from support import line_model

from beit_mm.engine.hooks import report_hook
from beit_mm.engine.runners import ending
from beit_mm.errors import TrainingStopped


class InFifthStep(Hook):
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
    ending.explain(runner.cfg, runner, runner.train)


def records(folder: Path, purpose: str = 'train') -> list:
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f'*/vis_data/run_{purpose}.json'))]


@pytest.mark.charts
def test_a_training_and_then_a_test_end_with_their_page_and_the_time_of_their_parts(tmp_path):
    """A run that is killed leaves the record of its last checkpoint."""
    before = []
    runner = build(tmp_path, InFifthStep(lambda: before.extend(records(tmp_path))))
    run(runner)
    assert [(record['state'], record['ended'], record['iteration']) for record in before] == [('running', '', 4)]
    (record,) = records(tmp_path)
    assert (record['state'], record['iteration'], record['max_iterations']) == ('finished', 8, 8)
    assert record['versions']['torch'] == torch.__version__ and record['model']['parameters'] == '2'
    assert list(record['seconds']) == ['set-up', 'loading', 'steps', 'checkpoints', 'validation', 'the rest']
    assert all(spent > 0 for spent in record['seconds'].values())
    page = (tmp_path / 'report.html').read_text()
    logged = [json.loads(line) for path in tmp_path.glob('*/vis_data/scalars.json') for line in open(path)]
    values = [line['loss'] for line in logged if 'loss' in line]
    assert len(values) == 8 and f'loss {values[-1]:.4g}' in page and 'finished' in page

    runner.test()
    (tested,) = records(tmp_path, 'test')
    assert tested['state'] == 'finished' and 'test' in tested['seconds'] and 'steps' not in tested['seconds']
    assert '<td>0.5</td>' in (tmp_path / 'report.html').read_text().partition('<h2>Tests</h2>')[2]


@pytest.mark.parametrize('stage, at', [('train', 3), ('val', 4)])
def test_a_signal_leaves_a_page_that_says_where_the_training_stopped(stage, at, tmp_path):
    with pytest.raises(TrainingStopped):
        run(build(tmp_path, line_model.Signal(stage, at)))
    (record,) = records(tmp_path)
    assert (record['state'], record['iteration']) == ('stopped', 4)
    assert record['message'].startswith('stopped by SIGTERM after iteration 4; --resume goes on from')
    assert '<strong>stopped</strong> by SIGTERM after iteration 4' in (tmp_path / 'report.html').read_text()


def test_an_error_leaves_a_page_with_its_message_and_one_before_the_training_the_earlier_page(tmp_path):
    def fail():
        raise ValueError('the disk <is> full')

    with pytest.raises(ValueError, match='the disk <is> full'):
        run(build(tmp_path / 'in', InFifthStep(fail)))
    (record,) = records(tmp_path / 'in')
    assert (record['state'], record['iteration'], record['message']) == ('failed', 4, 'the disk <is> full')
    assert 'the disk &lt;is&gt; full' in (tmp_path / 'in' / 'report.html').read_text()

    runner = build(tmp_path / 'before')
    (tmp_path / 'before' / 'report.html').write_text('earlier')
    runner._load_from = str(tmp_path / 'none.pth')
    with pytest.raises(FileNotFoundError):
        run(runner)
    assert (tmp_path / 'before' / 'report.html').read_text() == 'earlier' and not records(tmp_path / 'before')


def test_a_resumed_training_goes_on_in_the_same_page(tmp_path):
    run(build(tmp_path, epochs=1))
    next(tmp_path.glob('*/vis_data')).parent.rename(tmp_path / '0')  # both may begin in the same second
    run(build(tmp_path, resume=True))
    _, resumed = records(tmp_path)
    assert resumed['resumed'] and (resumed['first_iteration'], resumed['iteration']) == (4, 8)
    assert 'resumed after iteration 4' in (tmp_path / 'report.html').read_text()


@pytest.mark.parametrize('part, error', [('page', 'IsADirectoryError'), ('record', 'AttributeError: a model')])
def test_a_report_that_cannot_be_written_is_a_warning(part, error, tmp_path, monkeypatch):
    def fail(runner):
        raise AttributeError('a model')

    if part == 'page':
        (tmp_path / 'report.html').mkdir()
    else:
        monkeypatch.setattr(report_hook, 'describe_model', fail)
    runner, warnings = build(tmp_path), []
    runner.logger.warning = warnings.append
    run(runner)
    assert runner.iter == 8 and [warning for warning in warnings if f'no report of this run: {error}' in warning]
    assert records(tmp_path)[0]['state'] == 'finished'


def test_a_validation_writes_its_record_at_its_start_and_end(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(report_hook.Record, 'write', lambda record, folder: written.append(record.seconds))
    build(tmp_path).val()
    assert [seconds.get('validation', 0) > 0 for seconds in written] == [False, True, True]


def test_parts_add_up_to_the_time_since_the_start_and_a_timed_part_ends_with_an_error_too(monkeypatch):
    times = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0, 21.0])
    monkeypatch.setattr('time.monotonic', lambda: next(times))
    hook = report_hook.ReportHook()
    assert [hook.switch(part) for part in ('steps', 'loading', 'steps')] == ['set-up', 'steps', 'loading']
    with pytest.raises(KeyError), report_hook.timed(SimpleNamespace(hooks=[Hook(), hook]), 'pictures'):
        raise KeyError
    assert hook.seconds() == {'set-up': 1, 'steps': 2 + 4 + 6, 'loading': 3, 'pictures': 5}
