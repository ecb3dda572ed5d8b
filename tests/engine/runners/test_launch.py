"""Errors that a user can fix end in one sentence; restarts and default hooks do what the config says."""

import os
import signal
import sys
import tempfile
import time
from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import IterTimerHook
from mmengine.runner import Runner
from support import CONFIGS
from torch import nn

from beit_mm.engine import PicturesHook, ReportHook
from beit_mm.engine.runners import launch
from beit_mm.errors import UserError

CUDA = torch.OutOfMemoryError(
    'CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.81 GiB of which 1 GiB is free. '
    'If reserved but unallocated memory is large try setting PYTORCH_ALLOC_CONF\nmore'
)
CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    'tried to allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)'
)
WORKER = RuntimeError('DataLoader worker (pid 1234) is killed by signal: Killed. ')
KILLED = (
    'error: DataLoader worker (pid 1234) is killed by signal: Killed: the system ends processes when memory runs out; '
    'fewer workers need less: train_dataloader.num_workers is 10'
)
WITH_CP, BATCH = 'model.backbone.with_cp', 'train_dataloader.batch_size'
TEST_BATCH, ACCUMULATE = 'test_dataloader.batch_size', 'optim_wrapper.accumulative_counts'
LONGER = '(with max_iters, schedules and intervals 2 times as long)'
LARGER = 'the model needs more than one such device (docs/scale.md)'


def run(error: BaseException | None, work_dir=None, cfg: Config | None = None, stage: str = 'train') -> None:
    """A training that raises an error, or ends well."""
    hub = SimpleNamespace(runtime_info=dict(loop_stage=stage))
    runner = SimpleNamespace(message_hub=hub, call_hook=lambda *args, **kwargs: None)

    def train():
        if error is not None:
            raise error

    with pytest.raises(SystemExit) as ended:
        launch.run(lambda args: launch._explain(cfg or Config(), runner, train), Namespace(work_dir=work_dir))
    assert ended.value.code == (error is not None)


@pytest.mark.parametrize(
    'name, stage, options, expected',
    [
        ('pretrain', 'train', {}, f'{BATCH}=256, try {BATCH}=128 {ACCUMULATE}=2 or {WITH_CP}=True'),
        ('pretrain', 'train', {BATCH: 15, ACCUMULATE: 4, WITH_CP: True}, f'{BATCH}=15, try {BATCH}=5 {ACCUMULATE}=12'),
        ('segment', 'train', {}, f'{BATCH}=2, try {BATCH}=1 {ACCUMULATE}=2 {LONGER} or {WITH_CP}=True'),
        ('segment', 'train', {BATCH: 1, WITH_CP: True}, f'{BATCH}=1, {LARGER}'),
        ('segment', 'val', {}, 'val_dataloader.batch_size=1, try model.test_cfg.windows_per_batch=1'),
        ('finetune', 'test', {TEST_BATCH: 64}, f'{TEST_BATCH}=64, try {TEST_BATCH}=32'),
    ],
)
def test_the_advice_fits_the_config(name, stage, options, expected, tmp_path, capsys):
    cfg = Config.fromfile(CONFIGS / f'beit_{name}.py')
    cfg.merge_from_dict(options)
    run(CUDA, tmp_path, cfg, stage)
    printed = capsys.readouterr().err.splitlines()[0].replace('--cfg-options ', '')
    assert printed == f'error: CUDA out of memory. Tried to allocate 2.00 GiB; with {expected}'
    assert 'raise error' in (tmp_path / 'traceback.txt').read_text()


@pytest.mark.parametrize('error, expected', [(CPU, "DefaultCPUAllocator: can't allocate memory"), (WORKER, KILLED)])
def test_the_memory_of_the_machine_may_be_too_small(error, expected, tmp_path, capsys):
    run(error, tmp_path, Config.fromfile(CONFIGS / 'beit_pretrain.py'))
    assert expected in capsys.readouterr().err.splitlines()[0]


