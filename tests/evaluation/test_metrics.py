"""Metrics of the tokenizer and of pre-training."""

import math

import pytest
import torch
from mmengine.registry import METRICS


def test_masked_token_accuracy_counts_patches_of_all_images_together():
    metric = METRICS.build(dict(type='beit_mm.MaskedTokenAccuracy'))
    samples = [
        dict(predicted=torch.tensor([3, 1, 1]), target=torch.tensor([3, 1, 0])),
        dict(predicted=torch.tensor([1]), target=torch.tensor([1])),
        dict(predicted=torch.tensor([2, 2, 2, 2]), target=torch.tensor([1, 1, 0, 3])),
    ]
    metric.process({}, samples[:1])
    metric.process({}, samples[1:])
    shares = [2 / 8, 4 / 8, 2 / 8]
    perplexity = math.exp(-sum(share * math.log(share) for share in shares))
    assert metric.evaluate(size=3) == pytest.approx(
        {
            'masked_token/accuracy': 100 * 3 / 8,
            'masked_token/most_frequent': 100 * 4 / 8,
            'masked_token/target_perplexity': perplexity,
        }
    )


def test_tokenizer_metric_averages_errors_and_joins_the_codes_of_all_images():
    metric = METRICS.build(dict(type='beit_mm.TokenizerMetric', vocab_size=8))
    metric.process({}, [dict(tokens=torch.tensor([[0, 0], [1, 2]]), squared_error=torch.tensor(0.03))])
    metric.process({}, [dict(tokens=torch.tensor([[0, 0], [1, 1]]), squared_error=torch.tensor(0.01))])
    shares = [4 / 8, 3 / 8, 1 / 8]
    assert metric.evaluate(size=2) == pytest.approx(
        {
            'tokenizer/psnr': 10 * math.log10(1 / 0.02),
            'tokenizer/used_codes': 100 * 3 / 8,
            'tokenizer/perplexity': math.exp(-sum(share * math.log(share) for share in shares)),
        },
        rel=1e-5,
    )


def test_samples_repeated_to_fill_the_last_batch_do_not_count():
    metric = METRICS.build(dict(type='beit_mm.MaskedTokenAccuracy'))
    right, wrong = (dict(predicted=torch.tensor([1]), target=torch.tensor([target])) for target in (1, 0))
    metric.process({}, [right, wrong, wrong])
    assert metric.evaluate(size=2)['masked_token/accuracy'] == 50
