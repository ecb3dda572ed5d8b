"""Tiny runs of the four kinds, by the recipes themselves, with everything switched on that draws at random."""

import json
import multiprocessing
import os
import socket
from argparse import Namespace
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.config import Config
from test_configs import CONFIGS
from test_recipe_runs import shrink

from beit_mm.engine.runners import launch
from support.runners import forget_instances, leave_text_as_it_is

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
            'train_dataloader.dataset.pipeline.2.scale': (256, 64),
            'train_dataloader.dataset.pipeline.3.crop_size': (64, 64),
            'model.data_preprocessor.size': (64, 64),
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
    cfg = Config.fromfile(CONFIGS / name)
    cfg.merge_from_dict({**shrink(cfg), **own, **WATCHED, **options})
    path.write_text('\n'.join(f'{key} = {value!r}' for key, value in cfg.to_dict().items()))
    return path


def workers(count: int) -> dict[str, object]:
    return {'train_dataloader.num_workers': count, 'train_dataloader.persistent_workers': count > 0}


def train(config: Path, work_dir: Path, resume: str | None = None, launcher: str = 'none') -> None:
    """tools/train.py in this process, in the folder that holds `data`."""
    forget_instances()
    launch.train(
        Namespace(
            config=str(config),
            work_dir=str(work_dir),
            resume=resume,
            no_validate=True,
            auto_scale_lr=False,
            launcher=launcher,
            cfg_options=None,
        )
    )


def train_by_processes(count: int, config: Path, work_dir: Path, resume: str | None = None) -> None:
    """The same by several processes that talk by gloo, in this one's working directory."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['beit_mm', 'runs'])
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    processes = [
        context.Process(target=_train_as, args=(rank, count, port, os.getcwd(), config, work_dir, resume))
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    alive = [process for process in processes if process.is_alive()]
    for process in alive:
        process.kill()
    assert not alive and [process.exitcode for process in processes] == [0] * count


def _train_as(rank: int, count: int, port: int, folder: str, *arguments) -> None:
    torch.set_num_threads(1)
    os.chdir(folder)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(count),
        LOCAL_WORLD_SIZE=str(count),
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
    )
    leave_text_as_it_is()
    train(*arguments, launcher='pytorch')
    dist.barrier()
    os._exit(0)


def losses(work_dir: Path) -> dict[int, float]:
    """All logged numbers of every step but the times and the memory."""
    lines = [json.loads(line) for path in sorted(work_dir.glob('*/vis_data/scalars.json')) for line in open(path)]
    return {
        line['step']: {key: value for key, value in line.items() if key not in ('time', 'data_time', 'memory')}
        for line in lines
        if 'loss' in line
    }


def content(checkpoint: Path) -> dict:
    """What of a checkpoint must be the same."""
    loaded = torch.load(checkpoint, weights_only=False)
    return {key: loaded.get(key) for key in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers')}


def differences(left, right, name: str = '') -> list:
    """Names of what differs between two trees of dicts, lists, tensors and numbers."""
    if isinstance(left, dict):
        keys = {*left, *right}
        return [found for key in keys for found in differences(left.get(key), right.get(key), f'{name}.{key}')]
    if isinstance(left, (list, tuple)):
        return (
            [name]
            if len(left) != len(right)
            else [
                found for place, pair in enumerate(zip(left, right)) for found in differences(*pair, f'{name}.{place}')
            ]
        )
    same = torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right
    return [] if same else [name]
