"""Accuracy of linear probes."""

from collections.abc import Sequence

import torch
from mmengine.evaluator import BaseMetric

from beit_mm.registry import METRICS


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
