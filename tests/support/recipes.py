"""The recipes: read, built on the meta device, made small, trained and tested."""

import json
from argparse import Namespace
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope, MODELS, PARAM_SCHEDULERS

from beit_mm.engine.runners import launch
from support import CONFIGS
from support.data import CLASSES_22K, CLASSES_ADE20K
from support.tools import forget_instances

RECIPES = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob('*.py') if '_base_' not in path.parts)
EPOCH_LENGTH = 10


def load(name: str) -> Config:
    cfg = Config.fromfile(CONFIGS / name)
    init_default_scope(cfg.default_scope)
    return cfg


def on_meta(cfg: Config) -> torch.nn.Module:
    with torch.device('meta'):
        return MODELS.build(cfg.model)


def build(name: str, cfg: Config) -> torch.nn.Module:
    """Large models without memory; the small ones for real, as fused optimisers want it."""
    return MODELS.build(cfg.model) if name.startswith('demo/') else on_meta(cfg)


def find(registry, name: str):
    """What a name means in the default scope."""
    with registry.switch_scope_and_registry(None) as scoped:
        return scoped.get(name)


def build_schedules(cfg: Config, optimizer, epoch_length: int = EPOCH_LENGTH) -> list:
    schedules = []
    for schedule in cfg.param_scheduler:
        schedule = schedule.copy()
        kind = PARAM_SCHEDULERS.get(schedule.pop('type'))
        if schedule.pop('convert_to_iter_based', False):
            schedules.append(kind.build_iter_from_epoch(optimizer=optimizer, epoch_length=epoch_length, **schedule))
        else:
            schedules.append(kind(optimizer=optimizer, **schedule))
    return schedules


def millions(module: torch.nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


def rates(name: str, steps: int) -> torch.Tensor:
    """Learning rate of the topmost group at every step, (steps,)."""
    cfg = load(name)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=cfg.optim_wrapper.optimizer.lr)
    schedules = build_schedules(cfg, optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for schedule in schedules:
            schedule.step()
    return torch.tensor(found)


ABSOLUTE = {
    'model.backbone.use_abs_pos_emb': True,
    'model.backbone.use_rel_pos_bias': False,
    'model.backbone.layer_scale_init_value': 0,
}


def shrink(cfg: Config) -> dict[str, object]:
    """Options that make a recipe small: two updates on single pictures, by a narrow model."""
    loaders = [key for key in ('train_dataloader', 'val_dataloader', 'test_dataloader') if cfg.get(key)]
    options = {
        f'{loader}.{key}': value
        for loader in loaders
        for key, value in {
            'num_workers': 0,
            'persistent_workers': False,
            'batch_size': 2,
            'dataset.serialize_data': False,
        }.items()
    }
    steps = 2 * cfg.optim_wrapper.get('accumulative_counts', 1)
    options['param_scheduler.0.end'] = 1 if 'max_epochs' in cfg.train_cfg else 2
    if 'max_epochs' in cfg.train_cfg:
        options.update(
            {
                'train_cfg.max_epochs': 1,
                'default_hooks.checkpoint.interval': 1,
                'train_dataloader.dataset.indices': 2 * steps,
            }
        )
    else:
        options.update(
            {'train_cfg.max_iters': steps, 'train_cfg.val_interval': steps, 'default_hooks.checkpoint.interval': steps}
        )
    if 'num_classes' in cfg.model.get('head', {}) and cfg.model.head.num_classes == 21841:
        options.update({f'model.{part}.num_classes': CLASSES_22K for part in ('head', 'data_preprocessor')})
    return {**options, **shrink_model(cfg)}


def shrink_model(cfg: Config) -> dict[str, object]:
    tokenizer = dict(vocab_size=16, n_hid=8, n_init=8, blocks_per_group=1)
    if 'backbone' not in cfg.model:
        return {
            **{f'model.{key}': value for key, value in tokenizer.items()},
            'val_evaluator.vocab_size': 16,
            'test_evaluator.vocab_size': 16,
        }
    options = {f'model.backbone.{key}': value for key, value in dict(embed_dim=32, depth=4, num_heads=2).items()}
    if 'tokenizer' in cfg.model.get('target', {}):
        options.update({f'model.target.tokenizer.{key}': value for key, value in tokenizer.items()})
        options['model.target.tokenizer.init_cfg'] = None
    if 'head' in cfg.model:
        options['model.head.in_channels'] = 32
    if 'decode_head' in cfg.model:
        options.update(
            {
                'model.backbone.out_indices': [0, 1, 2, 3],
                'model.neck.embed_dim': 32,
                'model.decode_head.in_channels': [32] * 4,
                'model.decode_head.channels': 16,
                'model.decode_head.num_classes': CLASSES_ADE20K,
                'model.auxiliary_head.in_channels': 32,
                'model.auxiliary_head.channels': 16,
                'model.auxiliary_head.num_classes': CLASSES_ADE20K,
            }
        )
    return options


def train(name: str, folder: Path, **options) -> Path:
    """tools/train.py in this process; the checkpoint."""
    forget_instances()
    options = {**shrink(Config.fromfile(CONFIGS / name)), **options}
    launch.train(
        Namespace(
            config=str(CONFIGS / name),
            work_dir=str(folder),
            resume=None,
            no_validate=False,
            auto_scale_lr=False,
            launcher='none',
            cfg_options=options,
        )
    )
    return Path((folder / 'last_checkpoint').read_text())


def test(name: str, checkpoint: Path, folder: Path, tta: bool = False, **options) -> dict:
    """tools/test.py in this process; the scores."""
    options = {**shrink(Config.fromfile(CONFIGS / name)), **options}
    launch.test(
        Namespace(
            config=str(CONFIGS / name),
            checkpoint=str(checkpoint),
            work_dir=str(folder),
            out=None,
            show_dir=None,
            tta=tta,
            launcher='none',
            cfg_options=options,
        )
    )
    return json.loads(max(folder.glob('*/*.json'), key=lambda path: path.stat().st_mtime).read_text())


test.__test__ = False  # no test but the tool


def scores_of(folder: Path) -> dict:
    """The last scores that a training logged."""
    lines = (json.loads(line) for path in folder.glob('*/vis_data/scalars.json') for line in open(path))
    return [line for line in lines if 'loss' not in line][-1]
