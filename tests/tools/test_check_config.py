"""Checking a config from the command line, and at the start of a training."""

import re
import sys
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from support import ROOT
from support.tools import run, run_here, tool

from beit_mm.checks import check_runner, ConfigMistakes

CONFIG = 'configs/demo/tokenizer.py'


def data_options(digits) -> list:
    return [
        '--cfg-options',
        *(
            f'{loader}.{key}={value}'
            for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader')
            for key, value in {
                'dataset.data_root': digits / 'imagenet',
                'num_workers': 0,
                'persistent_workers': False,
                'batch_size': 8,
            }.items()
        ),
    ]


def test_a_config_without_mistakes(digits):
    output = tool('misc/check_config', CONFIG, *data_options(digits))
    assert f'{CONFIG}: no mistakes found' in output and 'error:' not in output and 'warning:' not in output


def test_a_warning_is_no_mistake(digits):
    output = tool('misc/check_config', CONFIG, '--gpus', '4', *data_options(digits))
    assert 'warning: auto_scale_lr.base_batch_size: 4 x 8 images' in output and 'no mistakes found' in output


def test_all_mistakes_are_listed_each_with_its_mend(digits):
    output = tool(
        'misc/check_config',
        CONFIG,
        *data_options(digits),
        'val_evaluator.vocab_size=64',
        'train_dataloader.dataset.data_root=nowhere',
        'train_cfg.max_iters=20',
        'default_hooks.stop.typ=1',
        ok=False,
    )
    lines = [line for line in output.splitlines() if line.startswith(('error: ', 'warning: '))]
    assert [line.split(': ')[0] for line in lines] == ['error'] * 3 + ['warning'] * 3
    assert any('does not exist: nowhere' in line for line in lines)
    assert any(line.startswith('error: default_hooks.stop.typ: ') for line in lines)
    assert any(line.startswith('error: val_evaluator.vocab_size: ') for line in lines)
    assert f'{CONFIG}: 3 mistakes' in output and 'no mistakes found' not in output


def check(capsys, config, *options: str) -> str:
    """What the tool prints for a config with mistakes, without a process of its own."""
    with pytest.raises(SystemExit) as end:
        run_here([ROOT / 'tools/misc/check_config.py', config, *(['--cfg-options', *options] if options else [])])
    assert end.value.code == 1
    output = capsys.readouterr()
    return output.out + output.err


@pytest.mark.parametrize(
    'text, words',
    [
        ("_base_ = 'nowhere.py'", 'nowhere.py'),
        ('a = (1', 'SyntaxError'),
        ("custom_imports = dict(imports=['no_such_module'])", 'no_such_module'),
        ('a = undefined', 'undefined'),
    ],
)
def test_a_config_that_cannot_be_read_is_one_sentence(capsys, tmp_path, text, words):
    (tmp_path / 'config.py').write_text(text)
    output = check(capsys, tmp_path / 'config.py')
    errors = [line for line in output.splitlines() if line.startswith('error: ')]
    assert len(errors) == 1 and words in errors[0] and 'Traceback' not in output


def test_arguments_that_name_nothing(capsys):
    assert 'error: no config file at nowhere.py' in check(capsys, 'nowhere.py')
    output = check(capsys, ROOT / CONFIG, 'optim_wraper.dtype=float32')
    assert 'error: --cfg-options must name keys of' in output and 'got optim_wraper.dtype' in output


def test_a_config_of_a_host(capsys, tmp_path):
    """Of another project, without anything of ours in it, with a mistake among its own parts."""
    (tmp_path / 'config.py').write_text("""
default_scope = 'mmpretrain'
model = dict(type='ImageClassifier', backbone=dict(type='ResNet', depth=18, num_stagez=4), head=None)
""")
    output = check(capsys, tmp_path / 'config.py')
    assert 'error: model.backbone.num_stagez: ResNet takes no such argument; did you mean num_stages?' in output


def test_a_base_that_is_named_by_package(capsys, tmp_path):
    """MMEngine stamps our scope on what it inherits so, which must not make strangers of the hosts' types."""
    (tmp_path / 'config.py').write_text("_base_ = 'beit_mm::demo/finetune.py'\nmodel = dict(head=dict(in_chanels=1))\n")
    output = check(capsys, tmp_path / 'config.py')
    assert 'error: model.head.in_chanels: LinearClsHead takes no such argument; did you mean in_channels?' in output
    assert 'registered' not in output and 'default_scope' not in output


def test_a_training_stops_at_the_first_mistake_and_lists_all(digits, tmp_path):
    output = tool(
        'train',
        CONFIG,
        '--work-dir',
        tmp_path,
        *data_options(digits),
        'model.vocab_siz=16',
        'default_hooks.stop.typ=1',
        'test_dataloader.dataset.data_root=nowhere',
        ok=False,
    )
    errors = [line for line in output.splitlines() if line.startswith('error: ')]
    assert errors == ['error: model.vocab_siz: DiscreteVAE takes no such argument; did you mean vocab_size?']
    assert len(re.findall(r'^also: default_hooks\.stop\.typ: ', output, flags=re.M)) == 1
    assert 'nowhere' not in output, 'a training does not read the test data'
    assert 'Traceback' not in output and 'Iter(train)' not in output


def test_a_training_logs_warnings_and_trains(digits, tmp_path):
    output = tool(
        'train',
        CONFIG,
        '--work-dir',
        tmp_path,
        *data_options(digits),
        'model.vocab_size=16',
        'model.n_hid=8',
        'model.n_init=8',
        'val_evaluator.vocab_size=16',
        'train_cfg.max_iters=1',
        'train_cfg.val_interval=1',
    )
    (log,) = tmp_path.glob('*/*.log')
    for text in (output, log.read_text()):
        assert 'WARNING - param_scheduler.1.begin: begins at 60, after the run of 1 iterations' in text
        assert 'WARNING - auto_scale_lr.base_batch_size: 1 x 8 images' in text
    assert (tmp_path / 'iter_1.pth').is_file()


def test_two_processes_say_it_once(digits, tmp_path):
    output = run(
        'tools/dist_train.sh',
        CONFIG,
        '2',
        '--work-dir',
        tmp_path,
        *data_options(digits),
        'model.vocab_siz=16',
        'default_hooks.stop.typ=1',
        ok=False,
    )
    assert len(re.findall(r'^also: ', output, flags=re.M)) == 1
    assert 'error: model.vocab_siz: ' in output


def test_the_tool_runs_outside_of_the_repository(tmp_path):
    (tmp_path / 'config.py').write_text(f"_base_ = '{ROOT}/configs/demo/tokenizer.py'\nmodel = dict(n_hidden=8)\n")
    output = run(sys.executable, ROOT / 'tools/misc/check_config.py', 'config.py', cwd=tmp_path, ok=False)
    assert 'error: model.n_hidden: DiscreteVAE takes no such argument' in output


@pytest.mark.dry_run
def test_a_loop_checks_its_config_once_under_other_tools():
    cfg = Config.fromfile(ROOT / CONFIG)
    cfg.merge_from_dict({'model.vocab_siz': 16})
    runner = SimpleNamespace(cfg=cfg)
    with pytest.raises(ConfigMistakes, match='did you mean vocab_size'):
        check_runner(runner)
    check_runner(runner)  # once
