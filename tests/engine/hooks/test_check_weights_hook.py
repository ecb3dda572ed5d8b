"""Heads of another model: a training keeps its initial ones and says so, a test or a resumed run ends."""

import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from beit_mm.engine import CheckWeightsHook
from beit_mm.models.weights import WeightsMismatch


def classifier(num_classes: int = 3) -> nn.Module:
    return nn.ModuleDict(
        dict(
            backbone=nn.Linear(2, 2),
            head=nn.ModuleDict(dict(fc=nn.Linear(2, num_classes))),
            auxiliary_head=nn.Linear(2, num_classes),
        )
    )


@pytest.fixture
def runner():
    lines = []
    logger = logging.Logger('run')
    logger.addHandler(logging.Handler())
    logger.handlers[0].emit = lambda record: lines.append(record.getMessage())
    return SimpleNamespace(model=classifier(), logger=logger, lines=lines)


def check(runner, purpose: str, checkpoint: dict) -> None:
    CheckWeightsHook(purpose).after_load_checkpoint(runner, checkpoint)


def test_a_training_says_which_heads_keep_their_initial_weights(runner):
    weights = classifier(5).state_dict()
    check(runner, 'train', dict(state_dict=weights))
    assert runner.lines == [
        'head (head.fc.weight must be (3, 2), got (5, 2)): keeps its initial weights',
        'auxiliary_head (auxiliary_head.weight must be (3, 2), got (5, 2)): keeps its initial weights',
    ]
    assert set(weights) == {'backbone.weight', 'backbone.bias'}, 'nothing else is taken out'
    check(runner, 'train', weights)
    assert runner.lines[2] == 'head (head.fc.weight is missing): keeps its initial weights'


@pytest.mark.parametrize('purpose', ['train', 'test'])
def test_heads_that_fit_are_left_alone(purpose, runner):
    weights = classifier().state_dict()
    check(runner, purpose, dict(state_dict=weights))
    assert not runner.lines and set(weights) == set(runner.model.state_dict())


@pytest.mark.parametrize(
    'weights, message',
    [
        (classifier(5).state_dict(), r'head.fc.weight must be \(3, 2\), got \(5, 2\)'),
        ({'backbone.weight': torch.ones(2, 2)}, 'head.fc.weight is missing'),
        ({}, 'must hold the weights of this model, got an empty dict'),
        (
            {f'conv{index}.weight': torch.ones(1) for index in range(4)},
            r'must hold the weights of this model, got conv0.weight, conv1.weight, conv2.weight \.\.\.',
        ),
    ],
)
def test_a_test_needs_the_weights_of_the_head(runner, weights, message):
    with pytest.raises(WeightsMismatch, match=message):
        check(runner, 'test', weights)


def test_a_test_does_not_need_an_auxiliary_head(runner):
    weights = {name: tensor for name, tensor in classifier().state_dict().items() if 'auxiliary' not in name}
    check(runner, 'test', dict(state_dict=weights))
    assert 'head.fc.weight' in weights
    with pytest.raises(WeightsMismatch, match='auxiliary_head.weight is missing'):
        check(runner, 'resume', dict(state_dict=weights, meta=dict(epoch=1, iter=2), message_hub={}, optimizer={}))


def test_a_run_resumes_from_a_run_s_checkpoint_only(runner):
    run = dict(state_dict=classifier().state_dict(), meta=dict(epoch=1, iter=2), message_hub={}, optimizer={})
    check(runner, 'resume', run)
    for missing in ('meta', 'message_hub', 'optimizer'):
        with pytest.raises(WeightsMismatch, match=f'without .*{missing}'):
            check(runner, 'resume', {key: value for key, value in run.items() if key != missing})


def test_mmpretrain_s_name_of_the_pre_training_head_is_known(runner):
    runner.model = nn.ModuleDict(dict(lm_head=nn.Linear(2, 4)))
    weights = {'head.cls_head.weight': torch.ones(4, 2), 'head.cls_head.bias': torch.ones(4)}
    check(runner, 'test', dict(state_dict=weights))
    assert len(weights) == 2


def test_an_unknown_purpose_is_refused():
    with pytest.raises(ValueError, match='train, resume, test'):
        CheckWeightsHook('strict')
