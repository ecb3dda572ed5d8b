"""Linear probes: what they read of the trunk, that only they learn, each as if alone, and how they are scored."""

import math
from pathlib import Path

import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.optim import build_optim_wrapper
from mmpretrain.structures import DataSample
from torch import nn
from torch.nn import functional as F

from beit_mm.evaluation import LinearProbeAccuracy
from beit_mm.models import LinearProbe

RECIPE = Path(__file__).parents[3] / 'configs' / 'classify' / 'linear_probe_base_224_1k.py'
SIZE = dict(img_size=32, embed_dim=16, depth=3, num_heads=2)


def probe(blocks=(0, 1, 2), num_classes=4, out_type='raw', head=(), **trunk) -> LinearProbe:
    torch.manual_seed(0)
    backbone = dict(type='beit_mm.BEiT', **{**SIZE, **trunk}, out_type=out_type, out_indices=list(blocks))
    model = LinearProbe(
        backbone,
        dict(type='beit_mm.LinearProbeHead', num_classes=num_classes, **dict(head)),
        data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),
    )
    with torch.no_grad():  # so that no block and no norm is near the identity
        for parameter in model.backbone.parameters():
            parameter.normal_(std=0.3)
    return model


def samples(labels) -> list:
    return [DataSample().set_gt_label(label) for label in labels]


def batch(size=6) -> dict:
    inputs = torch.randint(256, (size, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return dict(inputs=inputs, data_samples=samples(range(size)))


# What is read


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
    features = model.extract_feat(images, stage='pre_logits')
    assert len(features) == len(blocks) == 3
    for found, (patches, class_token) in zip(features, blocks):
        torch.testing.assert_close(
            found, torch.cat([class_token[:, 0], patches.mean(dim=1)], dim=1), rtol=1e-4, atol=1e-4
        )


def test_features_and_logits_are_float32_under_autocast():
    model = probe()
    with torch.autocast('cpu', torch.bfloat16):
        logits = model(torch.randn(2, 3, 32, 32))
        features = model.extract_feat(torch.randn(2, 3, 32, 32), stage='pre_logits')
    assert logits.shape == (3, 2, 4) and logits.dtype == torch.float32
    assert [(x.shape, x.dtype) for x in features] == [((2, 32), torch.float32)] * 3


def test_another_form_of_output_is_refused():
    with pytest.raises(ValueError, match="out_type='raw', got 'avg_featmap'"):
        probe(out_type='avg_featmap')


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(blocks=(0, 2, 2)), r'probed once, got \(0, 2, 2\)'),
        (dict(blocks=(0, 2), head=dict(predict_block=1)), r'one of the blocks probed, \(0, 2\), got 1'),
    ],
)
def test_blocks_that_do_not_fit_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        probe(**kwargs)


# What learns


def test_classifiers_start_as_in_the_release():
    model = probe(num_classes=1000)
    for classifier in model.head.classifiers.values():
        assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert classifier.weight.mean().abs().item() < 1e-4
        assert not classifier.bias.any()


def train(model: LinearProbe, steps: int) -> list:
    """Losses of a few steps with the recipe's optimiser."""
    cfg = Config.fromfile(RECIPE).optim_wrapper
    wrapper = build_optim_wrapper(model, dict(cfg, dtype='float32'))
    model.train()
    return [model.train_step(batch(4), wrapper)['loss'].item() for _ in range(steps)]


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


def test_every_classifier_learns_as_if_alone():
    together = probe()
    train(together, steps=3)
    for block in range(3):
        alone = probe(blocks=[block])
        alone.load_state_dict(probe().state_dict(), strict=False)
        train(alone, steps=3)
        torch.testing.assert_close(
            alone.head.classifiers[str(block)].weight, together.head.classifiers[str(block)].weight
        )


def test_the_loss_is_the_sum_over_blocks_of_the_mean_over_images():
    model = probe()
    data = model.data_preprocessor(batch(4), training=True)
    logits = model(data['inputs'])
    expected = sum(F.cross_entropy(block, torch.arange(4)) for block in logits)
    torch.testing.assert_close(model(**data, mode='loss')['loss'], expected)


def test_the_optimiser_has_one_group_that_decays_weights_and_biases():
    """Release: AdamW(linear_classifier.parameters(), lr, weight_decay=1e-4)."""
    model = probe()
    wrapper = build_optim_wrapper(model, Config.fromfile(RECIPE).optim_wrapper)
    assert isinstance(wrapper.optimizer, torch.optim.AdamW)
    (group,) = wrapper.optimizer.param_groups
    assert (group['lr'], group['weight_decay'], group['betas'], group['eps']) == (4e-3, 1e-4, (0.9, 0.999), 1e-8)
    assert {id(p) for p in group['params']} == {id(p) for p in model.head.parameters()}


@pytest.mark.parametrize(
    'model, options, message',
    [
        (
            nn.Linear(1, 1),
            dict(paramwise_cfg=dict(layer_decay_rate=0.5)),
            'takes no paramwise_cfg, got .*layer_decay_rate',
        ),
        (nn.Linear(1, 1).requires_grad_(False), dict(), 'Linear must have a parameter that requires a gradient'),
    ],
)
def test_an_optimiser_that_cannot_be_is_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        build_optim_wrapper(model, dict(Config.fromfile(RECIPE).optim_wrapper, **options))


# How they are scored


def test_predictions_of_all_blocks_reach_the_metric():
    model = probe(blocks=(0, 2), num_classes=4, head=dict(predict_block=0)).eval()
    data = dict(inputs=batch(5)['inputs'], data_samples=samples([3, 1, 0, 2, 2]))
    logits = model(model.data_preprocessor(data)['inputs'])
    predictions = model.val_step(data)
    labels = logits.argmax(dim=2)  # (num_blocks, B)
    for place, sample in enumerate(predictions):
        torch.testing.assert_close(sample.pred_score, logits[0, place].softmax(dim=0))
        assert sample.pred_label.tolist() == [labels[0, place]]
        assert sample.block_labels.tolist() == labels[:, place].tolist()

    evaluator = Evaluator(LinearProbeAccuracy())
    evaluator.process(predictions, data)
    expected = [100 * (row == torch.tensor([3, 1, 0, 2, 2])).double().mean().item() for row in labels]
    found = evaluator.evaluate(5)
    assert found['linear_probe/block_0'] == pytest.approx(expected[0])
    assert found['linear_probe/block_2'] == pytest.approx(expected[1])
    assert model.predict(torch.randn(1, 3, 32, 32))[0].pred_label.shape == (1,)


def scored(correct: list) -> list:
    """Samples of class 1, each with the blocks that are right."""
    return [
        dict(block_labels=torch.tensor(row), gt_label=torch.tensor([1]), probed_blocks=(3, 5, 8)) for row in correct
    ]


def test_the_best_block_is_reported_by_its_index():
    metric = LinearProbeAccuracy()
    metric.process({}, scored([[1, 0, 1], [0, 0, 1]]))
    metric.process({}, scored([[0, 1, 0], [0, 1, 1]]))
    assert metric.evaluate(size=4) == {
        'linear_probe/block_3': 25.0,
        'linear_probe/block_5': 50.0,
        'linear_probe/block_8': 75.0,
        'linear_probe/best': 75.0,
        'linear_probe/best_block': 8,
    }


def test_samples_repeated_to_fill_the_last_batch_do_not_count():
    metric = LinearProbeAccuracy()
    metric.process({}, scored([[1, 0, 1], [0, 0, 1], [0, 1, 0]]))
    assert metric.evaluate(size=2)['linear_probe/best'] == 100
