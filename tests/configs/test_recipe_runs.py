"""Every recipe trains two updates and is evaluated, on stand-ins of its data, shrunk by options alone."""

import json
import re
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader
from mmpretrain.datasets import CIFAR100
from support.recipe_table import NAMES
from support.runners import forget_instances, leave_text_as_it_is
from support.stand_ins import CLASSES_22K, CLASSES_ADE20K, write_all
from test_configs import CONFIGS, load

from beit_mm.engine.runners import launch

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


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    """A folder whose `data` holds all stand-ins."""
    folder = tmp_path_factory.mktemp('recipes')
    with pytest.MonkeyPatch.context() as patch:
        checksums = write_all(folder)
        patch.setattr(CIFAR100, 'train_list', [['train', checksums['train']]])
        patch.setattr(CIFAR100, 'test_list', [['test', checksums['test']]])
        leave_text_as_it_is(patch.setattr)
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope='module')
def starts(data) -> dict[bool, Path]:
    """Checkpoints to start from: pre-trained, and (True) fine-tuned."""
    pretrained = train('beit_pretrain.py', data / 'starts' / 'pretrain')
    fine_tuned = train(
        'beit_finetune.py', data / 'starts' / 'finetune', **{'model.backbone.init_cfg.checkpoint': str(pretrained)}
    )
    return {False: pretrained, True: fine_tuned}


@pytest.mark.parametrize('name', NAMES)
def test_recipe_trains_two_updates_and_is_evaluated(name, data, starts, tmp_path):
    cfg = load(name)
    start = cfg.model.get('backbone', {}).get('init_cfg')
    options = {}
    if start:
        is_fine_tuned = re.search('ft22k|finetune|to_1k', start.checkpoint) is not None
        options['model.backbone.init_cfg.checkpoint'] = str(starts[is_fine_tuned])
    checkpoint = train(name, tmp_path / 'run', **options)
    content = CheckpointLoader.load_checkpoint(str(checkpoint))
    assert content['meta']['iter'] == 2 * cfg.optim_wrapper.get('accumulative_counts', 1)
    assert {int(state['step']) for state in content['optimizer']['state'].values()} == {2}
    assert all(tensor.isfinite().all() for tensor in content['state_dict'].values())

    if 'pretrain' in name:  # has no score of its own
        checkpoint = train(
            'beit_finetune.py',
            tmp_path / 'finetune',
            **(ABSOLUTE if 'absolute' in name else {}),
            **{'model.backbone.init_cfg.checkpoint': str(checkpoint)},
        )
        scores = scores_of(tmp_path / 'finetune')
    elif cfg.get('val_dataloader'):
        scores = scores_of(tmp_path / 'run')
    else:
        scores = test(name, checkpoint, tmp_path / 'test')
    score = 'tokenizer/psnr' if 'tokenizer' in name else 'mIoU' if cfg.default_scope == 'mmseg' else 'accuracy/top1'
    assert 0 <= scores[score] <= 100


def test_multi_scale_test_runs_at_640(data, tmp_path):
    name = 'segment/beit_base_640_ft22k_to_ade20k.py'
    small = {'model.backbone.depth': 1, 'model.backbone.out_indices': [0] * 4}
    cfg = load(name)
    cfg.merge_from_dict({**shrink(cfg), **small})
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), tmp_path / 'random.pth')
    scores = test(
        name,
        tmp_path / 'random.pth',
        tmp_path / 'test',
        tta=True,
        **small,
        **{'test_dataloader.batch_size': 1, 'test_dataloader.dataset.indices': 1},
    )
    assert 0 <= scores['mIoU'] <= 100
