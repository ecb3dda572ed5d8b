"""Heads of another model: a training keeps its initial ones and says so, a test or a resumed run ends."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from beit_mm.engine import CheckWeightsHook
from beit_mm.models.weights import WeightsMismatch


def classifier(num_classes: int = 3) -> nn.Module:
    head, auxiliary = nn.ModuleDict(dict(fc=nn.Linear(2, num_classes))), nn.Linear(2, num_classes)
    return nn.ModuleDict(dict(backbone=nn.Linear(2, 2), head=head, auxiliary_head=auxiliary))


def check(purpose: str, checkpoint: dict, model: nn.Module | None = None) -> list[str]:
    """The warnings."""
    warnings = []
    runner = SimpleNamespace(model=model or classifier(), logger=SimpleNamespace(warning=warnings.append))
    CheckWeightsHook(purpose).after_load_checkpoint(runner, checkpoint)
    return warnings


def test_a_training_says_which_heads_keep_their_initial_weights():
    weights = classifier(5).state_dict()
    assert check('train', dict(state_dict=weights)) == [
        'head (head.fc.weight must be (3, 2), got (5, 2)): keeps its initial weights',
        'auxiliary_head (auxiliary_head.weight must be (3, 2), got (5, 2)): keeps its initial weights',
    ]
    assert set(weights) == {'backbone.weight', 'backbone.bias'}, 'nothing else is taken out'
    assert check('train', weights)[0] == 'head (head.fc.weight is missing): keeps its initial weights'
    weights = classifier().state_dict()
    for purpose in ('train', 'test'):
        assert check(purpose, dict(state_dict=weights)) == [] and weights.keys() == classifier().state_dict().keys()


@pytest.mark.parametrize(
    'weights, message',
    [
        (classifier(5).state_dict(), r'head.fc.weight must be \(3, 2\), got \(5, 2\)'),
        ({'backbone.weight': torch.ones(2, 2)}, 'head.fc.weight is missing'),
        ({}, 'must hold the weights of this model, got an empty dict'),
        ({f'conv{i}.weight': torch.ones(1) for i in range(4)}, r'got conv0.weight, conv1.weight, conv2.weight \.\.\.'),
    ],
)
def test_a_test_needs_the_weights_of_the_head(weights, message):
    with pytest.raises(WeightsMismatch, match=message):
        check('test', weights)


def test_a_resumed_run_needs_an_auxiliary_head_and_the_state_of_the_run_a_test_does_not():
    run = dict(state_dict=classifier().state_dict(), meta=dict(epoch=1, iter=2), message_hub={}, optimizer={})
    check('resume', run)
    for missing in ('meta', 'message_hub', 'optimizer'):
        with pytest.raises(WeightsMismatch, match=f'without .*{missing}'):
            check('resume', {key: value for key, value in run.items() if key != missing})
    run['state_dict'] = {name: tensor for name, tensor in run['state_dict'].items() if 'auxiliary' not in name}
    check('test', run)
    with pytest.raises(WeightsMismatch, match='auxiliary_head.weight is missing'):
        check('resume', run)
    with pytest.raises(ValueError, match='train, resume, test'):
        CheckWeightsHook('strict')


def test_the_host_has_another_name_for_the_pre_training_head():
    weights = {'head.cls_head.weight': torch.ones(4, 2), 'head.cls_head.bias': torch.ones(4)}
    check('test', dict(state_dict=weights), nn.ModuleDict(dict(lm_head=nn.Linear(2, 4))))
    assert len(weights) == 2
