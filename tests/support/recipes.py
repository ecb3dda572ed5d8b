"""The recipes: read, built on the meta device, made small, trained and tested."""

import copy
import json
from argparse import Namespace
from functools import cache
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper, OptimWrapper
from mmengine.registry import init_default_scope, MODELS, PARAM_SCHEDULERS

from beit_mm.engine.runners import launch
from support import CONFIGS, tools
from support.data import CLASSES_22K, CLASSES_ADE20K
from support.tools import forget_instances, scores

RECIPES = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob('*.py') if '_base_' not in path.parts)
TOKENIZER = dict(vocab_size=16, n_hid=8, n_init=8, blocks_per_group=1)
TOKENIZER_V2 = dict(vocab_size=16, code_dim=8, embed_dim=32, num_heads=2, encoder_depth=1, decoder_depth=1)
SIZES = {
    'beit_mm.VectorQuantisedTokenizer': TOKENIZER_V2,
    'beit_mm.KMeansTokenizer': dict(vocab_size=16, whitening_iters=1),
}

# Images and crops of a segmentation recipe, and views of its test at several scales, 64 pixels high instead of 512.
SMALL_SCENES = {
    'train_dataloader.dataset.pipeline.2.scale': (256, 64),
    'train_dataloader.dataset.pipeline.3.crop_size': (64, 64),
    'model.data_preprocessor.size': (64, 64),
    'val_dataloader.dataset.pipeline.1.scale': (256, 64),
    'test_dataloader.dataset.pipeline.1.scale': (256, 64),
}
SMALL_VIEWS = {f'tta_pipeline.1.transforms.0.{index}.scale': (256, 64) for index in range(6)}


@cache
def _read(name: str) -> Config:
    return Config.fromfile(CONFIGS / name)


def load(name: str) -> Config:
    """A copy of a recipe, which is read once. Its default scope is entered."""
    cfg = copy.deepcopy(_read(name))
    init_default_scope(cfg.default_scope)
    return cfg


@cache
def meta_model(name: str) -> torch.nn.Module:
    """The model of a recipe without memory, built once: leave it as it is."""
    with torch.device('meta'):
        return MODELS.build(load(name).model)


@cache
def optim_wrapper(name: str) -> OptimWrapper:
    """The optimizer wrapper of `meta_model`; a fused optimizer needs the small models of the demonstration for real."""
    model = MODELS.build(load(name).model) if name.startswith('demo/') else meta_model(name)
    return build_optim_wrapper(model, load(name).optim_wrapper)


def count_parameters(name: str) -> int:
    return sum(parameter.numel() for parameter in meta_model(name).parameters())


def header(name: str) -> str:
    """The comment at the top of a recipe."""
    lines = (CONFIGS / name).read_text().splitlines()
    return '\n'.join(lines[: next(index for index, line in enumerate(lines) if not line.startswith('#'))]) + '\n'


def build_schedules(schedules: list[dict], optimizer: torch.optim.Optimizer, epoch_length: int) -> list:
    """The parameter schedulers of a config."""
    built = []
    for schedule in schedules:
        schedule = dict(schedule)
        kind = PARAM_SCHEDULERS.get(schedule.pop('type'))
        if schedule.pop('convert_to_iter_based', False):
            built.append(kind.build_iter_from_epoch(optimizer=optimizer, epoch_length=epoch_length, **schedule))
        else:
            built.append(kind(optimizer=optimizer, **schedule))
    return built


def shrink(cfg: Config) -> dict[str, object]:
    """Options that make a recipe small: two updates on single images, by a narrow model."""
    options = {
        f'{loader}.{key}': value
        for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader')
        if cfg.get(loader)
        for key, value in {
            'num_workers': 0,
            'persistent_workers': False,
            'batch_size': 2,
            'dataset.serialize_data': False,
        }.items()
    }
    steps = 2 * cfg.optim_wrapper.get('accumulative_counts', 1)
    if 'max_epochs' in cfg.train_cfg:
        options['param_scheduler.0.end'] = options['train_cfg.max_epochs'] = 1
        options['train_dataloader.dataset.indices'] = 2 * steps
        options['default_hooks.checkpoint.interval'] = 1
    else:
        options['param_scheduler.0.end'] = 2
        for key in ('train_cfg.max_iters', 'train_cfg.val_interval', 'default_hooks.checkpoint.interval'):
            options[key] = steps
    return {**options, **shrink_model(cfg)}


