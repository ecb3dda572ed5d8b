"""Metrics of the tokenizer and of masked pre-training."""

from collections.abc import Sequence

import torch
from mmengine.evaluator import BaseMetric

from beit_mm.errors import UserError
from beit_mm.models.tokenizers.discrete_vae import codebook_use
from beit_mm.registry import METRICS


@METRICS.register_module()
class MaskedTokenAccuracy(BaseMetric):
    """Share of masked patches whose visual token is predicted right, compared with always guessing the commonest token.

    Takes `predicted` and `target`, (k,) each, of every sample of MaskedImageModel.
    """

    default_prefix = 'masked_token'

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            self.results.append((sample['predicted'].cpu(), sample['target'].cpu()))

    def compute_metrics(self, results: list) -> dict:
        """`accuracy` and `most_frequent`, in percent, and the perplexity of the targets."""
        predicted = torch.cat([predicted for predicted, _ in results])
        target = torch.cat([target for _, target in results])
        counts = torch.bincount(target)
        return dict(
            accuracy=100 * (predicted == target).float().mean().item(),
            most_frequent=100 * counts.max().item() / len(target),
            target_perplexity=codebook_use(counts)['perplexity'].item(),
        )


@METRICS.register_module()
class TokenizerMetric(BaseMetric):
    """Quality of reconstruction and use of the codebook over a whole data set.

    Takes `tokens` (h, w) and `squared_error` of every sample of DiscreteVAE.

    Args:
        vocab_size: number of visual tokens.
    """

    default_prefix = 'tokenizer'

    def __init__(self, vocab_size: int, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size = vocab_size

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            self.results.append((sample['tokens'].flatten().to('cpu', torch.int32), sample['squared_error'].item()))

    def compute_metrics(self, results: list) -> dict:
        """`psnr` in dB of the mean squared error, `perplexity`, and `used_codes` in percent of the vocabulary."""
        tokens = torch.cat([tokens for tokens, _ in results])
        if int(tokens.max()) >= self.vocab_size:
            raise UserError(
                f'vocab_size of TokenizerMetric must be that of the tokenizer, got {self.vocab_size} and token '
                f'{int(tokens.max())}'
            )
        use = codebook_use(torch.bincount(tokens, minlength=self.vocab_size))
        error = sum(error for _, error in results) / len(results)
        return dict(
            psnr=-10 * torch.log10(torch.tensor(error)).item(),
            perplexity=use['perplexity'].item(),
            used_codes=100 * use['used_codes'].item(),
        )