@pytest.mark.parametrize(
    'error, is_bug, work_dir', [(RuntimeError('mat1 and mat2'), False, 'run'), (KeyError('pred_score'), True, None)]
)
def test_other_errors_show_their_traceback(error, is_bug, work_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    run(error, work_dir and tmp_path / work_dir)
    output = capsys.readouterr().err
    (path,) = tmp_path.glob('*/traceback.txt')
    assert 'Traceback' in output and str(error) in output and str(path) in output
    assert ('bug of beit_mm' in output) == is_bug and 'raise error' in path.read_text()


@pytest.mark.parametrize('error', [UserError('a mistake'), None])
def test_several_processes_flush_what_they_printed(error, tmp_path, monkeypatch, capfd):
    """They leave by os._exit, which flushes nothing by itself."""
    flushed = []
    monkeypatch.setattr(launch, 'is_main_process', lambda: True)
    for name, value in dict(is_initialized=True, get_world_size=2, barrier=None, destroy_process_group=None).items():
        monkeypatch.setattr(launch.dist, name, lambda value=value: value)
    monkeypatch.setattr(sys, 'stdout', SimpleNamespace(flush=lambda: flushed.append(1), write=lambda text: None))
    monkeypatch.setattr(os, '_exit', sys.exit)
    run(error, tmp_path)
    assert flushed


@pytest.mark.parametrize(
    'error, max_restarts, ends',
    [(UserError('a mistake'), 3, True), (UserError('a mistake'), 0, False), (OSError(5, 'input/output'), 3, False)],
)
def test_torchrun_does_not_repeat_a_mistake(error, max_restarts, ends, tmp_path, monkeypatch):
    """The first process of a machine that has the error ends it, once."""
    signals = []
    monkeypatch.setattr('time.sleep', lambda seconds: None)
    monkeypatch.setattr(os, 'kill', lambda *args: signals.append(args))
    monkeypatch.setenv('TORCHELASTIC_ERROR_FILE', str(tmp_path / 'attempt_0' / '0' / 'error.json'))
    monkeypatch.setenv('TORCHELASTIC_MAX_RESTARTS', str(max_restarts))
    run(error)
    run(error)
    assert signals == ([(os.getppid(), signal.SIGTERM)] if ends else [])


# Restarts by torchrun


@pytest.fixture
def cfg(tmp_path):
    return Config(dict(work_dir=str(tmp_path / 'run'), model=dict()))


def save(cfg, name: str) -> str:
    path = f'{cfg.work_dir}/{name}.pth'
    os.makedirs(cfg.work_dir, exist_ok=True)
    torch.save(dict(state_dict={}, meta=dict(epoch=1, iter=4)), path)
    return path


@pytest.fixture
def restart(tmp_path, monkeypatch):
    """Start a second attempt of the launch."""
    (tmp_path / 'launch').mkdir()
    monkeypatch.setenv('TORCHELASTIC_ERROR_FILE', str(tmp_path / 'launch' / 'attempt_0' / '0' / 'error.json'))
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '0')
    return lambda: monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')


@pytest.mark.parametrize('name', ['epoch_2', 'epoch_9', 'model_3', None])
def test_a_restart_resumes_from_the_newest_checkpoint_of_the_launch(name, cfg, restart):
    """Whatever the clocks of this machine and of the file server say, and also if an older file was written over; never
    from an older run in the same folder.
    """
    cfg.default_hooks = dict(checkpoint=dict(filename_tmpl='model_{}.pth' if name == 'model_3' else 'epoch_{}.pth'))
    os.utime(save(cfg, 'epoch_9'), (time.time() + 1000,) * 2)
    launch._set_resume(cfg, None)
    assert 'resume' not in cfg
    if name:
        newest = save(cfg, name)
        os.utime(newest, (time.time() - 1000,) * 2)
    restart()
    launch._set_resume(cfg, None)
    assert cfg.resume and cfg.load_from == newest if name else 'resume' not in cfg


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


def test_default_hooks_that_are_none_are_left_out(tmp_path):
    """Ours as MMEngine's."""

    def hooks_of(name: str, **options) -> set:
        args = dict(config=str(CONFIGS / 'demo' / 'finetune.py'), work_dir=str(tmp_path / name), launcher='none')
        hooks = launch._load_config(Namespace(cfg_options=options, **args)).default_hooks
        options = dict(default_scope='mmpretrain', experiment_name=name, log_level='ERROR')
        return {type(hook) for hook in Runner(nn.Linear(1, 1), args['work_dir'], default_hooks=hooks, **options).hooks}

    assert {PicturesHook, ReportHook, IterTimerHook} <= hooks_of('all')
    options = {f'default_hooks.{name}': None for name in ('pictures', 'report', 'timer')}
    assert not {PicturesHook, ReportHook, IterTimerHook} & hooks_of('few', **options)
