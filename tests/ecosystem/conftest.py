"""A project outside the repository, with beit_mm installed from its wheel."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT
from support.digits import write_classification, write_segmentation
from support.project import last_score, Project

# What a wheel is made of; a copy of these, so that building leaves nothing in the checkout.
PARTS = ('beit_mm', 'configs', 'tools', 'model-index.yml', 'pyproject.toml', 'setup.cfg', 'README.md')


def pip(*arguments: object) -> None:
    command = [sys.executable, '-m', 'pip', '--disable-pip-version-check', *map(str, arguments)]
    result = subprocess.run(command, env=dict(os.environ, PIP_NO_INDEX='1'), capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]


@pytest.fixture(scope='session')
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('wheel')
    source = folder / 'source'
    source.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part, symlinks=True, ignore=shutil.ignore_patterns('__pycache__'))
        else:
            shutil.copy(ROOT / part, source)
    pip('wheel', '--no-deps', '--no-build-isolation', '-w', folder, source)
    (path,) = folder.glob('*.whl')
    return path


@pytest.fixture(scope='session')
def project(wheel, tmp_path_factory) -> Project:
    """The folder project/ with the embedded data, and the installed wheel."""
    folder = tmp_path_factory.mktemp('ecosystem')
    pip('install', '--no-deps', '--no-compile', '--target', folder / 'site', wheel)
    shutil.copytree(Path(__file__).parent / 'project', folder / 'project')
    write_classification(folder / 'project' / 'data' / 'digits' / 'imagenet', limit=6, renders=1)
    write_segmentation(folder / 'project' / 'data' / 'digits' / 'ade20k', num_train=4, num_val=2, limit=6)
    return Project(folder / 'project', folder / 'site')


@pytest.fixture(scope='session')
def classifier_score(project) -> float:
    """Of a training by MMPretrain's own tool; the config names its base by a relative path."""
    return last_score(project.host_tool('mmpretrain', 'train', 'configs/classify.py'), 'accuracy/top1')


@pytest.fixture(scope='session')
def segmentor_score(project, classifier_score) -> float:
    """Of a training by MMSegmentation's own tool from the classifier; the base is an absolute path."""
    output = project.host_tool('mmseg', 'train', 'configs/segment.py')
    assert 'BEiT trunk: 35 of 35 tensors loaded; adapted: none; missing: none; left out: fc_norm (2)' in output
    return last_score(output, 'mIoU')


@pytest.fixture(scope='session')
def flat_copy(project) -> Path:
    """Our segmentor's config without its bases, where the project's pure-Python config looks for it."""
    path = project.folder / 'configs' / 'flat_segment.py'
    path.write_text(project.tool('misc/print_config', project.mim / 'configs' / 'demo' / 'segment.py'))
    return path
