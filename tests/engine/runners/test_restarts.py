"""After a restart by torchrun a training goes on from what this launch has written."""

import os
import time

import pytest
import torch
from mmengine.config import Config

from beit_mm.engine.runners import launch


@pytest.fixture
def cfg(tmp_path):
    return Config(dict(work_dir=str(tmp_path / 'run'), model=dict()))


def save(cfg, name: str) -> str:
    path = f'{cfg.work_dir}/{name}.pth'
    os.makedirs(cfg.work_dir, exist_ok=True)
    torch.save(dict(state_dict={}), path)
    return path


@pytest.fixture
def restart(tmp_path, monkeypatch):
    """Start a second attempt of the launch."""
    (tmp_path / 'launch').mkdir()
    monkeypatch.setenv('TORCHELASTIC_ERROR_FILE', str(tmp_path / 'launch' / 'attempt_0' / '0' / 'error.json'))
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '0')
    return lambda: monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')


@pytest.mark.parametrize('name', ['epoch_2', 'epoch_9', 'model_3'])
def test_it_resumes_from_the_newest_checkpoint_of_the_launch(name, cfg, restart):
    """Whatever the clocks of this machine and of the file server say, and also if an older file was written over."""
    cfg.default_hooks = dict(checkpoint=dict(filename_tmpl='model_{}.pth' if name == 'model_3' else 'epoch_{}.pth'))
    old = save(cfg, 'epoch_9')
    os.utime(old, (time.time() + 1000,) * 2)
    launch._set_resume(cfg, None)
    assert 'resume' not in cfg
    newest = save(cfg, name)
    os.utime(newest, (time.time() - 1000,) * 2)
    restart()
    launch._set_resume(cfg, None)
    assert cfg.resume and cfg.load_from == newest


def test_an_older_run_in_the_same_folder_is_not_taken_up(cfg, restart):
    save(cfg, 'epoch_9')
    launch._set_resume(cfg, None)
    restart()
    launch._set_resume(cfg, None)
    assert 'resume' not in cfg


def test_a_run_that_was_resumed_falls_back_on_its_own_start(cfg, restart):
    start = save(cfg, 'epoch_9')
    launch._set_resume(cfg, start)
    restart()
    for resume in (start, 'auto'):
        launch._set_resume(cfg, resume)
        assert cfg.load_from == start


@pytest.mark.parametrize('load_from', ['other.pth', None])
def test_a_config_that_resumes_takes_the_newest_that_is_whole(load_from, cfg):
    whole = save(cfg, 'epoch_1')
    with open(save(cfg, 'epoch_2'), 'r+b') as file:
        file.truncate(100)
    cfg.resume, cfg.load_from = True, load_from
    launch._set_resume(cfg, None)
    assert cfg.resume and cfg.load_from == (load_from or whole)
