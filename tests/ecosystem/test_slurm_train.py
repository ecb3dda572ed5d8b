"""tools/slurm_train.sh asks srun for what its arguments and the environment say."""

import os
import subprocess
from pathlib import Path

import pytest
from support import ROOT

SCRIPT = ROOT / 'tools' / 'slurm_train.sh'


@pytest.fixture
def submit(tmp_path):
    """Run the script with a stand-in of srun that prints its arguments, one a line."""
    (tmp_path / 'srun').write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / 'srun').chmod(0o755)

    def call(*arguments: str, ok: bool = True, **variables: str) -> list:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(('GPUS', 'CPUS', 'SRUN'))}
        kept.pop('PYTHON', None)
        result = subprocess.run(
            [SCRIPT, *arguments],
            env=dict(kept, PATH=f'{tmp_path}:{kept["PATH"]}', **variables),
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert (result.returncode == 0) == ok, result.stderr
        return (result.stdout if ok else result.stderr).splitlines()

    return call


def split(words: list) -> tuple:
    """The flags of srun and the command that it starts."""
    start = words.index('python')
    return dict(word.removeprefix('--').split('=', 1) for word in words[:start]), words[start:]


def test_a_task_per_gpu_on_one_node(submit):
    flags, command = split(submit('gpu partition', 'pretrain', 'configs/beit_pretrain.py'))
    assert flags == {
        'partition': 'gpu partition',
        'job-name': 'pretrain',
        'gres': 'gpu:8',
        'ntasks': '8',
        'ntasks-per-node': '8',
        'cpus-per-task': '5',
        'kill-on-bad-exit': '1',
    }
    assert command == [
        'python',
        '-u',
        str(ROOT / 'tools' / 'train.py'),
        'configs/beit_pretrain.py',
        '--launcher',
        'slurm',
    ]
    assert Path(command[2]).is_file()


@pytest.mark.parametrize('gpus, per_node', [('4', '4'), ('16', '8')])
def test_fewer_gpus_and_several_nodes(gpus, per_node, submit):
    flags, _ = split(submit('gpu', 'job', 'config.py', GPUS=gpus))
    assert (flags['ntasks'], flags['ntasks-per-node'], flags['gres']) == (gpus, per_node, f'gpu:{per_node}')


def test_the_environment_and_further_arguments_are_passed_on(submit):
    flags, command = split(
        submit(
            'gpu',
            'job',
            'config.py',
            '--resume',
            '--cfg-options',
            'a="[1, 2]"',
            GPUS='8',
            GPUS_PER_NODE='2',
            CPUS_PER_TASK='12',
            SRUN_ARGS='--time=1-0 --exclude=node7',
        )
    )
    assert (flags['ntasks-per-node'], flags['gres'], flags['cpus-per-task']) == ('2', 'gpu:2', '12')
    assert (flags['time'], flags['exclude']) == ('1-0', 'node7')
    assert command[4:] == ['--resume', '--cfg-options', 'a="[1, 2]"', '--launcher', 'slurm']


def test_a_missing_argument_ends_in_the_usage(submit):
    (line,) = submit('gpu', 'job', ok=False)
    assert line.endswith('slurm_train.sh PARTITION JOB_NAME CONFIG [arguments of tools/train.py]')
