"""Tiny runs of the four kinds, by the recipes themselves, with everything switched on that draws at random.

Tests stop, kill and resume them and compare them with uninterrupted runs.
"""

import json
import os
import signal
import time
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from beit_mm.checkpoint.files import find_damage, find_newest
from beit_mm.engine.runners import launch
from beit_mm.files import PARTIAL
from support.checkpoints import content, differences
from support.processes import together
from support.recipes import load, shrink, SMALL_SCENES
from support.tools import forget_instances, forkserver, leave_text_as_it_is

STEPS = 8
RANDOM_TRUNK = {
    'model.backbone.drop_rate': 0.1,
    'model.backbone.attn_drop_rate': 0.1,
    'model.backbone.drop_path_rate': 0.3,
    'model.backbone.init_cfg': None,
}
AVERAGED = {'custom_hooks': [dict(type='EMAHook', momentum=0.1)]}
# Two epochs of four steps, rates that rise in the first and fall in the second.
EPOCHS = {
    'train_cfg.max_epochs': 2,
    'train_dataloader.dataset.indices': STEPS,
    'param_scheduler.0.end': 1,
    'param_scheduler.1.begin': 1,
    'param_scheduler.1.end': 2,
}
ITERATIONS = {'train_cfg.max_iters': STEPS}
KINDS = {
    'tokenizer': (
        'beit_tokenizer.py',
        {
            **ITERATIONS,
            'param_scheduler.0.end': STEPS,
            'custom_hooks.0.num_iters': STEPS,
            'custom_hooks.1.num_iters': 4,
        },
    ),
    'pretrain': ('beit_pretrain.py', {**EPOCHS, **RANDOM_TRUNK, **AVERAGED}),
    # Three steps make an update: its gradients are in the making at the end of the first epoch.
    'finetune': (
        'beit_finetune.py',
        {
            **EPOCHS,
            **RANDOM_TRUNK,
            **AVERAGED,
            'optim_wrapper.accumulative_counts': 3,
            'train_cfg.val_interval': 2,
            'default_hooks.checkpoint.save_best': None,
        },
    ),
    'segment': (
        'beit_segment.py',
        {
            **ITERATIONS,
            **RANDOM_TRUNK,
            'param_scheduler.0.end': 3,
            'param_scheduler.1.end': STEPS + 1,
            **SMALL_SCENES,
            'model.decode_head.dropout_ratio': 0.3,
        },
    ),
}
# Raw numbers of every step, and a checkpoint of every step.
WATCHED = {
    'default_hooks.logger.interval': 1,
    'log_processor': dict(window_size=1, by_epoch=False),
    'default_hooks.checkpoint.by_epoch': False,
    'default_hooks.checkpoint.interval': 1,
    'default_hooks.checkpoint.max_keep_ckpts': -1,
    'train_cfg.val_interval': 1000,
}


def write_config(kind: str, path: Path, **options) -> Path:
    """The recipe of a kind, made small, as a config file."""
    name, own = KINDS[kind]
    cfg = load(name)
    cfg.merge_from_dict({**shrink(cfg), **own, **WATCHED, **options})
    path.write_text('\n'.join(f'{key} = {value!r}' for key, value in cfg.to_dict().items()))
    return path


def workers(count: int) -> dict[str, object]:
    return {'train_dataloader.num_workers': count, 'train_dataloader.persistent_workers': count > 0}


def train(config: Path, work_dir: Path, resume: str | None = None, launcher: str = 'none') -> None:
    """tools/train.py in this process, in the folder that holds `data`."""
    forget_instances()
    arguments = dict(no_validate=True, auto_scale_lr=False, launcher=launcher, cfg_options=None)
    launch.train(Namespace(config=str(config), work_dir=str(work_dir), resume=resume, **arguments))


def train_by_processes(count: int, config: Path, work_dir: Path, resume: str | None = None) -> None:
    """The same on several processes, in this one's working directory."""
    together(count, work_dir, _train_rank, os.getcwd(), config, work_dir, resume)


def _train_rank(rank: int, folder: str, *arguments) -> None:
    os.chdir(folder)
    leave_text_as_it_is()
    train(*arguments, launcher='pytorch')


def losses(work_dir: Path) -> dict[int, float]:
    """All logged numbers of every step but the times and the memory."""
    lines = [json.loads(line) for path in sorted(work_dir.glob('*/vis_data/scalars.json')) for line in open(path)]
    return {
        line['step']: {key: value for key, value in line.items() if key not in ('time', 'data_time', 'memory')}
        for line in lines
        if 'loss' in line
    }


NO_END = 10**5
PATIENCE = 120  # seconds for a run to get further than the one before


class Kills(NamedTuple):
    """Kills in all, kills while a checkpoint was being written, and the last step."""

    count: int
    while_saving: int
    step: int


def kill_and_resume(kind: str, num_kills: int, folder: Path) -> Kills:
    """Kill a training at random points, every second time while it saves, and let it resume; then compare.

    Args:
        kind: one of KINDS.
        num_kills: how many times.
        folder: an empty one; the working directory holds `data`.
    """
    generator, last, while_saving = np.random.default_rng(0), 0, 0
    killed = folder / 'killed'
    for kill in range(num_kills):
        config = _write(kind, folder / 'killed.py', NO_END, num_workers=2 * (kill % 4 == 3))
        process = forkserver.Process(target=_train, args=(os.getcwd(), config, killed))
        process.start()
        try:
            _wait_for_step(killed, last + 2, process)
            time.sleep(generator.uniform(0, 0.2))
            while kill % 2 and not list(killed.glob(f'.*{PARTIAL}.pth')):
                assert process.is_alive()
            os.kill(process.pid, signal.SIGKILL)
        finally:
            process.kill()
            process.join()
        while_saving += bool(list(killed.glob(f'.*{PARTIAL}.pth')))
        damaged = [path for path in killed.glob('iter_*.pth') if find_damage(path)]
        assert not damaged
        last = _step(find_newest(killed))
    _compare(kind, folder, last)
    return Kills(num_kills, while_saving, last)


def _compare(kind: str, folder: Path, reached: int) -> None:
    """Finish the killed run, train another to the same step without a kill, and compare."""
    last = -(-(reached + 1) // 12) * 12  # whole epochs of four steps, whole updates of three
    for name in ('killed', 'whole'):
        train(
            _write(kind, folder / f'{name}.py', last, num_workers=0),
            folder / name,
            resume='auto' if name == 'killed' else None,
        )
    left, right = (content(folder / name / f'iter_{last}.pth') for name in ('killed', 'whole'))
    assert differences(left, right) == []


def _write(kind: str, path: Path, num_steps: int, num_workers: int) -> Path:
    by_epoch = 'train_cfg.max_epochs' in KINDS[kind][1]
    length = {'train_cfg.max_epochs': num_steps // 4} if by_epoch else {'train_cfg.max_iters': num_steps}
    return write_config(kind, path, **workers(num_workers), **length, **{'default_hooks.checkpoint.max_keep_ckpts': 3})


def _train(folder: str, config: Path, work_dir: Path) -> None:
    torch.set_num_threads(1)
    os.chdir(folder)
    leave_text_as_it_is()
    train(config, work_dir, resume='auto')


def _wait_for_step(folder: Path, step: int, process) -> None:
    end = time.monotonic() + PATIENCE
    while max(map(_step, folder.glob('iter_*.pth')), default=0) < step:
        assert process.is_alive() and time.monotonic() < end
        time.sleep(0.01)


def _step(path: Path) -> int:
    return int(path.stem.split('_')[1])
