"""k-nearest neighbours while training, on any model and number of processes; what has collapsed is told."""

import json
import logging
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner
from mmpretrain.models import ImageClassifier
from support import line_model
from support.digits import CLASSES, write_classification
from support.processes import together
from torch import nn

from beit_mm.engine import CollapseHook, KNNHook
from beit_mm.models import BEiT, MaskedImageModel, NormalisedPixels, TwoViewPreprocessor

# A patch holds a quarter of a digit, so that even a random trunk tells digits apart.
SIZE = dict(img_size=32, embed_dim=32, depth=2, num_heads=2, drop_path_rate=0.5)
COLOURS = dict(mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True)


@pytest.fixture(scope='module')
def digits(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('digits') / 'imagenet'
    write_classification(folder, size=32, limit=40)
    return folder


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


def data(digits, split) -> dict:
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    return dict(type='ImageNet', data_root=str(digits), split=split, metainfo=dict(classes=CLASSES), pipeline=pipeline)


def options(digits, **kwargs) -> dict:
    splits = ('train', 'val')
    return {**{f'{split}_dataloader': dict(batch_size=16, dataset=data(digits, split)) for split in splits}, **kwargs}


def classifier(**kwargs) -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier(
        dict(type='beit_mm.BEiT', **SIZE, **kwargs),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=32),
        data_preprocessor=dict(**COLOURS, num_classes=10),
    )


def pre_training_model() -> MaskedImageModel:
    torch.manual_seed(0)
    trunk = BEiT(**SIZE, use_mask_token=True, use_rel_pos_bias=False, use_shared_rel_pos_bias=True, out_type='raw')
    return MaskedImageModel(trunk, NormalisedPixels(), data_preprocessor=TwoViewPreprocessor(**COLOURS))


def look(hook: KNNHook, model: nn.Module) -> float:
    hook.before_train(SimpleNamespace(model=model))
    return hook.scores(model)['knn/top1']


@pytest.mark.parametrize('build', [pre_training_model, classifier, lambda: classifier(out_type='featmap')])
def test_digits_are_told_apart_far_better_than_by_chance(build, digits):
    hook = KNNHook(**options(digits))
    assert look(hook, build()) > 30
    assert [len(source['sampler']) for source in hook.sources] == [640, 80]


def extract_in_process(rank: int, digits: Path) -> tuple:
    """Score, features and labels of validation images in one of several processes."""
    init_default_scope('mmpretrain')
    model = classifier(out_type='raw', out_indices=[0, 1])
    hook = KNNHook(**options(digits, num_train=201, num_val=20, output=0, features='cls_token'))
    top1 = look(hook, model)
    with torch.no_grad():
        return top1, *hook._extract(model.eval(), **hook.sources[1])


def test_features_are_of_length_1_in_the_order_of_the_data_and_the_same_in_two_processes(digits, tmp_path):
    expected = extract_in_process(0, digits)
    dataset = DATASETS.build(data(digits, 'val'))
    samples = [dataset[index] for index in range(0, 80, 4)]
    assert expected[2].tolist() == [int(sample['data_samples'].gt_label) for sample in samples]
    images = torch.stack([sample['inputs'] for sample in samples]).flip(1)
    with torch.no_grad():
        features = classifier(out_type='raw', out_indices=[0, 1]).eval().backbone(images.float() / 127.5 - 1)[0][:, 0]
    torch.testing.assert_close(expected[1], features / features.norm(dim=1, keepdim=True))
    for result in together(2, tmp_path, extract_in_process, digits):
        torch.testing.assert_close(result, expected)


def draw(results=None):
    """Draw from every generator; also a transform."""
    return results or (torch.rand(3).tolist(), np.random.rand(3).tolist(), [random.random() for _ in range(3)])


def test_modes_and_random_states_are_left_as_they_were(digits):
    model = classifier().train()
    model.backbone.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    hook = KNNHook(**options(digits, num_train=40, num_val=20))
    for loader, _ in hook.loaders:
        loader['dataset']['pipeline'].insert(1, draw)
    during, draws = [], []
    model.backbone.register_forward_hook(lambda trunk, *_: during.extend(m.training for m in trunk.modules()))
    for _ in range(2):
        torch.manual_seed(3)
        np.random.seed(3)
        random.seed(3)
        if draws:
            look(hook, model)
        draws.append(draw())
    assert draws[0] == draws[1]
    assert during and not any(during), 'no drop path'
    assert modes == [module.training for module in model.modules()]


