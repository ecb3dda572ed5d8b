"""Configs of another project on ours: by relative and absolute path, by the package's name, and in pure Python."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.hub import get_config
from support.project import CONFIGS

from beit_mm.config.flatten import flatten

NAME = 'demo/segment.py'


def inherit(path: Path, base: str) -> Config:
    path.write_text(f"_base_ = '{base}'\nmodel = dict(decode_head=dict(channels=16))\n")
    return Config.fromfile(path)


def test_by_path_and_by_the_name_of_the_package(tmp_path):
    cfg, base = inherit(tmp_path / 'own.py', f'{CONFIGS}/{NAME}'), Config.fromfile(CONFIGS / NAME)
    assert cfg.model.decode_head.channels == 16 != base.model.decode_head.channels
    assert cfg.train_dataloader == base.train_dataloader
    (tmp_path / 'beit').symlink_to(CONFIGS)
    assert inherit(tmp_path / 'own.py', f'beit/{NAME}').to_dict() == cfg.to_dict()
    by_name = inherit(tmp_path / 'own.py', f'beit_mm::{NAME}')
    # MMEngine marks what it inherits so; without the marks it is the same config.
    assert by_name.model._scope_ == by_name.train_dataloader.dataset._scope_ == 'beit_mm'
    assert flatten(tmp_path / 'own.py').to_dict() == cfg.to_dict()
    assert get_config(f'beit_mm::{NAME}').to_dict() == base.to_dict()


@pytest.mark.long
def test_training_by_the_name_of_the_package(project):
    """tools/train.py imports beit_mm before it reads the config, and drops the marks."""
    assert 'mIoU:' in project.tool('train', 'configs/by_package.py')
    assert (project.folder / 'work_dirs' / 'by_package' / 'iter_2.pth').is_file()


@pytest.mark.long
def test_pure_python_inherits_a_flattened_copy(project, flat_copy):
    """By MMSegmentation's own tool, which imports beit_mm when it meets the first type of ours."""
    assert 'mIoU:' in project.host_tool('mmseg', 'train', 'configs/pure_python.py')
    assert (project.folder / 'work_dirs' / 'pure_python' / 'iter_2.pth').is_file()
