"""A run that is killed and resumed equals one that never was, bit for bit."""

import shutil

import pytest
from support.checkpoints import content, differences
from support.resuming import KINDS, losses, STEPS, train, train_by_processes, workers, write_config


@pytest.fixture(scope='module')
def never_killed(data, tmp_path_factory):
    """For each kind the folder of a whole run, without workers."""
    done = {}

    def get(kind):
        if kind not in done:
            done[kind] = tmp_path_factory.mktemp(kind)
            train(write_config(kind, done[kind] / 'run.py', **workers(0)), done[kind])
        return done[kind]

    return get


@pytest.mark.parametrize('step, count', [(3, 2), (4, 0), (6, 4)])
@pytest.mark.parametrize('kind', KINDS)
def test_resumed_run_equals_one_never_killed(kind, step, count, in_data, never_killed, tmp_path):
    whole = never_killed(kind)
    shutil.copy(whole / f'iter_{step}.pth', tmp_path)
    train(write_config(kind, tmp_path / 'run.py', **workers(count)), tmp_path, resume='auto')
    expected = {number: values for number, values in losses(whole).items() if number > step}
    assert len(expected) == STEPS - step and losses(tmp_path) == expected
    last = f'iter_{STEPS}.pth'
    assert differences(content(tmp_path / last), content(whole / last)) == []


@pytest.mark.parametrize('kind', ['finetune'])
def test_resumed_run_of_two_processes_equals_one_never_killed(kind, in_data, tmp_path):
    config = write_config(kind, tmp_path / 'run.py', **workers(0), **{'train_dataloader.batch_size': 1})
    whole, resumed = tmp_path / 'whole', tmp_path / 'resumed'
    train_by_processes(2, config, whole)
    resumed.mkdir()
    shutil.copy(whole / 'iter_5.pth', resumed)
    train_by_processes(2, config, resumed, resume='auto')
    assert losses(resumed) == {number: values for number, values in losses(whole).items() if number > 5}
    last = f'iter_{STEPS}.pth'
    assert differences(content(resumed / last), content(whole / last)) == []
