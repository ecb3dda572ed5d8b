"""A project outside the repository, with beit_mm installed from its wheel."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT
from support.digits import write_classification, write_segmentation
from support.project import last_score, Project, Trained

# What a wheel is made of; a copy of these, so that building leaves nothing in the checkout.
PARTS = ('beit_mm', 'configs', 'tools', 'model-index.yml', 'pyproject.toml', 'setup.cfg', 'README.md')


def pip(*arguments: object) -> None:
    command = [sys.executable, '-m', 'pip', '--disable-pip-version-check', *map(str, arguments)]
    result = subprocess.run(command, env=dict(os.environ, PIP_NO_INDEX='1'), capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]


@pytest.fixture(scope='session')
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('wheel')
    (folder / 'source').mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(
                ROOT / part, folder / 'source' / part, symlinks=True, ignore=shutil.ignore_patterns('__pycache__')
            )
        else:
            shutil.copy(ROOT / part, folder / 'source')
    pip('wheel', '--no-deps', '--no-build-isolation', '-w', folder, folder / 'source')
    (actual,) = folder.glob('*.whl')
    return actual


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
def classifier(project) -> Trained:
    """A training by MMPretrain's own tool; the config names its base by a relative path."""
    output = project.host_tool('mmpretrain', 'train', 'configs/classify.py')
    return Trained(project.folder / 'work_dirs' / 'classify' / 'epoch_1.pth', last_score(output, 'accuracy/top1'))


@pytest.fixture(scope='session')
def segmentor(project, classifier) -> Trained:
    """A training by MMSegmentation's own tool from the classifier; the base is an absolute path."""
    output = project.host_tool('mmseg', 'train', 'configs/segment.py')
    assert 'BEiT trunk: 35 of 35 tensors loaded; adapted: none; missing: none; left out: fc_norm (2)' in output
    return Trained(project.folder / 'work_dirs' / 'segment' / 'iter_2.pth', last_score(output, 'mIoU'))


@pytest.fixture(scope='session')
def flat_copy(project) -> Path:
    """Our segmentor's config without its bases, where the project's pure-Python config looks for it."""
    path = project.folder / 'configs' / 'flat_segment.py'
    path.write_text(project.tool('misc/print_config', project.mim / 'configs' / 'demo' / 'segment.py').stdout)
    return path


@pytest.fixture(scope='session')
def mmpretrain_report(project, classifier) -> dict:
    return project.report('use_mmpretrain.py')


@pytest.fixture(scope='session')
def mmseg_report(project, segmentor, flat_copy) -> dict:
    return project.report('use_mmseg.py')
