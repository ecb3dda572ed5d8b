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


def test_all_that_fits_is_left_in_whoever_wrote_it():
    """The host has another name for the pre-training head."""
    theirs = {'head.cls_head.weight': torch.ones(4, 2), 'head.cls_head.bias': torch.ones(4)}
    models = classifier(), nn.ModuleDict(dict(lm_head=nn.Linear(2, 4)))
    for model, weights in zip(models, (classifier().state_dict(), theirs)):
        names = list(weights)
        for purpose in ('train', 'test'):
            assert check(purpose, dict(state_dict=weights), model) == [] and list(weights) == names


RUN = dict(state_dict=classifier().state_dict(), meta=dict(epoch=1, iter=2), message_hub={}, optimizer={})
WITHOUT_AUXILIARY = {name: tensor for name, tensor in RUN['state_dict'].items() if 'auxiliary' not in name}


@pytest.mark.parametrize(
    'purpose, checkpoint, message',
    [
        ('test', classifier(5).state_dict(), r'head.fc.weight must be \(3, 2\), got \(5, 2\)'),
        ('test', {'backbone.weight': torch.ones(2, 2)}, 'head.fc.weight is missing'),
        (
            'test',
            {'head.fc.weight': torch.ones(3, 2).to(torch.float8_e5m2)},
            'fc.weight must .* got float8_e5m2, strided',
        ),
        ('test', {'head.fc.weight': torch.ones(3, 2, dtype=torch.int8)}, 'head.fc.weight must .* got int8, strided'),
        ('test', {}, 'must hold the weights of this model, got an empty dict'),
        ('test', {f'conv{i}.weight': torch.ones(1) for i in range(4)}, r'got conv0.weight, .*conv2.weight \.\.\.'),
        ('resume', dict(RUN, state_dict=WITHOUT_AUXILIARY), 'auxiliary_head.weight is missing'),
        *(
            ('resume', {key: value for key, value in RUN.items() if key != missing}, f'without .*{missing}')
            for missing in ('meta', 'message_hub', 'optimizer')
        ),
    ],
)
def test_a_test_needs_the_heads_and_a_resumed_run_all_of_the_run(purpose, checkpoint, message):
    with pytest.raises(WeightsMismatch, match=message):
        check(purpose, checkpoint)


def test_a_resumed_run_has_all_and_a_test_needs_no_auxiliary_head():
    check('resume', RUN)
    check('test', WITHOUT_AUXILIARY)
    with pytest.raises(ValueError, match='train, resume, test'):
        CheckWeightsHook('strict')
