"""A run that is stopped and resumed equals one that never was, bit for bit."""

import shutil

import pytest
from support.checkpoints import content, differences
from support.resuming import KINDS, losses, STEPS, train, train_by_processes, workers, write_config

# In the middle of an epoch with workers, at its end, and in the middle of an update of three steps.
STOPS = [(3, 2), (4, 0), (6, 4)]
STOPS_OF_TWO = [(2, 2), (5, 0), (7, 4)]


@pytest.fixture(scope='module')
def never_stopped(data, tmp_path_factory):
    """For each kind the folder of a whole run, without workers."""
    done = {}

    def get(kind):
        if kind not in done:
            done[kind] = tmp_path_factory.mktemp(kind)
            train(write_config(kind, done[kind] / 'run.py', **workers(0)), done[kind])
        return done[kind]

    return get


def assert_resumed_equals(whole, resumed, step):
    expected = {number: values for number, values in losses(whole).items() if number > step}
    assert len(expected) == STEPS - step and losses(resumed) == expected
    last = f'iter_{STEPS}.pth'
    assert differences(content(resumed / last), content(whole / last)) == []


def cases(stops, is_short):
    marks = {True: [], False: [pytest.mark.long]}
    return [pytest.param(kind, *stop, marks=marks[is_short(kind, stop)]) for kind in KINDS for stop in stops]


@pytest.mark.parametrize('kind, step, count', cases(STOPS, lambda kind, stop: stop == STOPS[0] or kind == 'finetune'))
def test_resumed_run_equals_one_never_stopped(kind, step, count, in_data, never_stopped, tmp_path):
    whole = never_stopped(kind)
    shutil.copy(whole / f'iter_{step}.pth', tmp_path)
    train(write_config(kind, tmp_path / 'run.py', **workers(count)), tmp_path, resume='auto')
    assert_resumed_equals(whole, tmp_path, step)


@pytest.mark.parametrize(
    'kind, step, count', cases(STOPS_OF_TWO, lambda kind, stop: (kind, stop) == ('finetune', STOPS_OF_TWO[1]))
)
def test_resumed_run_of_two_processes_equals_one_never_stopped(kind, step, count, in_data, tmp_path):
    batch_size = 2 if kind == 'segment' else 1  # batch norm needs two
    config = write_config(kind, tmp_path / 'run.py', **workers(count), **{'train_dataloader.batch_size': batch_size})
    whole, resumed = tmp_path / 'whole', tmp_path / 'resumed'
    train_by_processes(2, config, whole)
    resumed.mkdir()
    shutil.copy(whole / f'iter_{step}.pth', resumed)
    train_by_processes(2, config, resumed, resume='auto')
    assert_resumed_equals(whole, resumed, step)
