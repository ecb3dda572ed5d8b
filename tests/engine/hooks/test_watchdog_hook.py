"""A training in which nothing moves ends, names the process that holds it up, and loses no step."""

import os
import signal
import time
from multiprocessing.connection import wait
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from support.checkpoints import content, differences
from support.line_model import build, names
from support.processes import TIMEOUT, together
from support.tools import forkserver

from beit_mm.checkpoint.files import find_newest
from beit_mm.engine import WatchdogHook

LIMITS = dict(type='beit_mm.WatchdogHook', limit=1.0, long_limit=20.0)


class Acting(Hook):
    """Does something before the sixth step, or in a validation."""

    def __init__(self, act, stage: str = 'train'):
        self.act, self.stage = act, stage

    def before_train_iter(self, runner, *args, **kwargs):
        if self.stage == 'train' and runner.iter == 5:
            self.act()

    def before_val_iter(self, runner, *args, **kwargs):
        if self.stage == 'val':
            self.act()


def build_watched(folder: Path, *hooks: Hook, **options):
    return build(folder, *hooks, epochs=3, interval=100, default_hooks=dict(watchdog=LIMITS), **options)


def train_alone(rank: int, folder: Path, act) -> None:
    torch.set_num_threads(1)
    build_watched(folder, Acting(act)).train()


def train_of_two(
    rank: int, folder: Path, act, stage: str = 'train', who: int = 1, resume: bool = False, **more
) -> None:
    """One of two processes; that of number `who` acts."""
    if not dist.is_initialized():
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2')
        dist.init_process_group('gloo', f'file://{folder}/group', rank=rank, world_size=2)
    hooks = [Acting(act, stage)] if act and rank == who else []
    parallel = dict(model_wrapper_cfg=dict(type='MMDistributedDataParallel', device_ids=None))
    build_watched(folder, *hooks, launcher='pytorch', resume=resume, cfg=parallel, **more).train()


def stop_myself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def sleep_for_ever() -> None:
    time.sleep(10 * TIMEOUT)


def exit_codes(function, number: int, *arguments) -> list:
    """Of processes of which one must end; the others are killed then."""
    processes = [forkserver.Process(target=function, args=(rank, *arguments)) for rank in range(number)]
    for process in processes:
        process.start()
    wait([process.sentinel for process in processes], TIMEOUT)
    time.sleep(0.1)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    return codes


def logged(folder: Path) -> str:
    return ' '.join(path.read_text() for path in folder.glob('*/*.log'))


@pytest.mark.parametrize(
    'stage, who, step',
    [
        ('train', 1, 5),
        pytest.param('val', 1, 2, marks=pytest.mark.long, id='in a validation of averaged weights'),
        pytest.param('train', 0, 5, marks=pytest.mark.long, id='the main process'),
    ],
)
def test_a_stopped_process_is_named_by_the_other_and_no_step_is_lost(stage, who, step, tmp_path):
    held, whole = tmp_path / 'held', tmp_path / 'whole'
    held.mkdir()
    codes = exit_codes(train_of_two, 2, held, stop_myself, stage, who)
    assert codes == ([1, None] if who else [None, 1])
    assert names(held) == [f'iter_{step}.pth']
    assert 'run_iter' in (held / 'traceback.txt').read_text(), 'where the process waited'
    if who:  # the others do not log
        log = logged(held)
        assert f'after iteration {step}: process {who} (pid' in log and 'has given no sign since' in log, log
        assert f'--resume goes on from {held / f"iter_{step}.pth"}' in log
    together(2, held, train_of_two, held, None, stage, who, True)
    together(2, whole, train_of_two, whole, None)
    assert differences(content(find_newest(held)), content(find_newest(whole))) == []


def test_a_process_that_lives_but_is_behind_is_named(tmp_path):
    assert exit_codes(train_of_two, 2, tmp_path, sleep_for_ever)[0] == 1
    assert ') is still in loading after iteration 5; --resume goes on from' in logged(tmp_path)


def train_accumulating(rank: int, folder: Path) -> None:
    train_of_two(rank, folder, stop_myself, accumulative_counts=2)


def test_a_step_that_cannot_be_saved_says_why(tmp_path):
    assert exit_codes(train_accumulating, 2, tmp_path) == [1, None]
    reason = 'this step is not saved, as the gradients that are being accumulated are lost; the last checkpoint is none'
    assert reason in logged(tmp_path) and names(tmp_path) == []


def test_a_single_process_that_waits_saves_and_says_where(tmp_path):
    assert exit_codes(train_alone, 1, tmp_path, sleep_for_ever) == [1]
    assert f'after iteration 5: this process is in loading; --resume goes on from {tmp_path}' in logged(tmp_path)
    assert names(tmp_path) == ['iter_5.pth'] and 'sleep_for_ever' in (tmp_path / 'traceback.txt').read_text()


def test_a_long_evaluation_or_save_is_no_hang(tmp_path):
    class Slow(Hook):
        def before_val_iter(self, *args, **kwargs):
            time.sleep(0.5)

        def before_save_checkpoint(self, *args, **kwargs):
            time.sleep(1.5)

    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        build_watched(tmp_path / 'failed', Acting(fail)).train()  # and nobody watches it any more
    runner = build_watched(tmp_path, Slow())
    runner.train()
    assert runner.iter == 12 and names(tmp_path) == ['epoch_3.pth']
    with pytest.raises(ValueError, match='limit must be over 0 and at most long_limit, got 0 and 3600'):
        WatchdogHook(limit=0)
