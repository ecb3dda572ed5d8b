"""tools/slurm_train.sh asks srun for what its arguments and the environment say."""

import os
import subprocess

import pytest
from support import ROOT


@pytest.fixture
def submit(tmp_path):
    """Flags of srun and the command that it starts, from a stand-in of srun that prints its arguments."""
    (tmp_path / 'srun').write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / 'srun').chmod(0o755)

    def call(*arguments: str, **variables: str) -> tuple[dict[str, str], list[str]]:
        command = [ROOT / 'tools' / 'slurm_train.sh', *arguments]
        variables['PATH'] = f'{tmp_path}:{os.environ["PATH"]}'
        result = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True)
        if result.returncode:
            raise ValueError(result.stderr)
        words = result.stdout.splitlines()
        start = words.index('python')
        return dict(word.removeprefix('--').split('=', 1) for word in words[:start]), words[start:]

    return call


def test_a_task_per_gpu_on_one_node(submit):
    flags, command = submit('gpu partition', 'pretrain', 'configs/beit_pretrain.py')
    expected = {'partition': 'gpu partition', 'job-name': 'pretrain', 'gres': 'gpu:8', 'ntasks': '8'}
    assert flags == {**expected, 'ntasks-per-node': '8', 'cpus-per-task': '5', 'kill-on-bad-exit': '1'}
    train = str(ROOT / 'tools' / 'train.py')
    assert command == ['python', '-u', train, 'configs/beit_pretrain.py', '--launcher', 'slurm']
    with pytest.raises(ValueError, match=r'slurm_train.sh PARTITION JOB_NAME CONFIG \[arguments of tools/train.py\]'):
        submit('gpu', 'job')


@pytest.mark.parametrize('gpus, per_node', [('4', '4'), ('16', '8')])
def test_fewer_gpus_and_several_nodes(gpus, per_node, submit):
    flags, _ = submit('gpu', 'job', 'config.py', GPUS=gpus)
    assert (flags['ntasks'], flags['ntasks-per-node'], flags['gres']) == (gpus, per_node, f'gpu:{per_node}')


def test_the_environment_and_further_arguments_are_passed_on(submit):
    more = ['--resume', '--cfg-options', 'a="[1, 2]"']
    variables = dict(GPUS_PER_NODE='2', CPUS_PER_TASK='12', SRUN_ARGS='--time=1-0 --exclude=node7')
    flags, command = submit('gpu', 'job', 'config.py', *more, GPUS='8', **variables)
    assert (flags['ntasks-per-node'], flags['gres'], flags['cpus-per-task']) == ('2', 'gpu:2', '12')
    assert (flags['time'], flags['exclude']) == ('1-0', 'node7')
    assert command[4:] == [*more, '--launcher', 'slurm']
