"""Metrics of the tokenizer, masked pre-training and linear probes."""

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


@METRICS.register_module()
class LinearProbeAccuracy(BaseMetric):
    """Top-1 accuracy of every probed block, and the best of them.

    Takes `block_labels` (num_blocks,), `probed_blocks` and `gt_label` of every sample of LinearProbe. Blocks count from
    0 as in `out_indices`; the paper counts from 1.
    """

    default_prefix = 'linear_probe'

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            correct = sample['block_labels'].cpu() == sample['gt_label'].cpu()
            self.results.append((tuple(sample['probed_blocks']), correct))

    def compute_metrics(self, results: list) -> dict:
        """`block_<index>` of every block and `best`, in percent, and `best_block`, the index of the best block.

        The index is a float, as MMEngine does not write integers into the file of scores.
        """
        blocks = results[0][0]
        accuracies = 100 * torch.stack([correct for _, correct in results]).double().mean(dim=0)
        best = int(accuracies.argmax())
        return dict(
            {f'block_{block}': accuracy.item() for block, accuracy in zip(blocks, accuracies)},
            best=accuracies[best].item(),
            best_block=float(blocks[best]),
        )
