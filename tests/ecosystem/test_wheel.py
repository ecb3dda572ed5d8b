"""The wheel carries what the checkout's users have, and a project that has the wheel alone sees it."""

import os
import re
import zipfile
from pathlib import Path

import pytest
from support import ROOT

MIM = 'beit_mm/.mim/'


def files(folder: str) -> dict:
    return {
        path.relative_to(ROOT).as_posix(): path.read_bytes()
        for path in (ROOT / folder).rglob('*')
        if path.is_file() and '__pycache__' not in path.parts
    }


@pytest.mark.long
def test_wheel_carries_configs_tools_and_index(wheel):
    expected = {**files('configs'), **files('tools'), 'model-index.yml': (ROOT / 'model-index.yml').read_bytes()}
    with zipfile.ZipFile(wheel) as archive:
        actual = {name.removeprefix(MIM): archive.read(name) for name in archive.namelist() if name.startswith(MIM)}
    assert {'configs/demo/segment.py', 'configs/_base_/runtime.py', 'tools/slurm_train.sh'} <= set(expected)
    assert actual == expected


@pytest.mark.long
def test_wheel_carries_the_whole_package(wheel):
    kinds = '.py', '.html', '.css', '.js'  # the latter of the page of a run
    expected = {name for name in files('beit_mm') if name.endswith(kinds) and '/.mim/' not in name}
    with zipfile.ZipFile(wheel) as archive:
        actual = {name for name in archive.namelist() if name.startswith('beit_mm/') and '/.mim/' not in name}
    assert actual == expected


@pytest.mark.long
def test_shell_tools_can_be_run(project):
    scripts = list((project.mim / 'tools').glob('*.sh'))
    assert len(scripts) == len(list((ROOT / 'tools').glob('*.sh')))
    assert all(os.access(script, os.X_OK) for script in scripts)


@pytest.mark.long
def test_what_the_documentation_names_in_the_wheel_is_there(project):
    named = set(re.findall(r'\$MIM/(\S+)', (ROOT / 'docs' / 'ecosystem.md').read_text()))
    assert len(named) == 3
    assert [name for name in named if not (project.mim / name).is_file()] == []


def test_nothing_asks_which_of_two_packages_it_has():
    """The maintained continuations and OpenMMLab's originals have the same import names."""
    texts = {
        name: text.decode()
        for folder in ('beit_mm', 'tools', 'configs')
        for name, text in files(folder).items()
        if name.endswith(('.py', '.sh'))
    }
    assert len(texts) > 50
    asking = [name for name, text in texts.items() if re.search(r'onedl|mm\w+\.__version__|importlib.metadata', text)]
    assert asking == []


@pytest.mark.long
@pytest.mark.parametrize('host', ['mmpretrain', 'mmseg'])
def test_the_project_sees_the_wheel_and_not_the_checkout(host, project, request):
    report = request.getfixturevalue(f'{host}_report')
    assert Path(report['package']) == project.site / 'beit_mm' / '__init__.py'
