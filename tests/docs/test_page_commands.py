"""The pages' commands, code blocks and links name what exists; the commands run on small data, most in test-long."""

import ast
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from support import ROOT
from support.clone import name_as_at_the_end, run_command, small_options, split
from support.data import write_ade20k, write_pixels
from support.pages import Block, blocks, commands, DATA_SETS, OUTSIDE, PAGES, PYTHON, SHELL
from support.tools import run, scores

import beit_mm.__main__
from beit_mm.commands.arguments import read_pairs
from beit_mm.engine.runners import launch

IN_MAKE_TEST = 'docs/own_data.md'  # from the tokenizer to a score, without the demonstration's checkpoints


def shell_blocks(page: str) -> list[Block]:
    return [block for block in blocks(page) if block.kind == SHELL]


def unpacks(block: Block) -> bool:
    return block.text.startswith('mkdir ')


def test_every_block_is_python_or_commands_and_needs_what_is_known():
    found = [block for page in PAGES for block in blocks(page)]
    assert {'README.md', 'docs/training.md', 'docs/data.md', 'docs/inference.md'} < {block.page for block in found}
    assert all(block.needs <= DATA_SETS | OUTSIDE for block in found)
    for block in found:
        if block.kind == PYTHON:
            ast.parse(block.text, f'{block.page}:{block.line}')


@pytest.mark.parametrize('page', PAGES)
def test_files_and_links_of_a_page_exist(page):
    text, name = (ROOT / page).read_text(), r'(?<![\w/.$-])(?:configs|tools|docs|tests)/[\w/]+\.(?:py|sh|md|ipynb)'
    elsewhere = {block.file for block in blocks(page)}
    for block in blocks(page):
        if 'another project' in block.needs:
            elsewhere.update(re.findall(name, block.text))
    links = {link for link in re.findall(r'\]\(([^)#\s]+)(?:#[\w-]+)?\)', text) if '://' not in link}
    assert [file for file in {*re.findall(name, text)} - elsewhere if not (ROOT / file).is_file()] == []
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


def parse(words: list[str]) -> Namespace | None:
    """Arguments of `beit-mm` or `python`, as the program itself reads them; None of a program without a parser."""
    if words[0] == 'beit-mm':
        args = beit_mm.__main__.parse(words[1:])
        read_pairs(args)
        return args
    sys.argv = [str(ROOT / words[1]), *words[2:]]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(sys.argv[0]).parent))  # as Python does
        return runpy.run_path(sys.argv[0]).get('parse_args', lambda: None)()


@pytest.mark.parametrize('page', PAGES)
def test_commands_name_files_and_options_that_exist(page, monkeypatch):
    """Programs, flags, configs and their keys; commands for other projects are run by tests/ecosystem."""
    monkeypatch.setattr(sys, 'argv', [])
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setattr('beit_mm.commands.arguments.exists', lambda path: True)  # images and weights
    monkeypatch.setattr('beit_mm.commands.check.isfile', lambda path: True)  # configs that the page writes
    written = {block.file for block in blocks(page)}
    for block in shell_blocks(page):
        if unpacks(block) or 'another project' in block.needs:
            continue
        for command in block.commands:
            words = split(command)
            if words[:2] == ['beit-mm', 'check']:  # which wants the file; its options are the same for all
                words = ['configs/own_data/finetune_base.py' if word in written else word for word in words]
            assert not words[0].endswith('.sh') or (ROOT / words[0]).is_file(), command
            if words[0] not in ('beit-mm', 'python') or words[1] == '-c' or words[1:3] == ['-m', 'venv']:
                continue
            try:
                arguments = parse(words)
            except SystemExit:
                pytest.fail(f'{page}: {command}')
            config = getattr(arguments, 'config', None)
            if config and config not in written:
                options = dict(cfg_options=getattr(arguments, 'cfg_options', None), work_dir=None, launcher='none')
                launch.prepare_config(Namespace(config=str(ROOT / config), **options))


@pytest.mark.parametrize('page', [pytest.param(page, marks=pytest.mark.long) for page in PAGES if page != IN_MAKE_TEST])
def test_every_command_without_outside_needs_runs(page, demonstration):
    for block in shell_blocks(page):
        for command in block.commands:
            if block.needs <= DATA_SETS and not unpacks(block) and command not in ran:
                run_command(command)
                ran.append(command)


ran: list[str] = []  # commands stand on several pages


def test_every_command_of_own_data_runs(clone):
    """From the layout to the score, in the page's order; each stage starts from what the one before wrote."""
    actual = [command for block in shell_blocks(IN_MAKE_TEST) if not block.needs for command in block.commands]
    trained = {Path(word).stem for command in actual for word in command.split() if word.startswith('configs/')}
    own = {path.stem for path in (ROOT / 'configs/own_data').glob('*.py')}
    assert trained == own | {'pretrain_kmeans', 'pretrain_shards', 'finetune_table', 'finetune_balanced'}
    for command in actual:
        run_command(command)


