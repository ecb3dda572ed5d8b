"""Checking a config from the command line, and at the start of a training."""

from types import SimpleNamespace

import pytest
from mmengine.config import Config
from support import ROOT
from support.tools import command, data_options, run, SMALL_TRUNK, tool

from beit_mm.checks import check_runner, ConfigMistakes

CONFIG = 'configs/demo/tokenizer.py'


def starting(output: str, word: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith(f'{word}: ')]


def test_a_warning_is_no_mistake(digits):
    output = tool('beit-mm', 'check', CONFIG, '--gpus', '4', '--cfg-options', *data_options(digits))
    (warning,) = starting(output, 'warning')
    assert warning.startswith('warning: auto_scale_lr.base_batch_size: 4 x 8 images')
    assert f'{CONFIG}: no mistakes found' in output and not starting(output, 'error')


def test_all_mistakes_are_listed_each_with_its_mend(digits):
    mistakes = ['val_evaluator.vocab_size=64', 'train_dataloader.dataset.data_root=nowhere', 'train_cfg.max_iters=20']
    options = ['--cfg-options', *data_options(digits), *mistakes, 'default_hooks.stop.typ=1']
    output = tool('beit-mm', 'check', CONFIG, *options, ok=False)
    errors = starting(output, 'error')
    assert len(errors) == len(starting(output, 'warning')) == 3 and f'{CONFIG}: 3 mistakes' in output
    for words in ('does not exist: nowhere', 'default_hooks.stop.typ: ', 'val_evaluator.vocab_size: '):
        assert any(words in line for line in errors)


HOSTS = """default_scope = 'mmpretrain'
model = dict(type='ImageClassifier', backbone=dict(type='ResNet', depth=18, num_stagez=4), head=None)"""
# MMEngine stamps our scope on what it inherits so, which must not make strangers of the hosts' types.
BY_PACKAGE = "_base_ = 'beit_mm::demo/finetune.py'\nmodel = dict(head=dict(in_chanels=1))"


@pytest.mark.parametrize(
    'text, words',
    [
        ("_base_ = 'nowhere.py'", 'nowhere.py'),
        ('a = (1', 'SyntaxError'),
        ("custom_imports = dict(imports=['no_such_module'])", 'no_such_module'),
        (HOSTS, 'model.backbone.num_stagez: ResNet takes no such argument; did you mean num_stages?'),
        (BY_PACKAGE, 'model.head.in_chanels: LinearClsHead takes no such argument; did you mean in_channels?'),
        ('a = 1', 'must name keys of'),
    ],
    ids=['base', 'syntax', 'import', 'a host', 'by package', 'option'],
)
def test_a_mistake_of_a_config_outside_the_repository_is_a_sentence(text, words, capsys, tmp_path):
    (tmp_path / 'config.py').write_text(text)
    with pytest.raises(SystemExit, match='1'):
        command('check', tmp_path / 'config.py', *(['--cfg-options', 'b.c=1'] if text == 'a = 1' else []))
    output = ''.join(capsys.readouterr())
    assert any(words in line for line in starting(output, 'error'))
    assert 'Traceback' not in output and 'registered' not in output


def test_a_training_stops_at_the_first_mistake_and_lists_all(digits, tmp_path):
    mistakes = ['model.vocab_siz=16', 'default_hooks.stop.typ=1', 'test_dataloader.dataset.data_root=nowhere']
    options = ['--cfg-options', *data_options(digits), *mistakes]
    output = tool('train', CONFIG, '--work-dir', tmp_path, *options, ok=False)
    assert starting(output, 'error') == [
        'error: model.vocab_siz: DiscreteVAE takes no such argument; did you mean vocab_size?'
    ]
    (other,) = starting(output, 'also')
    assert other.startswith('also: default_hooks.stop.typ: ')
    assert 'nowhere' not in output, 'a training does not read the test data'
    assert 'Traceback' not in output and 'Iter(train)' not in output


@pytest.mark.long
def test_two_processes_say_it_once(digits, tmp_path):
    mistakes = ['model.vocab_siz=16', 'default_hooks.stop.typ=1']
    options = ['--work-dir', tmp_path, '--cfg-options', *data_options(digits), *mistakes]
    output = run('tools/dist_train.sh', CONFIG, '2', *options, ok=False)
    assert len(starting(output, 'also')) == 1 and 'error: model.vocab_siz: ' in output


def test_a_training_logs_warnings_and_trains(digits, tmp_path):
    small = ['model.vocab_size=16', 'model.n_hid=8', 'model.n_init=8', 'val_evaluator.vocab_size=16']
    length = ['train_cfg.max_iters=1', 'train_cfg.val_interval=1']
    options = ['--cfg-options', *data_options(digits), *small, *length]
    output = tool('train', CONFIG, '--work-dir', tmp_path, *options)
    (log,) = tmp_path.glob('*/*.log')
    for text in (output, log.read_text()):
        assert 'WARNING - param_scheduler.1.begin: begins at 40, after the run of 1 iterations' in text
        assert 'WARNING - auto_scale_lr.base_batch_size: 1 x 8 images' in text


def test_a_training_without_validation_is_not_warned_of_best_scores(digits, tmp_path):
    small = [*SMALL_TRUNK, 'model.backbone.init_cfg=None', 'model.head.in_channels=32', 'train_cfg.max_epochs=1']
    short = ['train_dataloader.dataset.indices=8', 'default_hooks.checkpoint.save_best=auto']
    options = [*data_options(digits), *small, *short, 'default_hooks.checkpoint.interval=1']
    words = ['--work-dir', tmp_path, '--no-validate', '--cfg-options', *options]
    output = tool('train', 'configs/demo/finetune.py', *words)
    assert 'save_best: never comes' not in output and (tmp_path / 'epoch_1.pth').is_file()


@pytest.mark.parametrize('words', [['train'], ['test', CONFIG], ['beit-mm check']], ids=lambda words: words[0])
def test_an_override_that_changes_nothing_ends_every_tool(words, digits):
    name, *checkpoint = words
    output = tool(*name.split(), CONFIG, *checkpoint, '--cfg-options', *data_options(digits), 'max_iters=5', ok=False)
    sentence = 'error: max_iters is used by nothing after the file was read; change it in the file'
    assert starting(output, 'error')[0] == sentence


@pytest.mark.dry_run
def test_a_loop_checks_its_config_once_under_other_tools(digits):
    cfg = Config.fromfile(ROOT / CONFIG)
    data = {f'{split}_dataloader.dataset.data_root': str(digits / 'imagenet') for split in ('train', 'val', 'test')}
    cfg.merge_from_dict({**data, 'model.vocab_siz': 16})
    runner = SimpleNamespace(cfg=cfg)
    with pytest.raises(ConfigMistakes, match='did you mean vocab_size'):
        check_runner(runner)
    check_runner(runner)  # once