def run(digits, folder, hooks) -> Runner:
    """Three epochs of two steps."""
    backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    runner = line_model.build(
        folder,
        model=classifier(),
        train_cfg=dict(by_epoch=True, max_epochs=3),
        train_dataloader=dict(line_model.loader(), batch_size=8, dataset=dict(data(digits, 'train'), indices=16)),
        **dict.fromkeys(['val_cfg', 'val_dataloader', 'val_evaluator']),
        custom_hooks=hooks,
        default_scope='mmpretrain',
        default_hooks=dict(checkpoint=None),
        visualizer=dict(type='UniversalVisualizer', name=folder.name, vis_backends=backends),
        log_level='INFO',
    )
    runner.train()
    return runner


def scalars(folder) -> list:
    lines = [json.loads(line) for file in folder.glob('*/vis_data/scalars.json') for line in open(file)]
    return [(line['step'], line['knn/top1']) for line in lines if 'knn/top1' in line]


def test_a_run_logs_it_and_learns_the_same(digits, tmp_path):
    plain = run(digits, tmp_path / 'plain', [])
    sizes = dict(num_train=200, num_val=40)
    hook = dict(type='beit_mm.KNNHook', **options(digits, **sizes))
    hooks = [dict(hook, interval=2), dict(hook, interval=5, by_epoch=False)]
    watched = run(digits, tmp_path / 'watched', hooks)
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, watched.model.state_dict()[name]), name
    logged = scalars(tmp_path / 'watched')
    # Every two epochs, every five iterations, and each after the last.
    assert sorted(step for step, _ in logged) == [4, 5, 6, 6] and not scalars(tmp_path / 'plain')
    logged = dict(logged)
    assert logged[6] == pytest.approx(look(KNNHook(**options(digits, **sizes)), watched.model))
    (log,) = (tmp_path / 'watched').glob('*/*.log')
    assert f'after 4 iterations: knn/top1: {logged[4]:.4f}' in log.read_text()
    (events,) = (tmp_path / 'watched').glob('*/vis_data/events.out.tfevents*')
    assert b'knn/top1' in events.read_bytes()


def test_collapsed_features_are_told(digits, tmp_path, caplog):
    hook = KNNHook(**options(digits, num_train=40, num_val=20))
    runner = SimpleNamespace(model=classifier(), visualizer=SimpleNamespace(add_scalar=lambda *_: None), hooks=[])
    runner.logger = logging.getLogger('collapse')
    hook.before_train(runner)
    hook._classify(runner, 7)
    assert not caplog.records
    torch.nn.init.zeros_(runner.model.backbone.fc_norm.weight)  # what is left is the same for all images
    torch.nn.init.ones_(runner.model.backbone.fc_norm.bias)
    hook._classify(runner, 8)
    assert 'nearly the same after 8 iterations: RankMe is 1.00, expected at least 2.0; lower optim' in caplog.text


TOKENS = {
    'of a tokenizer': (dict(perplexity=1.2), 'perplexity is 1.20, expected at least 1.5; lower'),
    'of a pre-training': (dict(masked_token_accuracy=0.99), 'masked_token_accuracy is 0.990, expected at most 0.98'),
    'healthy': (dict(perplexity=20.0, masked_token_accuracy=0.4), None),
    'of a classifier': (dict(loss=1.0), None),
}


@pytest.mark.parametrize('what', TOKENS)
def test_collapsed_tokens_are_told_once(what, caplog):
    logged, sentence = TOKENS[what]
    hook, hub = CollapseHook(interval=2), MessageHub(what)
    for step in range(6):
        for name, value in logged.items():
            hub.update_scalar(f'train/{name}', value)
        hook.after_train_iter(SimpleNamespace(iter=step, message_hub=hub, logger=logging.getLogger('collapse')), step)
    assert len(caplog.records) == (sentence is not None) and (sentence or '') in caplog.text
    assert not sentence or 'nearly all visual tokens are the same after 2 iterations' in caplog.text


@pytest.mark.parametrize(
    'wrong, model, message',
    [
        (dict(num_train=0), None, 'KNNHook.num_train must be positive, got 0'),
        (dict(features='class_token'), None, "'mean' or 'cls_token', got 'class_token'"),
        (dict(val_dataloader=dict(dataset={}, shuffle=True)), None, 'val_dataloader .*none of .*sampler.*shuffle'),
        (dict(train_dataloader=dict(batch_size=2)), None, 'train_dataloader must have a dataset .*got batch_size'),
        (dict(num_train=19), classifier, 'at least k=20 training images, got 19'),
        (dict(features='cls_token'), classifier, "out_type is one of raw, cls_token, got 'avg_featmap'"),
        ({}, lambda: nn.Linear(1, 1), 'a backbone whose out_type is one of raw, avg_featmap, featmap, got None'),
    ],
)
def test_mistakes_are_named_before_training(wrong, model, message, digits):
    with pytest.raises(ValueError, match=message):
        hook = KNNHook(**options(digits, **wrong))
        hook.before_train(SimpleNamespace(model=model()))
