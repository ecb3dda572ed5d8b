"""Help, names of models and mistakes in arguments need neither torch nor the hosts."""

import os
import subprocess
import sys

import pytest
from support import ROOT

from beit_mm.__main__ import COMMANDS
from beit_mm.apis import list_models
from beit_mm.commands import convert, export, features
from beit_mm.export import FORMATS, PARTS
from beit_mm.models.backbones.beit import POOLINGS
from beit_mm.models.weight_layouts import LAYOUTS

# As pip writes it, and with a worker that a command might spawn.
SCRIPT = """
import multiprocessing
import sys
from beit_mm.__main__ import main

if __name__ == '__main__' and sys.argv[1] == 'spawn':
    worker = multiprocessing.get_context('spawn').Process(target=print)
    worker.start()
    worker.join()
elif __name__ == '__main__':
    main()
"""


@pytest.fixture
def start(tmp_path):
    """Start `beit-mm` or `python -m beit_mm` where torch and the hosts cannot be imported."""
    for name in ('torch', 'numpy', 'mmengine', 'mmcv', 'mmpretrain', 'mmseg'):
        (tmp_path / f'{name}.py').write_text(f"raise ImportError('{name} is imported')")
    (tmp_path / 'beit-mm').write_text(SCRIPT)

    def run(*words: str, how: str = 'beit-mm') -> subprocess.CompletedProcess:
        program = ['-m', 'beit_mm'] if how == 'python -m' else [tmp_path / 'beit-mm']
        env = dict(os.environ, PYTHONPATH=f'{tmp_path}:{ROOT}', COLUMNS='80')
        return subprocess.run([sys.executable, *program, *words], cwd=tmp_path, env=env, capture_output=True, text=True)

    return run


@pytest.mark.parametrize('how', ['beit-mm', 'python -m'])
def test_help_and_names_of_models_are_printed(how, start):
    result = start('--help', how=how)
    assert result.returncode == 0 and result.stderr == ''
    for name, module in COMMANDS.items():
        assert f'\n    {name}' in result.stdout
        assert max(map(len, module.__doc__.partition('Example')[0].splitlines())) <= 80
    result = start('models', how=how)
    assert result.returncode == 0 and result.stderr == ''
    assert dict(line.split('\t') for line in result.stdout.splitlines()) == {
        name: str(path) for name, path in list_models().items()
    }


@pytest.mark.parametrize('name', COMMANDS)
def test_help_of_a_command_is_printed(name, start):
    result = start(name, '--help')
    assert result.returncode == 0 and result.stderr == ''
    assert result.stdout.startswith(f'usage: beit-mm {name} ') and COMMANDS[name].__doc__.strip() in result.stdout


MISTAKES = {
    'clasify photos': "invalid choice: 'clasify'",
    'classify here': 'required: --model',
    'classify nowhere --model {config} --weights here': 'IMAGE: must be a file or folder that exists, got nowhere',
    'classify here --model base': 'a model must be a config file or the name of one, got base; ',
    'classify here --model {config} --weights no.pth': '--weights: must be a file or folder that exists, got no.pth',
    'classify here --model {config} --weights here --top 3 --topk 3': 'unrecognized arguments: --topk 3',
    'classify here --model {config} --weights here --batch-size 0': 'a whole number of at least 1, got 0',
    'classify here --model {config} --weights here --out x.txt': 'must end in .json or .csv, got x.txt',
    'classify here --model {config} --weights here --cfg-options a': '--cfg-options takes KEY=VALUE, such as ',
    'features here --model {config} --weights here --out x.npy': 'must end in .npz or .csv or .parquet, or be a',
    'segment here --model {config} --weights here --out x --opacity 2': '--opacity: must be 0 to 1, got 2',
    'attention here --model {config} --weights here --points 1;2': 'must be X,Y in whole pixels, such as 120,80, got',
    'pretrain nowhere': 'FOLDER: must be a file or folder that exists, got nowhere',
    'pretrain here': 'FOLDER: must be a folder, got the file here',
    'pretrain . --minutes -1': '--minutes: must be a number of at least 1, got -1',
    'pretrain . --minutes 0.1': '--minutes: must be a number of at least 1, got 0.1',
    'pretrain . --labels here': '--labels: must be a folder, got the file here',
    'check imagnet': 'must be a config file or one of imagenet, imagenet22k, cifar100, ade20k, got imagnet',
}


@pytest.mark.parametrize('words', MISTAKES)
def test_a_mistake_in_arguments_is_one_sentence(words, start, tmp_path):
    (tmp_path / 'here').touch()
    result = start(*words.format(config=ROOT / 'configs' / 'beit_finetune.py').split())
    assert result.returncode == 2 and result.stdout == ''
    (line,) = result.stderr.splitlines()
    assert line.startswith('error: ') and MISTAKES[words] in line and line.endswith(' --help lists the arguments)')


def test_a_spawned_worker_of_a_command_registers(start):
    result = start('spawn')
    assert 'ImportError: mmengine is imported' in result.stderr


def test_choices_are_those_of_the_package():
    assert convert.LAYOUTS == tuple(LAYOUTS) and export.FORMATS == tuple(FORMATS)
    assert set(export.PARTS) == set(PARTS) and features.POOLINGS == POOLINGS
