"""Errors that a user can fix end in one sentence; too little memory in one that says what to change."""

import os
import signal
import sys
import tempfile
from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from support import CONFIGS

from beit_mm.engine.runners import launch
from beit_mm.engine.runners.memory import advise_on_memory
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
WITH_CP, BATCH = 'model.backbone.with_cp', 'train_dataloader.batch_size'
ACCUMULATE = 'optim_wrapper.accumulative_counts'


def run(error: BaseException | None, work_dir=None) -> None:
    def job(args):
        if error is not None:
            raise error

    with pytest.raises(SystemExit) as ended:
        launch.run(job, Namespace(work_dir=work_dir and str(work_dir)))
    assert ended.value.code == (error is not None)


@pytest.mark.parametrize(
    'error, name, stage, options, expected',
    [
        (CUDA, 'beit_pretrain.py', 'train', {}, f'{BATCH}=256, try {BATCH}=128 {ACCUMULATE}=2 or {WITH_CP}=True'),
        (
            CUDA,
            'beit_pretrain.py',
            'train',
            {BATCH: 15, ACCUMULATE: 4, WITH_CP: True},
            f'{BATCH}=15, try {BATCH}=5 {ACCUMULATE}=12',
        ),
        (
            CUDA,
            'beit_segment.py',
            'train',
            {},
            f'{BATCH}=2, try {BATCH}=1 {ACCUMULATE}=2 (with max_iters, schedules and intervals 2 times as long) or '
            f'{WITH_CP}=True',
        ),
        (
            CUDA,
            'beit_segment.py',
            'train',
            {BATCH: 1, WITH_CP: True},
            f'{BATCH}=1, the model needs more than one such device (docs/scale.md)',
        ),
        (CUDA, 'beit_segment.py', 'val', {}, 'val_dataloader.batch_size=1, try model.test_cfg.windows_per_batch=1'),
        (
            CUDA,
            'beit_finetune.py',
            'test',
            {'test_dataloader.batch_size': 64},
            'test_dataloader.batch_size=64, try test_dataloader.batch_size=32',
        ),
        (CPU, 'beit_pretrain.py', 'train', {}, "DefaultCPUAllocator: can't allocate memory"),
        (
            WORKER,
            'beit_pretrain.py',
            'train',
            {},
            'error: DataLoader worker (pid 1234) is killed by signal: Killed: the system ends processes when memory '
            'runs out; fewer workers need less: train_dataloader.num_workers is 10',
        ),
    ],
)
def test_the_advice_fits_the_config_and_the_device(error, name, stage, options, expected, tmp_path, capsys):
    cfg = Config.fromfile(CONFIGS / name)
    cfg.merge_from_dict(options)
    hub = SimpleNamespace(runtime_info=dict(loop_stage=stage))
    runner = SimpleNamespace(message_hub=hub, call_hook=lambda *args, **kwargs: None)

    def fail():
        raise error

    with pytest.raises(SystemExit):
        launch.run(lambda args: launch._explain(cfg, runner, fail), Namespace(work_dir=str(tmp_path)))
    assert 'raise error' in (tmp_path / 'traceback.txt').read_text()
    printed = capsys.readouterr().err.splitlines()[0].replace('--cfg-options ', '')
    start = 'error: CUDA out of memory. Tried to allocate 2.00 GiB; with '
    assert printed == start + expected if error is CUDA else expected in printed


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


def test_an_error_in_a_config_without_a_training_keeps_its_message():
    runner = SimpleNamespace(message_hub=SimpleNamespace(runtime_info={}))
    with pytest.raises(RuntimeError, match='mat1 and mat2'), advise_on_memory(Config(), runner):
        raise RuntimeError('mat1 and mat2')


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
