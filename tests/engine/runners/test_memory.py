"""Too little memory ends in one sentence that says what to change."""

import os
import signal
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config

from beit_mm.engine.runners import launch, restarts

CONFIGS = Path(__file__).parents[2] / 'configs'
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
    'name, stage, options, expected',
    [
        (
            'beit_pretrain.py',
            'train',
            {},
            'with train_dataloader.batch_size=256, try --cfg-options '
            'train_dataloader.batch_size=128 optim_wrapper.accumulative_counts=2 or model.backbone.with_cp=True',
        ),
        (
            'beit_pretrain.py',
            'train',
            {'train_dataloader.batch_size': 15, 'optim_wrapper.accumulative_counts': 4, 'model.backbone.with_cp': True},
            'with train_dataloader.batch_size=15, try --cfg-options train_dataloader.batch_size=5 '
            'optim_wrapper.accumulative_counts=12',
        ),
        (
            'beit_segment.py',
            'train',
            {},
            'with train_dataloader.batch_size=2, try --cfg-options '
            'train_dataloader.batch_size=1 optim_wrapper.accumulative_counts=2 (with max_iters, schedules and intervals 2 '  # noqa: E501
            'times as long) or model.backbone.with_cp=True',
        ),
        (
            'beit_segment.py',
            'train',
            {'train_dataloader.batch_size': 1, 'model.backbone.with_cp': True},
            'with train_dataloader.batch_size=1, the model needs more than one such device (docs/scale.md)',
        ),
        (
            'beit_segment.py',
            'val',
            {},
            'with val_dataloader.batch_size=1, try --cfg-options model.test_cfg.windows_per_batch=1',
        ),
        (
            'beit_finetune.py',
            'test',
            {'test_dataloader.batch_size': 64},
            'with test_dataloader.batch_size=64, try --cfg-options test_dataloader.batch_size=32',
        ),
    ],
)
def test_the_advice_fits_the_config(name, stage, options, expected, tmp_path, capsys):
    told = advice(CUDA, name, tmp_path, capsys, stage, **options)
    assert told == f'error: CUDA out of memory. Tried to allocate 2.00 GiB; {expected}'


def test_a_cpu_s_memory_is_told_too(tmp_path, capsys):
    assert "DefaultCPUAllocator: can't allocate memory" in advice(CPU, 'beit_pretrain.py', tmp_path, capsys)


def test_a_loader_s_worker_that_the_system_killed(tmp_path, capsys):
    error = RuntimeError('DataLoader worker (pid 1234) is killed by signal: Killed. ')
    assert advice(error, 'beit_pretrain.py', tmp_path, capsys) == (
        'error: DataLoader worker (pid 1234) is killed by signal: Killed: the system ends processes when memory runs '
        'out; fewer workers need less: train_dataloader.num_workers is 10'
    )


def test_other_errors_stay_what_they_are(tmp_path):
    cfg = Config.fromfile(CONFIGS / 'beit_pretrain.py')
    runner = SimpleNamespace(message_hub=SimpleNamespace(runtime_info={}), call_hook=lambda *args, **kwargs: None)

    def fail():
        raise RuntimeError('mat1 and mat2 shapes cannot be multiplied')

    with pytest.raises(RuntimeError, match='^mat1 and mat2 shapes cannot be multiplied$'):
        launch.run(lambda args: launch._explain(cfg, runner, fail), Namespace(work_dir=str(tmp_path)))


@pytest.mark.parametrize(
    'error, max_restarts, ends',
    [
        (ValueError('a mistake'), 3, True),
        (ValueError('a mistake'), 0, False),
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
