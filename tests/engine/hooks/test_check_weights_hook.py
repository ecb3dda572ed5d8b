"""Heads of another model: a training leaves them as initialised and says so, a test or a resumed run ends."""

import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from beit_mm.engine import CheckWeightsHook
from beit_mm.models.weights import WeightsMismatch


class Classifier(nn.Module):
    def __init__(self, num_classes: int = 3):
        super().__init__()
        self.backbone = nn.Linear(2, 2)
        self.head = nn.Module()
        self.head.fc = nn.Linear(2, num_classes)
        self.auxiliary_head = nn.Linear(2, num_classes)


@pytest.fixture
def runner():
    lines = []
    logger = logging.Logger('run')
    logger.addHandler(logging.Handler())
    logger.handlers[0].emit = lambda record: lines.append(record.getMessage())
    return SimpleNamespace(model=Classifier(), logger=logger, lines=lines)


def test_a_training_says_that_a_head_for_other_classes_is_left_as_initialised(runner):
    weights = Classifier(5).state_dict()
    CheckWeightsHook().after_load_checkpoint(runner, dict(state_dict=weights))
    assert runner.lines == [
        'head (head.fc.weight must be (3, 2), got (5, 2)): keeps its initial weights',
        'auxiliary_head (auxiliary_head.weight must be (3, 2), got (5, 2)): keeps its initial weights',
    ]
    assert set(weights) == {'backbone.weight', 'backbone.bias'}, 'nothing else is taken out'


def test_a_training_says_that_a_head_is_missing(runner):
    CheckWeightsHook().after_load_checkpoint(runner, {'backbone.weight': torch.ones(2, 2)})
    assert runner.lines[0] == 'head (head.fc.weight is missing): keeps its initial weights'


def test_heads_that_fit_are_left_alone(runner):
    for purpose in ('train', 'test'):
        weights = Classifier().state_dict()
        CheckWeightsHook(purpose).after_load_checkpoint(runner, dict(state_dict=weights))
        assert not runner.lines and set(weights) == set(runner.model.state_dict())


@pytest.mark.parametrize(
    'weights, message',
    [
        (Classifier(5).state_dict(), r'head.fc.weight must be \(3, 2\), got \(5, 2\)'),
        (nn.ModuleDict(dict(backbone=nn.Linear(2, 2))).state_dict(), 'head.fc.weight is missing'),
    ],
)
def test_a_test_needs_the_head(runner, weights, message):
    with pytest.raises(WeightsMismatch, match=message):
        CheckWeightsHook('test').after_load_checkpoint(runner, dict(state_dict=weights))


@pytest.mark.parametrize(
    'weights, found',
    [
        ({}, 'an empty dict'),
        (
            {f'conv{index}.weight': torch.ones(1) for index in range(4)},
            r'conv0.weight, conv1.weight, conv2.weight \.\.\.',
        ),
    ],
)
def test_a_test_names_what_it_got_instead_of_this_model(runner, weights, found):
    with pytest.raises(WeightsMismatch, match=f'must hold the weights of this model, got {found}'):
        CheckWeightsHook('test').after_load_checkpoint(runner, weights)


def test_a_test_does_not_need_an_auxiliary_head(runner):
    weights = {name: tensor for name, tensor in Classifier().state_dict().items() if 'auxiliary' not in name}
    CheckWeightsHook('test').after_load_checkpoint(runner, dict(state_dict=weights))
    assert 'head.fc.weight' in weights


def test_a_run_resumes_from_a_run_s_checkpoint_only(runner):
    hook, weights = CheckWeightsHook('resume'), Classifier().state_dict()
    run = dict(state_dict=weights, meta=dict(epoch=1, iter=2), message_hub={}, optimizer={})
    hook.after_load_checkpoint(runner, run)
    for missing in ('meta', 'message_hub', 'optimizer'):
        with pytest.raises(WeightsMismatch, match=f'without .*{missing}'):
            hook.after_load_checkpoint(runner, {key: value for key, value in run.items() if key != missing})


def test_mmpretrain_s_name_of_the_pre_training_head_is_known(runner):
    runner.model = nn.ModuleDict(dict(lm_head=nn.Linear(2, 4)))
    weights = {'head.cls_head.weight': torch.ones(4, 2), 'head.cls_head.bias': torch.ones(4)}
    CheckWeightsHook('test').after_load_checkpoint(runner, dict(state_dict=weights))
    assert len(weights) == 2


def test_an_unknown_purpose_is_refused():
    with pytest.raises(ValueError, match='train, resume, test'):
        CheckWeightsHook('strict')
