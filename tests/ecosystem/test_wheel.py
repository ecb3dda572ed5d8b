"""The wheel carries what the checkout's users have."""

import os
import re
import zipfile

import pytest
from support import ROOT


def files(folder: str) -> dict[str, bytes]:
    return {
        path.relative_to(ROOT).as_posix(): path.read_bytes()
        for path in (ROOT / folder).rglob('*')
        if path.is_file() and '__pycache__' not in path.parts
    }


@pytest.mark.long
def test_wheel_carries_the_package_configs_tools_and_index(wheel):
    mim = {**files('configs'), **files('tools'), 'model-index.yml': (ROOT / 'model-index.yml').read_bytes()}
    assert {'configs/demo/segment.py', 'configs/_base_/runtime.py', 'tools/slurm_train.sh'} <= set(mim)
    kinds = '.py', '.html', '.css', '.js'  # the latter of the page of a run
    package = {
        name: content for name, content in files('beit_mm').items() if name.endswith(kinds) and '/.mim/' not in name
    }
    with zipfile.ZipFile(wheel) as archive:
        actual = {name: archive.read(name) for name in archive.namelist() if name.startswith('beit_mm/')}
    assert actual == {**package, **{f'beit_mm/.mim/{name}': content for name, content in mim.items()}}


@pytest.mark.long
def test_installed_tools_are_executable_and_what_the_documentation_names_is_there(project):
    scripts = list((project.mim / 'tools').glob('*.sh'))
    assert len(scripts) == len(list((ROOT / 'tools').glob('*.sh')))
    assert all(os.access(script, os.X_OK) for script in scripts)
    named = set(re.findall(r'\$MIM/(\S+)', (ROOT / 'docs' / 'ecosystem.md').read_text()))
    assert len(named) == 3 and all((project.mim / name).is_file() for name in named)


def test_nothing_asks_which_of_two_packages_it_has():
    """The maintained continuations and OpenMMLab's originals have the same import names."""
    texts = {
        name: text.decode()
        for folder in ('beit_mm', 'tools', 'configs')
        for name, text in files(folder).items()
        if name.endswith(('.py', '.sh'))
    }
    assert len(texts) > 50
    assert not [name for name, text in texts.items() if re.search(r'onedl|mm\w+\.__version__|importlib.metadata', text)]
