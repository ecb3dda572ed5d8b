"""Linear probes: what they read of the trunk, that only they learn, how they are scored, and the recipe."""

import json
import math
from argparse import Namespace

import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope, MODELS, PARAM_SCHEDULERS
from mmpretrain.structures import DataSample
from support import CONFIGS
from support.digits import write_classification
from support.tiny import masked_image_model
from torch import nn
from torch.nn import functional as F

from beit_mm.checkpoint import read_checkpoint
from beit_mm.engine.runners import launch
from beit_mm.evaluation import LinearProbeAccuracy
from beit_mm.models import LinearProbe

RECIPE = CONFIGS / 'classify' / 'linear_probe_base_224_1k.py'
SIZE = dict(img_size=32, embed_dim=16, depth=3, num_heads=2)


def probe(blocks=(0, 1, 2), num_classes=4, out_type='raw', head=(), **trunk) -> LinearProbe:
    torch.manual_seed(0)
    model = LinearProbe(
        dict(type='beit_mm.BEiT', **{**SIZE, **trunk}, out_type=out_type, out_indices=list(blocks)),
        dict(type='beit_mm.LinearProbeHead', num_classes=num_classes, **dict(head)),
        data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),
    )
    with torch.no_grad():  # so that no block and no norm is near the identity
        for parameter in model.backbone.parameters():
            parameter.normal_(std=0.3)
    return model


def batch(*labels: int) -> dict:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randint(256, (len(labels), 3, 32, 32), dtype=torch.uint8, generator=generator)
    return dict(inputs=inputs, data_samples=[DataSample().set_gt_label(label) for label in labels])


@torch.no_grad()
def test_features_are_those_of_timms_blocks_without_a_norm():
    peer = timm.create_model('beit_base_patch16_224', **SIZE).eval()
    for parameter in peer.parameters():
        parameter.normal_(std=0.3)
    model = probe()
    model.backbone.load_state_dict(peer.state_dict(), strict=False)
    images = torch.randn(2, 3, 32, 32)
    blocks = peer.forward_intermediates(
        images, return_prefix_tokens=True, norm=False, output_fmt='NLC', intermediates_only=True
    )
    expected = tuple(torch.cat([class_token[:, 0], patches.mean(dim=1)], dim=1) for patches, class_token in blocks)
    assert len(expected) == 3
    torch.testing.assert_close(model.extract_feat(images, stage='pre_logits'), expected, rtol=1e-4, atol=1e-4)
    with torch.autocast('cpu', torch.bfloat16):
        logits, features = model(images), model.extract_feat(images, stage='pre_logits')
    assert logits.shape == (3, 2, 4) and logits.dtype == torch.float32
    assert [(x.shape, x.dtype) for x in features] == [((2, 32), torch.float32)] * 3


def train(model: LinearProbe, steps: int) -> list:
    """Losses of a few steps with the recipe's optimizer."""
    wrapper = optimizer_of(model, dtype='float32')
    model.train()
    return [model.train_step(batch(0, 1, 2, 3), wrapper)['loss'].item() for _ in range(steps)]


