"""The wheel carries what the checkout's users have."""

import os
import re
import zipfile

import pytest
from support import ROOT


def files(folder: str, *ends: str) -> dict[str, bytes]:
    paths = [path for path in (ROOT / folder).rglob('*') if path.is_file() and '__pycache__' not in path.parts]
    names = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in paths if path.name.endswith(ends or '')}
    return {name: content for name, content in names.items() if '/.mim/' not in name}


@pytest.mark.long
def test_wheel_carries_the_package_configs_tools_and_index_and_the_tools_are_executable(wheel, project):
    mim = {**files('configs'), **files('tools'), 'model-index.yml': (ROOT / 'model-index.yml').read_bytes()}
    assert {'configs/demo/segment.py', 'configs/_base_/runtime.py', 'tools/slurm_train.sh'} <= set(mim)
    package = files('beit_mm', '.py', '.html', '.css', '.js', '.safetensors', '.json', '.jpg', '.npz')
    with zipfile.ZipFile(wheel) as archive:
        actual = {name: archive.read(name) for name in archive.namelist() if name.startswith('beit_mm/')}
    assert actual == {**package, **{f'beit_mm/.mim/{name}': content for name, content in mim.items()}}
    assert all(os.access(project.mim / name, os.X_OK) for name in files('tools', '.sh'))
    named = set(re.findall(r'\$MIM/(\S+)', (ROOT / 'docs' / 'ecosystem.md').read_text()))
    assert len(named) == 3 and all((project.mim / name).is_file() for name in named)
    assert str(project.mim) in project.python(project.site / 'bin' / 'beit-mm', 'models').stdout


def test_nothing_asks_which_of_two_packages_it_has():
    """The maintained continuations and OpenMMLab's originals have the same import names."""
    texts = {**files('beit_mm', '.py'), **files('tools', '.py', '.sh'), **files('configs', '.py')}
    del texts['tools/benchmark/gpu.sh']  # it installs them by name
    assert len(texts) > 50
    asking = re.compile(rb'onedl|mm\w+\.__version__|importlib.metadata')
    assert not [name for name, text in texts.items() if asking.search(text)]
