"""Too little memory ends in one sentence that says what to change."""

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

from beit_mm.engine.runners import launch, restarts
from beit_mm.errors import UserError

CUDA = torch.OutOfMemoryError(
    'CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.81 GiB of which 1 GiB is free. '
    'If reserved but unallocated memory is large try setting PYTORCH_ALLOC_CONF\nmore'
)
CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    'tried to allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)'
)


def advice(error, name, folder, capsys, stage='train', **options) -> str:
    """What launch.run prints when a runner of a recipe raises an error."""
    cfg = Config.fromfile(CONFIGS / name)
    cfg.merge_from_dict(options)
    runner = SimpleNamespace(
        message_hub=SimpleNamespace(runtime_info=dict(loop_stage=stage)), call_hook=lambda *args, **kwargs: None
    )

    def fail():
        raise error

    with pytest.raises(SystemExit) as stopped:
        launch.run(lambda args: launch._explain(cfg, runner, fail), Namespace(work_dir=str(folder)))
    assert stopped.value.code == 1
    assert 'raise error' in (folder / 'traceback.txt').read_text()
    return capsys.readouterr().err.splitlines()[0]


@pytest.mark.parametrize(
    'error, name, stage, options, expected',
    [
        (
            CUDA,
            'beit_pretrain.py',
            'train',
            {},
            'with train_dataloader.batch_size=256, try --cfg-options train_dataloader.batch_size=128 '
            'optim_wrapper.accumulative_counts=2 or model.backbone.with_cp=True',
        ),
        (
            CUDA,
            'beit_pretrain.py',
            'train',
            {'train_dataloader.batch_size': 15, 'optim_wrapper.accumulative_counts': 4, 'model.backbone.with_cp': True},
            'with train_dataloader.batch_size=15, try --cfg-options train_dataloader.batch_size=5 '
            'optim_wrapper.accumulative_counts=12',
        ),
        (
            CUDA,
            'beit_segment.py',
            'train',
            {},
            'with train_dataloader.batch_size=2, try --cfg-options train_dataloader.batch_size=1 '
            'optim_wrapper.accumulative_counts=2 (with max_iters, schedules and intervals 2 times as long) or '
            'model.backbone.with_cp=True',
        ),
        (
            CUDA,
            'beit_segment.py',
            'train',
            {'train_dataloader.batch_size': 1, 'model.backbone.with_cp': True},
            'with train_dataloader.batch_size=1, the model needs more than one such device (docs/scale.md)',
        ),
        (
            CUDA,
            'beit_segment.py',
            'val',
            {},
            'with val_dataloader.batch_size=1, try --cfg-options model.test_cfg.windows_per_batch=1',
        ),
        (
            CUDA,
            'beit_finetune.py',
            'test',
            {'test_dataloader.batch_size': 64},
            'with test_dataloader.batch_size=64, try --cfg-options test_dataloader.batch_size=32',
        ),
        (CPU, 'beit_pretrain.py', 'train', {}, "DefaultCPUAllocator: can't allocate memory"),
        (
            RuntimeError('DataLoader worker (pid 1234) is killed by signal: Killed. '),
            'beit_pretrain.py',
            'train',
            {},
            'error: DataLoader worker (pid 1234) is killed by signal: Killed: the system ends processes when memory '
            'runs out; fewer workers need less: train_dataloader.num_workers is 10',
        ),
    ],
)
def test_the_advice_fits_the_config_and_the_device(error, name, stage, options, expected, tmp_path, capsys):
    printed = advice(error, name, tmp_path, capsys, stage, **options)
    assert expected in printed
    if error is CUDA:
        assert printed == f'error: CUDA out of memory. Tried to allocate 2.00 GiB; {expected}'


@pytest.mark.parametrize(
    'error, is_bug', [(RuntimeError('mat1 and mat2 shapes'), False), (KeyError('pred_score'), True)]
)
@pytest.mark.parametrize('has_work_dir', [True, False])
def test_other_errors_show_their_traceback(error, is_bug, has_work_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))

    def fail(args):
        raise error

    with pytest.raises(SystemExit) as stopped:
        launch.run(fail, Namespace(work_dir=str(tmp_path / 'run') if has_work_dir else None))
    assert stopped.value.code == 1
    output = capsys.readouterr().err
    (path,) = tmp_path.glob('*/traceback.txt')
    assert 'Traceback' in output and str(error) in output and str(path) in output
    assert ('bug of beit_mm' in output) == is_bug
    assert 'raise error' in path.read_text()


@pytest.mark.parametrize('error, code', [(UserError('a mistake'), 1), (None, 0)])
def test_several_processes_flush_what_they_printed(error, code, tmp_path, monkeypatch, capfd):
    """They leave by os._exit, which flushes nothing by itself."""
    ends, flushed = [], []
    monkeypatch.setattr(launch, 'is_main_process', lambda: True)
    for name, value in dict(is_initialized=True, get_world_size=2, barrier=None, destroy_process_group=None).items():
        monkeypatch.setattr(launch.dist, name, lambda value=value: value)
    monkeypatch.setattr(sys, 'stdout', SimpleNamespace(flush=lambda: flushed.append(1), write=lambda text: None))

    def leave(status):
        ends.append(status)
        raise SystemExit(status)

    monkeypatch.setattr(os, '_exit', leave)

    def job(args):
        if error is not None:
            raise error

    with pytest.raises(SystemExit):
        launch.run(job, Namespace(work_dir=str(tmp_path)))
    assert ends == [code] and flushed


@pytest.mark.parametrize(
    'error, max_restarts, ends',
    [
        (UserError('a mistake'), 3, True),
        (UserError('a mistake'), 0, False),
        (OSError(5, 'input/output error'), 3, False),
    ],
)
def test_torchrun_does_not_repeat_a_mistake(error, max_restarts, ends, tmp_path, monkeypatch, capsys):
    """It is told to end, once, by the first process of a machine that finds the mistake."""
    told = []
    monkeypatch.setattr('time.sleep', lambda seconds: None)
    monkeypatch.setattr(os, 'kill', lambda *args: told.append(args))
    monkeypatch.setenv('TORCHELASTIC_ERROR_FILE', str(tmp_path / 'attempt_0' / '0' / 'error.json'))
    monkeypatch.setenv('TORCHELASTIC_MAX_RESTARTS', str(max_restarts))

    def fail(args):
        raise error

    for _ in range(2):
        with pytest.raises(SystemExit):
            launch.run(fail, Namespace(work_dir=None))
    assert told == ([(os.getppid(), signal.SIGTERM)] if ends else [])


def test_only_a_process_that_torchrun_started_anew_is_a_restart(monkeypatch):
    monkeypatch.delenv('TORCHELASTIC_RESTART_COUNT', raising=False)
    assert not restarts.is_restart()
    for count, expected in (('0', False), ('2', True)):
        monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', count)
        assert restarts.is_restart() == expected
