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


def save(cfg, name: str, age: float) -> str:
    path = f'{cfg.work_dir}/{name}.pth'
    os.makedirs(cfg.work_dir, exist_ok=True)
    torch.save(dict(state_dict={}), path)
    os.utime(path, (time.time() - age,) * 2)
    return path


@pytest.fixture
def restarted(tmp_path, monkeypatch):
    """A second attempt of a launch 100 s ago."""
    (tmp_path / 'launch' / 'attempt_0').mkdir(parents=True)
    os.utime(tmp_path / 'launch' / 'attempt_0', (time.time() - 100,) * 2)
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
    monkeypatch.setenv('TORCHELASTIC_ERROR_FILE', str(tmp_path / 'launch' / 'attempt_1' / '0' / 'error.json'))


def test_it_resumes_from_the_newest_checkpoint_of_the_launch(cfg, restarted):
    save(cfg, 'epoch_9', age=200)
    newest = save(cfg, 'epoch_2', age=50)
    launch._set_resume(cfg, None)
    assert cfg.resume and cfg.load_from == newest


def test_an_older_run_in_the_same_folder_is_not_taken_up(cfg, restarted):
    save(cfg, 'epoch_9', age=200)
    launch._set_resume(cfg, None)
    assert 'resume' not in cfg


def test_a_run_that_was_resumed_falls_back_on_its_own_start(cfg, restarted, tmp_path):
    start = save(cfg, 'epoch_9', age=200)
    launch._set_resume(cfg, start)
    assert cfg.load_from == start
    launch._set_resume(cfg, 'auto')
    assert cfg.load_from == start


def test_a_first_attempt_begins_anew(cfg):
    save(cfg, 'epoch_9', age=200)
    launch._set_resume(cfg, None)
    assert 'resume' not in cfg


@pytest.mark.parametrize('given', [True, False], ids=['load_from', 'newest'])
def test_a_config_that_resumes_takes_the_newest_that_is_whole(given, cfg):
    whole = save(cfg, 'epoch_1', age=200)
    with open(save(cfg, 'epoch_2', age=100), 'r+b') as file:
        file.truncate(100)
    cfg.resume = True
    if given:
        cfg.load_from = 'other.pth'
    launch._set_resume(cfg, None)
    assert cfg.resume and cfg.load_from == ('other.pth' if given else whole)