def test_only_the_classifiers_learn_and_the_trunk_draws_nothing():
    model = probe(drop_path_rate=0.9, drop_rate=0.5, attn_drop_rate=0.5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    losses = train(model, steps=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert losses[-1] < losses[0] < 1.5 * 3 * math.log(4)
    assert model.head.training and not any(module.training for module in model.backbone.modules())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == name.startswith('backbone.'), name
    assert all(p.grad is None for p in model.backbone.parameters())


def test_every_classifier_starts_as_in_the_release_and_learns_as_if_alone():
    for classifier in probe(num_classes=1000).head.classifiers.values():
        assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert classifier.weight.mean().abs().item() < 1e-4 and not classifier.bias.any()
    together = probe()
    data = together.data_preprocessor(batch(0, 1, 2, 3), training=True)
    expected = sum(F.cross_entropy(logits, torch.arange(4)) for logits in together(data['inputs']))
    torch.testing.assert_close(together(**data, mode='loss')['loss'], expected)
    train(together, steps=3)
    for block in range(3):
        alone = probe(blocks=[block])
        alone.load_state_dict(probe().state_dict(), strict=False)
        train(alone, steps=3)
        weight = together.head.classifiers[str(block)].weight
        torch.testing.assert_close(alone.head.classifiers[str(block)].weight, weight)


def optimizer_of(model: nn.Module, **options):
    return build_optim_wrapper(model, dict(Config.fromfile(RECIPE).optim_wrapper, **options))


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: probe(out_type='avg_featmap'), "out_type='raw', got 'avg_featmap'"),
        (lambda: probe(blocks=(0, 2, 2)), r'probed once, got \(0, 2, 2\)'),
        (lambda: probe(blocks=(0, 2), head=dict(predict_block=1)), r'one of the blocks probed, \(0, 2\), got 1'),
        (
            lambda: optimizer_of(nn.Linear(1, 1), paramwise_cfg=dict(layer_decay_rate=0.5)),
            'takes no paramwise_cfg, got .*layer_decay',
        ),
        (
            lambda: optimizer_of(nn.Linear(1, 1).requires_grad_(False)),
            'Linear must have a parameter that requires a gradient',
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_predictions_of_all_blocks_reach_the_metric():
    model = probe(blocks=(0, 2), head=dict(predict_block=0)).eval()
    data, truth = batch(3, 1, 0, 2, 2), torch.tensor([3, 1, 0, 2, 2])
    logits = model(model.data_preprocessor(data)['inputs'])
    predictions = model.val_step(data)
    labels = logits.argmax(dim=2)  # (num_blocks, B)
    for index, sample in enumerate(predictions):
        torch.testing.assert_close(sample.pred_score, logits[0, index].softmax(dim=0))
        assert sample.pred_label.tolist() == [labels[0, index]]
        assert sample.block_labels.tolist() == labels[:, index].tolist()
    evaluator = Evaluator(LinearProbeAccuracy())
    evaluator.process(predictions, data)
    scores, expected = evaluator.evaluate(5), 100 * (labels == truth).double().mean(dim=1)
    assert [scores[f'linear_probe/block_{block}'] for block in (0, 2)] == pytest.approx(expected.tolist())
    assert model.predict(torch.randn(1, 3, 32, 32))[0].pred_label.shape == (1,)


def test_the_best_block_is_reported_and_samples_that_fill_the_last_batch_do_not_count():
    metric = LinearProbeAccuracy()
    for rows in ([[1, 0, 1], [0, 0, 1]], [[0, 1, 0], [0, 1, 1], [0, 1, 0]]):  # 1: the block is right
        blocks = dict(gt_label=torch.tensor([1]), probed_blocks=(3, 5, 8))
        metric.process({}, [dict(blocks, block_labels=torch.tensor(row)) for row in rows])
    scores = dict(block_3=25.0, block_5=50.0, block_8=75.0, best=75.0, best_block=8)
    assert metric.evaluate(size=4) == {f'linear_probe/{name}': score for name, score in scores.items()}


def test_the_recipe_has_the_releases_settings():
    cfg = Config.fromfile(RECIPE)
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert isinstance(model, LinearProbe)
    assert list(model.head.classifiers) == [str(block) for block in range(len(model.backbone.blocks))]
    assert {(c.in_features, c.out_features) for c in model.head.classifiers.values()} == {(2 * 768, 1000)}
    steps = ('LoadImage', 'RandomResizedCrop', 'RandomFlip', 'PackInputs')
    assert [step.type for step in cfg.train_dataloader.dataset.pipeline] == [f'beit_mm.{step}' for step in steps]
    assert not cfg.model.get('train_cfg'), 'no Mixup, no CutMix'
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 1024
    # AdamW(linear_classifier.parameters(), lr, weight_decay=1e-4)
    model = probe()
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    assert isinstance(optimizer, torch.optim.AdamW)
    (group,) = optimizer.param_groups
    assert (group['lr'], group['weight_decay'], group['betas'], group['eps']) == (4e-3, 1e-4, (0.9, 0.999), 1e-8)
    assert {id(p) for p in group['params']} == {id(p) for p in model.head.parameters()}
    # CosineAnnealingLR(optimizer, epochs, eta_min=0), one step an epoch
    (schedule,) = cfg.param_scheduler
    assert schedule.by_epoch and not schedule.get('convert_to_iter_based') and cfg.train_cfg.max_epochs == 100
    schedule = PARAM_SCHEDULERS.build(schedule, default_args=dict(optimizer=optimizer))
    for epoch in range(100):
        expected = 4e-3 * (1 + math.cos(math.pi * epoch / 100)) / 2
        assert group['lr'] == pytest.approx(expected, rel=1e-6), epoch
        optimizer.step()
        schedule.step()


def test_two_steps_and_an_evaluation_from_pre_trained_weights(tmp_path):
    pretrained = tmp_path / 'epoch_800.pth'  # with one bias table for all blocks
    model = masked_image_model()
    nn.init.normal_(model.backbone.rel_pos_bias.relative_position_bias_table)
    torch.save(dict(state_dict=model.state_dict()), pretrained)
    write_classification(tmp_path / 'imagenet', limit=3, renders=1)  # folders of classes, as ImageNet's
    trunk = dict(img_size=64, embed_dim=32, depth=2, num_heads=2, out_indices=[0, 1])
    loader = dict(num_workers=0, persistent_workers=False, batch_size=2)
    loader |= {'dataset.indices': 4, 'dataset.data_root': str(tmp_path / 'imagenet')}
    options = {
        **{f'model.backbone.{key}': value for key, value in trunk.items()},
        'model.backbone.init_cfg.checkpoint': str(pretrained),
        'train_cfg.max_epochs': 1,
        'param_scheduler.0.end': 1,
        **{f'{part}_dataloader.{key}': value for part in ('train', 'val', 'test') for key, value in loader.items()},
    }
    run = dict(config=str(RECIPE), launcher='none', cfg_options=options)
    train_folder, test_folder = str(tmp_path / 'train'), str(tmp_path / 'test')
    launch.train(Namespace(**run, work_dir=train_folder, resume=None, no_validate=False, auto_scale_lr=False))
    (best,) = (tmp_path / 'train').glob('best_linear_probe_best_epoch_1.pth')
    launch.test(Namespace(**run, checkpoint=str(best), work_dir=test_folder, out=None, show_dir=None, tta=False))
    (scores,) = (json.loads(file.read_text()) for file in (tmp_path / 'test').glob('*/*.json'))
    blocks = [scores[f'linear_probe/block_{block}'] for block in range(2)]
    assert scores['linear_probe/best'] == max(blocks) == blocks[int(scores['linear_probe/best_block'])]

    start, end = (read_checkpoint(path, 'cpu')['state_dict'] for path in (pretrained, best))
    for name, tensor in start.items():
        if name.startswith('backbone.blocks.'):
            assert torch.equal(end[name], tensor), name
    table = start['backbone.rel_pos_bias.relative_position_bias_table']
    assert torch.equal(end['backbone.blocks.1.attn.relative_position_bias_table'], table)
    assert any(end[f'head.classifiers.{block}.bias'].any() for block in range(2))
