"""The recipe of the linear probes: the release's settings, and two steps and an evaluation on a stand-in."""

import json
import math
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope, MODELS, PARAM_SCHEDULERS
from support.digits import write_classification

from beit_mm.checkpoint import read_checkpoint
from beit_mm.engine.runners import launch
from beit_mm.models import BEiT, LinearProbe, MaskedImageModel, NormalisedPixels

RECIPE = Path(__file__).parents[3] / 'configs' / 'classify' / 'linear_probe_base_224_1k.py'


def test_every_block_of_the_base_trunk_is_probed():
    cfg = Config.fromfile(RECIPE)
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert isinstance(model, LinearProbe)
    assert list(model.head.classifiers) == [str(block) for block in range(len(model.backbone.blocks))]
    assert {(c.in_features, c.out_features) for c in model.head.classifiers.values()} == {(2 * 768, 1000)}


def test_images_are_only_cropped_and_flipped():
    cfg = Config.fromfile(RECIPE)
    assert [step.type for step in cfg.train_dataloader.dataset.pipeline] == [
        f'beit_mm.{step}' for step in ('LoadImage', 'RandomResizedCrop', 'RandomFlip', 'PackInputs')
    ]
    assert not cfg.model.get('train_cfg'), 'no Mixup, no CutMix'
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 1024


def test_the_rate_falls_epoch_by_epoch_along_half_a_cosine_to_zero():
    """Release: CosineAnnealingLR(optimizer, epochs, eta_min=0), one step an epoch."""
    cfg = Config.fromfile(RECIPE)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=cfg.optim_wrapper.optimizer.lr)
    (schedule,) = cfg.param_scheduler
    assert schedule.by_epoch and not schedule.get('convert_to_iter_based')
    schedule = PARAM_SCHEDULERS.build(schedule, default_args=dict(optimizer=optimizer))
    for epoch in range(cfg.train_cfg.max_epochs):
        expected = 4e-3 * (1 + math.cos(math.pi * epoch / 100)) / 2
        assert optimizer.param_groups[0]['lr'] == pytest.approx(expected, rel=1e-6), epoch
        optimizer.step()
        schedule.step()
    assert epoch == 99


@pytest.fixture
def pretrained(tmp_path) -> Path:
    """Weights of a pre-training, with one bias table for all blocks."""
    trunk = BEiT(
        embed_dim=32,
        depth=4,
        num_heads=2,
        use_mask_token=True,
        use_rel_pos_bias=False,
        use_shared_rel_pos_bias=True,
        out_type='raw',
    )
    with torch.no_grad():
        trunk.rel_pos_bias.relative_position_bias_table.normal_()
    torch.save(dict(state_dict=MaskedImageModel(trunk, NormalisedPixels()).state_dict()), tmp_path / 'epoch_800.pth')
    return tmp_path / 'epoch_800.pth'


def test_two_steps_and_an_evaluation_from_pre_trained_weights(pretrained, tmp_path):
    write_classification(tmp_path / 'imagenet', limit=3, renders=1)  # folders of classes, as ImageNet's
    small = {
        'model.backbone.embed_dim': 32,
        'model.backbone.depth': 4,
        'model.backbone.num_heads': 2,
        'model.backbone.out_indices': [0, 1, 2, 3],
        'model.backbone.init_cfg.checkpoint': str(pretrained),
        'train_cfg.max_epochs': 1,
        'param_scheduler.0.end': 1,
        **{
            f'{loader}.{key}': value
            for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader')
            for key, value in {
                'num_workers': 0,
                'persistent_workers': False,
                'batch_size': 2,
                'dataset.indices': 4,
                'dataset.data_root': str(tmp_path / 'imagenet'),
            }.items()
        },
    }
    run = dict(config=str(RECIPE), launcher='none', cfg_options=small)
    launch.train(
        Namespace(**run, work_dir=str(tmp_path / 'train'), resume=None, no_validate=False, auto_scale_lr=False)
    )
    (best,) = (tmp_path / 'train').glob('best_linear_probe_best_epoch_1.pth')
    launch.test(
        Namespace(**run, checkpoint=str(best), work_dir=str(tmp_path / 'test'), out=None, show_dir=None, tta=False)
    )
    (scores,) = (json.loads(file.read_text()) for file in (tmp_path / 'test').glob('*/*.json'))
    blocks = [scores[f'linear_probe/block_{block}'] for block in range(4)]
    assert scores['linear_probe/best'] == max(blocks) == blocks[int(scores['linear_probe/best_block'])]

    start, end = (read_checkpoint(path, 'cpu')['state_dict'] for path in (pretrained, best))
    for name, tensor in start.items():
        if name.startswith('backbone.blocks.'):
            assert torch.equal(end[name], tensor), name
    table = start['backbone.rel_pos_bias.relative_position_bias_table']
    assert torch.equal(end['backbone.blocks.3.attn.relative_position_bias_table'], table)
    assert any(end[f'head.classifiers.{block}.bias'].any() for block in range(4))
