"""Every kind of training on two processes with two workers each: resumed equals never killed."""

import shutil

import pytest
from support.checkpoints import content, differences
from support.resuming import KINDS, losses, STEPS, train_by_processes, workers, write_config


@pytest.mark.long
@pytest.mark.parametrize('step, count', [(2, 2), (5, 0), (7, 4)])
@pytest.mark.parametrize('kind', KINDS)
def test_resumed_run_of_two_processes_equals_one_never_killed(kind, step, count, in_data, tmp_path):
    batch_size = 2 if kind == 'segment' else 1  # batch norm needs two
    config = write_config(kind, tmp_path / 'run.py', **workers(count), **{'train_dataloader.batch_size': batch_size})
    whole, resumed = tmp_path / 'whole', tmp_path / 'resumed'
    train_by_processes(2, config, whole)
    resumed.mkdir()
    shutil.copy(whole / f'iter_{step}.pth', resumed)
    train_by_processes(2, config, resumed, resume='auto')
    assert losses(resumed) == {number: values for number, values in losses(whole).items() if number > step}
    last = f'iter_{STEPS}.pth'
    assert differences(content(resumed / last), content(whole / last)) == []
