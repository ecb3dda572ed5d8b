"""Every command of the README and docs is run on small data, or says by a comment before it what it needs."""

import ast
import re
import shlex
import subprocess
import tarfile
import zipfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import DictAction
from support import ROOT
from support.clone import run_command
from support.data import write_ade20k, write_pixels
from support.pages import Block, blocks, DATA_SETS, OUTSIDE, PAGES, PYTHON, SHELL

from beit_mm.checks.data_folders import WRONG
from beit_mm.checks.data_layouts import LAYOUTS
from beit_mm.engine.runners import launch

# Pages whose own tests run every command of them.
OWN_TESTS = ('docs/own_data.md', 'docs/extending.md')


def shell_blocks(page: str) -> list[Block]:
    return [block for block in blocks(page) if block.kind == SHELL]


def unpacks(block: Block) -> bool:
    return block.text.startswith('mkdir ')


def is_slow(command: str) -> bool:
    """12 seconds for a model that tests/export exports, too."""
    return command.endswith('.onnx')


def is_run(block: Block) -> bool:
    return set(block.needs) <= set(DATA_SETS) and not unpacks(block)


def test_every_block_is_of_a_known_kind_and_needs_what_is_known():
    found = {page: blocks(page) for page in PAGES}
    assert {'README.md', 'docs/training.md', 'docs/data.md', 'docs/inference.md'} < set(found)
    assert {need for page in found for block in found[page] for need in block.needs} <= {*DATA_SETS, *OUTSIDE}
    for block in (block for page in found for block in found[page] if block.kind == PYTHON):
        ast.parse(block.text, f'{block.page}:{block.line}')


@pytest.mark.parametrize('page', [page for page in PAGES if page not in OWN_TESTS])
def test_every_command_without_outside_needs_runs(page, clone):
    for block in filter(is_run, shell_blocks(page)):
        for command in block.commands:
            if command not in ran and not is_slow(command):
                run_command(command)
                ran.append(command)


ran: list[str] = []  # commands stand on several pages


@pytest.mark.long
def test_slow_commands_run(clone):
    slow = [
        command
        for block in filter(is_run, shell_blocks('docs/inference.md'))
        for command in block.commands
        if is_slow(command)
    ]
    assert len(slow) == 1
    run_command(slow[0])


@pytest.mark.parametrize('page', PAGES)
def test_commands_that_need_more_name_what_exists(page):
    """Scripts, configs and keys of configs of what is not run; those for other projects are tests/ecosystem's."""
    for block in shell_blocks(page):
        if is_run(block) or 'another project' in block.needs:
            continue
        for command in block.commands:
            words = shlex.split(command)
            for name in (word for word in words if re.match(r'(configs|tools)/\S+\.(py|sh)$', word)):
                assert (ROOT / name).is_file(), f'{page}: {command}'
            configs = [word for word in words if word.startswith('configs/')]
            if '--cfg-options' in words:
                options = dict(word.split('=', 1) for word in words[words.index('--cfg-options') + 1 :])
                options = {key: DictAction._parse_iterable(value) for key, value in options.items()}
                launch._load_config(
                    Namespace(config=str(ROOT / configs[0]), cfg_options=options, work_dir=None, launcher='none')
                )


def archive(path: Path, *members: Path) -> None:
    """A tar archive of files and folders under their own names."""
    with tarfile.open(path, 'w:gz' if path.suffix == '.gz' else 'w') as tar:
        for member in members:
            tar.add(member, member.name)


def test_archives_unpack_into_the_layouts(tmp_path):
    """docs/data.md on small archives of the published structure."""
    home, rng = tmp_path / 'home', np.random.default_rng(0)
    home.mkdir()
    for name in ('n00004475', 'n00005787'):
        write_pixels(tmp_path / f'{name}_1.JPEG', rng, (8, 8, 3))
        archive(tmp_path / f'{name}.tar', tmp_path / f'{name}_1.JPEG')
    archive(home / 'fall11_whole.tar', *sorted(tmp_path.glob('n*.tar')))
    (tmp_path / 'cifar-100-python').mkdir()
    (tmp_path / 'cifar-100-python' / 'train').write_bytes(b'')
    archive(home / 'cifar-100-python.tar.gz', tmp_path / 'cifar-100-python')
    write_ade20k(tmp_path / 'ADEChallengeData2016')
    with zipfile.ZipFile(home / 'ADEChallengeData2016.zip', 'w') as packed:
        for path in (tmp_path / 'ADEChallengeData2016').rglob('*.*'):
            packed.write(path, path.relative_to(tmp_path))

    unpacking = [block for block in shell_blocks('docs/data.md') if unpacks(block)]
    assert len(unpacking) == 3
    for block in unpacking:
        subprocess.run(['bash', '-ec', block.text], cwd=home, check=True)
    for layout in ('imagenet22k', 'ade20k'):
        findings = list(LAYOUTS[layout].check(home / LAYOUTS[layout].root, 10))
        assert len(findings) > 3 and WRONG not in {finding.verdict for finding in findings}
    assert (home / LAYOUTS['cifar100'].root / 'cifar-100-python' / 'train').is_file()


@pytest.mark.parametrize('page', ['docs/inference.md'])
def test_python_of_the_page_runs(page, clone):
    """Its blocks in order, with the names of those before."""
    names: dict = {}
    for block in blocks(page):
        if block.kind == PYTHON and set(block.needs) <= set(DATA_SETS):
            exec(compile(block.text, f'{page}:{block.line}', 'exec'), names)
    assert len(names) > 1


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        text = (ROOT / page).read_text()
        for link in re.findall(r'\]\(([^)#\s]+)(?:#[\w-]+)?\)', text):
            if '://' not in link:
                assert ((ROOT / page).parent / link).exists(), f'{page}: {link}'
