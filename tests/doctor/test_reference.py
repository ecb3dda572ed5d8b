"""Reference numbers that the package carries: those of tests/reference, and changed ones are named."""

import numpy as np
import pytest
import torch
from write_reference import collect

from beit_mm.doctor import reference
from beit_mm.models import DiscreteVAE

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
    checks = reference.check_all(CPU, numbers)
    assert problems(checks) == [] and len(checks) == 9
    kept = {check.name: check.error for check in checks[-3:]}
    assert kept['tokens in float32'] == 1 and kept['tokens in bfloat16'] < kept['tokens in float16']
    assert reference.kept_dtypes(checks) == {'float32', 'float16'}


CHANGES = {
    'loss': ('loss', 'pre-training loss: is off by 0.1 %'),
    'a gradient': ('gradient/lm_head.bias', 'pre-training gradient of lm_head.bias: is off by'),
    'a weight': ('weight/blocks.1.mlp.fc1.weight', 'pre-training loss: is off by'),
    'logits': ('logits', 'fine-tuned logits: is off by 0.1 %'),
}


@pytest.mark.parametrize('name', CHANGES)
def test_a_changed_number_is_named(name, numbers):
    key, words = CHANGES[name]
    numbers[key] = numbers[key] * (1.5 if key.startswith('weight') else 1.001)
    found = problems(reference.check_all(CPU, numbers))
    assert found[0].startswith(words) and found[0].endswith(reference.MEND)


def test_numbers_that_are_not_finite_are_named():
    check = reference.compare('logits', torch.tensor([1.0, float('nan')]), torch.ones(2))
    assert str(check.problem).startswith('logits: has infinite or NaN numbers; ')


WRONG = {
    reference.TRAINING: (torch.arange(20) * 1e-3, '20 training steps: is off by 0.4'),  # such as a wrong weight decay
    reference.HALF: (torch.tensor(0.2), 'pre-training loss in bfloat16: is off by'),
    'segmentation logits': (torch.tensor(0.01), 'segmentation logits: is off by'),
}


@pytest.mark.parametrize('name', WRONG)
def test_results_that_differ_from_float64_are_named(name, numbers, monkeypatch):
    difference, words = WRONG[name]
    compute = reference.compute

    def wrong(device, numbers, dtype=torch.float32):
        results = compute(device, numbers, dtype)
        return {**results, name: results[name] + (difference if dtype == torch.float32 else 0)}

    monkeypatch.setattr(reference, 'compute', wrong)
    (problem,) = problems(reference.check_all(CPU, numbers))
    assert problem.startswith(words) and problem.endswith(reference.MEND)


def test_tokens_that_differ_are_named(monkeypatch):
    encode = DiscreteVAE.encode

    def wrong(self, images):
        tokens = encode(self, images)
        tokens[0, 0] += 1  # a row of the first of nine images
        return tokens

    monkeypatch.setattr(DiscreteVAE, 'encode', wrong)
    (problem,) = problems(reference.check_tokens(CPU))
    assert problem.startswith("tokens in float32: the tokenizer keeps 99.07 % of float64's tokens")
