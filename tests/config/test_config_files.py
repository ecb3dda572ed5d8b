"""Mistakes in config files and in overrides are one sentence; overrides that change nothing are named."""

import argparse
import re
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from mmengine.config import Config
from support import CONFIGS, ROOT
from support.tools import run, tool

from beit_mm.apis import load_model
from beit_mm.checks import check_config
from beit_mm.config.flatten import flatten
from beit_mm.config.reading import Options, read_config, unread_options
from beit_mm.errors import UnreadOption, UserError

BASE = f"_base_ = '{CONFIGS}/demo/finetune.py'\n"
FILES = {
    'missing comma': ('a = dict(b=1\n         c=2)\n', 'line 1 .*SyntaxError.*forgot a comma'),
    'missing comma in a list': ('a = [\n    dict(b=1)\n    (2, 3),\n]\n', 'line [23] .*TypeError.*is a comma missing'),
    'tabs': ('if True:\n\ta = 1\n        b = 2\n', 'line 3 .*TabError.*indent with spaces only'),
    'Latin-1': (b'# \xe4\na = 1\n', 'UnicodeDecodeError.*save it as UTF-8'),
    'UTF-16': ('a = 1'.encode('utf-16'), 'UnicodeDecodeError.*save it as UTF-8'),
    'byte order mark': (b'\xef\xbb\xbfa = 1\n', 'line 1 .*save it as plain UTF-8'),
    'no base': ("_base_ = 'nowhere.py'\n", 'no file at .*nowhere.py; give the path of a base'),
    'its own base': ("_base_ = 'config.py'\n", 'RecursionError.*may not be its own base'),
    'two bases': ("_base_ = ['other.py', 'other.py']\n", "KeyError: Duplicate key.*{'a'}"),
    'a base that cannot be read': (
        "_base_ = 'broken.py'\n",
        r'broken.py, line 2, which .*config.py needs, .*SyntaxError',
    ),
    'unknown variable': (f'{BASE}a = _base_.nothing\n', "line 2 .*AttributeError.*'nothing'"),
    'unknown name': ('a = nothing\n', 'line 1 .*NameError'),
    'calculation': ('a = 1 / 0\n', 'line 1 .*ZeroDivisionError'),
    'environment': ("a = '{{$NO_SUCH_VARIABLE:}}'\n", 'NO_SUCH_VARIABLE'),
    'import': ("custom_imports = dict(imports=['no_such_module'])\n", 'no_such_module'),
    'another type than the base': (f'{BASE}param_scheduler = dict(end=3)\n', 'param_scheduler.*_delete_=True'),
    'no dict': ('model = 5\n', 'model must be a dict, got 5'),
    'no list': ("custom_hooks = 'x'\n", "custom_hooks must be a list, got 'x'"),
    'no text': ('work_dir = 5\n', 'work_dir must be a text, got 5'),
}


@pytest.mark.parametrize('name', FILES)
def test_a_mistake_in_a_file_is_one_sentence(name, tmp_path):
    text, words = FILES[name]
    (tmp_path / 'other.py').write_text('a = 1\n')
    (tmp_path / 'broken.py').write_text('a = 1\nb = (\n')
    (tmp_path / 'config.py').write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as error:
        read_config(tmp_path / 'config.py')
    assert re.search(words, str(error.value)) and '\n' not in str(error.value)


@pytest.mark.parametrize('name', ['train', 'test', 'beit-mm check', 'beit-mm check --data', 'misc/print_config'])
def test_every_tool_says_it_without_a_traceback(name, tmp_path):
    (tmp_path / 'config.py').write_text(FILES['missing comma'][0])
    words = [tmp_path / 'weights.pth'] if name == 'test' else []
    output = tool(*name.split(), tmp_path / 'config.py', *words, ok=False)
    assert 'forgot a comma' in output and 'Traceback' not in output


OPTIONS = [
    ('train_cfg.max_epochs=two', "train_cfg.max_epochs must be a number, such as 9, got 'two'"),
    ('train_dataloader.persistent_workers=no', 'persistent_workers must be True or False'),
    ('train_dataloader.sampler=x', 'train_dataloader.sampler must be a dict'),
    ('param_scheduler.5.end=3', 'param_scheduler.5.end=3 does not fit .*: Index 5 exceeds'),
    ('param_scheduler.x.end=3', 'param_scheduler.x.end=3 does not fit'),
    ('train_cfg.max_epochs.x=1', 'train_cfg.max_epochs.x=1 does not fit'),
    ('optim_wrapper.optimizer.lr=0,001', r'lr must be a number, such as .*, got \[0, 1\]'),
    ('model.backbone.with_cp=no', "with_cp must be False, got the text 'no'"),
    ('default_hooks.report=none', "default_hooks.report must be None, got the text 'none'"),
    ('optim_wraper.dtype=float32', 'must name keys of .*got optim_wraper.dtype; did you mean optim_wrapper?'),
    ('img_size', 'takes KEY=VALUE, .* got .img_size.'),
    ('=3', 'takes KEY=VALUE'),
    ('model..depth=3', 'takes KEY=VALUE'),
    ('a=[1,2', 'the brackets of .* do not match'),
    ("a=[dict(type='b',c=1)]", 'must be a value, or a list or tuple of values'),
]


@pytest.mark.parametrize('word, words', OPTIONS)
def test_a_mistake_in_an_override_is_one_sentence(word, words, capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=Options)
    try:
        read_config(CONFIGS / 'demo' / 'finetune.py', parser.parse_args(['--cfg-options', word]).cfg_options)
    except (UserError, SystemExit) as error:
        assert re.search(words, str(error) if isinstance(error, UserError) else capsys.readouterr().err)
    else:
        pytest.fail('accepted')


