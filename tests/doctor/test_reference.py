"""Reference numbers that the package carries: those of tests/reference, and changed ones are named."""

import numpy as np
import pytest
import torch
from write_reference import collect

from beit_mm.doctor import reference

CPU = torch.device('cpu')


@pytest.fixture
def numbers() -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in reference.read_numbers().items()}


def problems(checks) -> list[str]:
    return [str(check.problem) for check in checks if check.problem]


def test_the_file_has_the_numbers_of_the_release(numbers):
    expected = collect()
    assert set(numbers) == set(expected)
    for name, array in expected.items():
        assert np.array_equal(numbers[name].numpy(), array), name


def test_all_are_right_here(numbers):
    checks = [
        *reference.check_pretraining(CPU, numbers),
        *reference.check_steps(CPU, numbers),
        *reference.check_classifier(CPU, numbers),
        *reference.check_segmentor(CPU),
        *reference.check_tokens(CPU),
    ]
    assert problems(checks) == [] and len(checks) == 9
    kept = {check.name: check.error for check in checks[-3:]}
    assert kept['tokens in float32'] == 1 and kept['tokens in bfloat16'] < kept['tokens in float16']


CHANGES = {
    'loss': ('check_pretraining', 'loss', 'pre-training loss: is off by 0.1 %'),
    'a gradient': ('check_pretraining', 'gradient/lm_head.bias', 'pre-training gradient of lm_head.bias: is off by'),
    'a weight': ('check_pretraining', 'weight/blocks.1.mlp.fc1.weight', 'pre-training loss: is off by'),
    'logits': ('check_classifier', 'logits', 'fine-tuned logits: is off by 0.1 %'),
}


@pytest.mark.parametrize('name', CHANGES)
def test_a_changed_number_is_named(name, numbers):
    function, key, words = CHANGES[name]
    numbers[key] = numbers[key] * (1.5 if key.startswith('weight') else 1.001)
    found = problems(getattr(reference, function)(CPU, numbers))
    assert found[0].startswith(words) and found[0].endswith(reference.MEND)


def test_numbers_that_are_not_finite_are_named():
    check = reference.compare('logits', torch.tensor([1.0, float('nan')]), torch.ones(2))
    assert str(check.problem).startswith('logits: has infinite or NaN numbers; ')


def test_steps_that_differ_are_named(numbers):
    def steps(device, numbers, dtype):
        losses = torch.linspace(4, 3, 20, dtype=dtype)
        return losses if dtype == torch.float64 else losses + torch.arange(20) * 1e-3  # such as a wrong weight decay

    (problem,) = problems(reference.check_steps(CPU, numbers, steps))
    assert problem.startswith('20 training steps: is off by 0.48 %')


def test_tokens_that_differ_are_named():
    def encode(model, images):
        tokens = model.encode(images)
        tokens[0, 0] += 1  # a row of the first of nine images
        return tokens

    (problem,) = problems(reference.check_tokens(CPU, encode))
    assert problem.startswith("tokens in float32: the tokenizer keeps 99.07 % of float64's tokens")