def shrink_model(cfg: Config) -> dict[str, object]:
    """Options that make the model of a recipe narrow, with as many classes as the small data sets have."""
    if 'backbone' not in cfg.model:
        options = {f'{evaluator}.vocab_size': 16 for evaluator in ('val_evaluator', 'test_evaluator')}
        if 'teacher' in cfg.model:
            options['model.teacher.pretrained'] = False
            options['model.teacher.options'] = dict(depth=1, embed_dim=32, num_heads=2)
            options['model.teacher_dim'] = 512 if cfg.model.teacher.use_head else 32
        return {**options, **{f'model.{key}': value for key, value in _sizes(cfg.model).items()}}
    options = {f'model.backbone.{key}': value for key, value in dict(embed_dim=32, depth=4, num_heads=2).items()}
    if 'tokenizer' in cfg.model.get('target', {}):
        sizes = _sizes(cfg.model.target.tokenizer)
        options.update({f'model.target.tokenizer.{key}': value for key, value in sizes.items()})
        options['model.target.tokenizer.init_cfg'] = None
    if 'bottleneck' in cfg.model:
        options['model.bottleneck.early_layers'] = 3
    if 'head' in cfg.model:
        options['model.head.in_channels'] = 32
        if cfg.model.head.get('num_classes') == 21841:
            options.update({f'model.{part}.num_classes': CLASSES_22K for part in ('head', 'data_preprocessor')})
    if 'decode_head' in cfg.model and not cfg.model.get('neck'):  # a linear classifier of the last block's patches
        heads, sizes = ['decode_head'], dict(in_channels=32, channels=32)
        options.update({f'model.decode_head.{key}': value for key, value in sizes.items()})
        options.update({'model.backbone.out_indices': [3], 'model.backbone.frozen_stages': 4})
    elif 'decode_head' in cfg.model:
        heads = ['decode_head', 'auxiliary_head']
        options.update(
            {
                'model.backbone.out_indices': [0, 1, 2, 3],
                'model.neck.embed_dim': 32,
                'model.decode_head.in_channels': [32] * 4,
                'model.decode_head.channels': 16,
                'model.auxiliary_head.in_channels': 32,
                'model.auxiliary_head.channels': 16,
            }
        )
    if 'decode_head' in cfg.model and cfg.model.decode_head.num_classes == 150:
        options.update({f'model.{head}.num_classes': CLASSES_ADE20K for head in heads})
    return options


def _sizes(tokenizer: dict) -> dict[str, int]:
    return SIZES.get(tokenizer.type, TOKENIZER)


def train(name: str, folder: Path, **options) -> Path:
    """A small training by tools/train.py in this process; the checkpoint."""
    tools.train(CONFIGS / name, folder, check=True, cfg_options={**shrink(load(name)), **options})
    return Path((folder / 'last_checkpoint').read_text())


def test(name: str, checkpoint: Path, folder: Path, tta: bool = False, **options) -> dict:
    """A small test by tools/test.py in this process; the scores."""
    forget_instances()
    arguments = dict(checkpoint=str(checkpoint), out=None, show_dir=None, tta=tta, launcher='none')
    options = {**shrink(load(name)), **options}
    launch.test(Namespace(config=str(CONFIGS / name), work_dir=str(folder), cfg_options=options, **arguments))
    return scores(folder)


test.__test__ = False  # a tool, no test


def logged_scores(folder: Path) -> dict:
    """The last scores that a training logged."""
    lines = (json.loads(line) for path in folder.glob('*/vis_data/scalars.json') for line in open(path))
    return [line for line in lines if 'loss' not in line][-1]