@pytest.mark.parametrize(
    'word, value',
    [
        ('a=data/my images', 'data/my images'),
        ("a=['polar bear', 'dog']", ['polar bear', 'dog']),
        ('a=[polar, dog]', ['polar', 'dog']),
        ('a=(1, 2)', (1, 2)),
        ('a=~/data', f'{Path.home()}/data'),
    ],
)
def test_an_override_keeps_spaces_in_names_and_reads_the_home_folder(word, value):
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=Options)
    assert parser.parse_args(['--cfg-options', word]).cfg_options == dict(a=value)


@pytest.mark.parametrize(
    'path, hint',
    [('fine.py', '; did you mean fin.py?'), ('ab/x.py', '; did you mean abc?'), ('zz/x', '; it was looked for in {}')],
)
def test_a_missing_file_is_named_with_what_may_be_meant(path, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('fin.py').touch()
    Path('abc').mkdir()
    with pytest.raises(FileNotFoundError) as error:
        read_config(path)
    assert str(error.value) == f'no config file at {path}{hint.format(tmp_path)}'


# Plain variables, parts of helper dicts and lists, and what a model has of its own; then overrides that are read.
UNREAD = [
    ('own_data/finetune.py', 'img_size', 96),
    ('own_data/finetune.py', 'classes', ['a', 'b']),
    ('own_data/finetune.py', 'data_root', 'elsewhere'),
    ('own_data/segment.py', 'dataset.data_root', 'elsewhere'),
    ('own_data/segment.py', 'max_iters', 10),
    ('own_data/segment.py', 'test_pipeline.1.scale', (64, 64)),
    ('beit_segment.py', 'crop_size', (64, 64)),
]


@pytest.mark.parametrize('name, key, value', UNREAD)
def test_an_override_that_changes_nothing_is_named(name, key, value):
    sentence = 'is used by nothing after the file was read; change it in the file'
    assert unread_options(read_config(CONFIGS / name, {key: value}), {key: value}) == {key: sentence}


def test_a_tool_says_so_in_one_sentence(tmp_path):
    (tmp_path / 'config.py').write_text('crop_size = 3\n')
    script = ROOT / 'tools' / 'misc' / 'print_config.py'
    output = run(sys.executable, script, tmp_path / 'config.py', '--cfg-options', 'crop_size=4', PYTHONWARNINGS='')
    sentence = 'is used by nothing after the file was read; change it in the file'
    assert output == f'crop_size = 4\nwarning: crop_size {sentence}\n'


def test_a_caller_is_warned_and_may_catch_it(tmp_path):
    (tmp_path / 'config.py').write_text('model = dict(type="mmpretrain.ImageClassifier")\ncrop_size = 3\n')
    for read in (flatten, load_model):
        with pytest.warns(UnreadOption, match='^crop_size is used by nothing') as caught, suppress(Exception):
            read(tmp_path / 'config.py', options=dict(crop_size=4))
        assert caught[0].filename == __file__


def test_a_launcher_that_is_overridden_is_named():
    (sentence,) = unread_options(Config(dict(launcher='none')), dict(launcher='pytorch')).values()
    assert sentence.startswith('is used by nothing, since --launcher sets it')


def test_no_override_of_the_pages_and_headers_is_said_to_change_nothing():
    pages = [*ROOT.glob('docs/*.md'), ROOT / 'README.md', *CONFIGS.rglob('*.py')]
    lines = [line for page in pages for line in page.read_text().replace('\\\n', ' ').splitlines()]
    keys = {key for line in lines if '--cfg-options' in line for key in re.findall(r'([\w.]+)=', line)}
    assert len(keys) > 10
    cfg = read_config(CONFIGS / 'own_data' / 'segment.py')
    assert unread_options(cfg, dict.fromkeys(keys)) == {}


@pytest.mark.parametrize('user, is_named', [('', True), ('work_dir = str(img_size)\n', False)])
def test_a_variable_of_a_base_that_is_set_anew_for_nothing_is_named(user, is_named, tmp_path):
    base = CONFIGS / 'own_data' / 'finetune.py'
    (tmp_path / 'config.py').write_text(f"_base_ = '{base}'\nimg_size = 96\n{user}")
    problems = [each for each in check_config(read_config(tmp_path / 'config.py'), ()) if each.key == 'img_size']
    assert bool(problems) == is_named
    sentence = f'img_size is used by nothing: {base} sets it to 224, and other values were computed from that; set 96'
    assert all(str(each).startswith(sentence) and not each.is_error for each in problems)


@pytest.mark.parametrize(
    'command', ['tools/dist_train.sh CONFIG two', 'tools/dist_test.sh CONFIG FILE 0', 'tools/dist_train.sh CONFIG']
)
def test_a_number_of_processes_that_is_none_is_one_sentence(command):
    output = run(*command.split(), ok=False)
    assert len(output.splitlines()) == 1 and re.search('error: .*whole number of at least 1, got|usage: ', output)


def test_a_work_directory_that_cannot_be_written_to_is_one_sentence(tmp_path):
    (tmp_path / 'file').touch()
    output = tool('train', 'configs/demo/finetune.py', '--work-dir', tmp_path / 'file' / 'run', ok=False)
    assert 'cannot be written to' in output and '--work-dir' in output and 'Traceback' not in output
