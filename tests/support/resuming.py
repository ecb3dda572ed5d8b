"""Tiny runs of every stage, by the recipes themselves, with everything switched on that draws at random."""

import json
import os
from pathlib import Path

from support import tools
from support.processes import together
from support.recipes import load, shrink, SMALL_SCENES

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
        {**ITERATIONS, 'param_scheduler.0.end': STEPS, 'custom_hooks.0.num_iters': 8, 'custom_hooks.1.num_iters': 4},
    ),
    'tokenizer_kmeans': (
        'own_data/tokenizer_kmeans.py',
        {
            **ITERATIONS,
            'param_scheduler.0.end': STEPS,
            'model.whitening_iters': 5,
            'train_dataloader.dataset.data_root': 'data/own/images',
        },
    ),
    'tokenizer_v2': ('pretrain/beitv2_tokenizer_clip.py', EPOCHS),
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
    """In the folder that holds `data`."""
    tools.train(config, work_dir, resume, no_validate=True, launcher=launcher)


def train_by_processes(count: int, config: Path, work_dir: Path, resume: str | None = None) -> None:
    """The same on several processes, in this one's working directory."""
    together(count, work_dir, _train_rank, os.getcwd(), config, work_dir, resume)


def _train_rank(rank: int, folder: str, *arguments) -> None:
    os.chdir(folder)
    tools.leave_text_as_it_is()
    train(*arguments, launcher='pytorch')


def losses(work_dir: Path) -> dict[int, float]:
    """All logged numbers of every step but the times and the memory."""
    lines = [json.loads(line) for path in sorted(work_dir.glob('*/vis_data/scalars.json')) for line in open(path)]
    return {
        line['step']: {key: value for key, value in line.items() if key not in ('time', 'data_time', 'memory')}
        for line in lines
        if 'loss' in line
    }