def test_config_for_other_bands_trains(clone):
    """Of docs/own_data.md as printed, from weights for RGB, on TIFF files of four bands of 16 bits."""
    rng, config = np.random.default_rng(0), 'configs/own_data/finetune_bands.py'
    for label in Config.fromfile(config).classes:
        for part, index in (('train', 0), ('train', 1), ('val', 2)):
            path = clone / 'data' / 'bands' / part / label / f'{index}.tif'
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 2**16, (80, 100, 4), np.uint16)
            tifffile.imwrite(path, pixels, photometric='minisblack', planarconfig='contig')
    roots = [f'{part}_dataloader.dataset.data_root=data/bands' for part in ('train', 'val', 'test')]
    run_command(f'python tools/train.py {config} --cfg-options {" ".join(roots)}')
    (log,) = (clone / 'work_dirs/own_data/finetune_bands').glob('*/*.log')
    assert 'patch embedding of 3 channels to 4 (repeated, times 3/4)' in log.read_text()


@pytest.mark.long
def test_road_of_the_readme_runs_on_two_processes(clone):
    """Tokenizer, pre-training, fine-tuning and segmentation by the launchers, each from what the one before wrote."""
    road = [shlex.split(command) for command in commands('README.md') if re.match(r'tools/dist_.*\d$', command)]
    stages = ['tokenizer', 'pretrain', 'finetune', 'finetune', 'segment', 'segment']
    assert [Path(words[1]).stem for words in road] == [f'beit_{stage}' for stage in stages]
    for words in road:
        cfg = Config.fromfile(words[1])
        work_dir = clone / 'work_dirs' / Path(words[1]).stem
        options = ['--cfg-options', *small_options(words[1], cfg), 'train_dataloader.dataset.indices=8']
        output = run(*words[:-1], '2', *options, cwd=clone)
        if 'train' in words[0]:
            assert 'find_unused_parameters' not in output
            name_as_at_the_end(cfg, work_dir)
            assert 'segment' not in words[1] or 'bias tables 14 x 14 to 32 x 32' in output
        else:
            assert ('mIoU' if 'segment' in words[1] else 'accuracy/top1') in scores(work_dir)


def test_makefile_has_the_targets_that_the_readme_names():
    targets = {match[1] for match in map(re.compile(r'make ([\w-]+)').match, commands('README.md')) if match}
    assert {'demo', 'test'} <= targets
    assert targets <= set(re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.M))
    assert 'make test' in (ROOT / '.ci' / 'run').read_text()


def test_archives_unpack_into_the_layouts(tmp_path):
    """docs/data.md on small archives of the published structure."""
    home, rng = tmp_path / 'home', np.random.default_rng(0)
    home.mkdir()
    for name in ('n00004475', 'n00005787'):
        write_pixels(tmp_path / name / f'{name}_1.JPEG', rng, (8, 8, 3))
        shutil.make_archive(tmp_path / 'winter' / name, 'tar', tmp_path / name)
    shutil.move(shutil.make_archive(tmp_path / 'fall11', 'tar', tmp_path / 'winter'), home / 'fall11_whole.tar')
    (tmp_path / 'cifar' / 'cifar-100-python').mkdir(parents=True)
    (tmp_path / 'cifar' / 'cifar-100-python' / 'train').write_bytes(b'')
    shutil.make_archive(home / 'cifar-100-python', 'gztar', tmp_path / 'cifar', 'cifar-100-python')
    write_ade20k(tmp_path / 'ade' / 'ADEChallengeData2016')
    shutil.make_archive(home / 'ADEChallengeData2016', 'zip', tmp_path / 'ade', 'ADEChallengeData2016')

    unpacking = [block for block in shell_blocks('docs/data.md') if unpacks(block)]
    assert len(unpacking) == 3
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'  # as in an activated environment
    for block in unpacking:
        subprocess.run(['bash', '-ec', block.text], cwd=home, env={**os.environ, 'PATH': path}, check=True)
    for folder in ('imagenet22k/train/n00004475', 'ade/ADEChallengeData2016/annotations/validation'):
        assert any((home / 'data' / folder).iterdir())
    assert (home / 'data' / 'cifar100' / 'cifar-100-python' / 'train').is_file()


@pytest.mark.parametrize('page', ['README.md', 'docs/ecosystem.md'])
def test_trunk_of_an_example_config_builds(page):
    """In a host's segmentor: four maps for its head."""
    (text,) = [block.text for block in blocks(page) if "type='beit_mm.BEiT'" in block.text]
    trunk = Config.fromstring(text, '.py').model.backbone
    trunk.pop('_delete_', None)
    with torch.device('meta'):
        maps = MODELS.build(trunk)(torch.zeros(1, 3, 512, 512))
    assert [tuple(part.shape) for part in maps] == [(1, 768, 32, 32)] * 4


@pytest.mark.long
def test_python_of_the_page_runs(demonstration):
    """Blocks of the page on inference in their order, with the names of those before."""
    names: dict = {}
    for block in blocks('docs/inference.md'):
        if block.kind == PYTHON and block.needs <= DATA_SETS:
            exec(compile(block.text, f'{block.page}:{block.line}', 'exec'), names)
    assert len(names) > 1
