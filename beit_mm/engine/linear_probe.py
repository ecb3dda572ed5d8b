"""What training and evaluating linear probes needs beside the model."""
from typing import List, Optional, Sequence

import torch
from mmengine.evaluator import BaseMetric
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from ..registry import METRICS, OPTIM_WRAPPER_CONSTRUCTORS


@METRICS.register_module()
class LinearProbeAccuracy(BaseMetric):
    """Top-1 accuracy of every probed block, and the best of them.

    Takes `block_labels` (num_blocks,), `probed_blocks` and `gt_label` from every sample of LinearProbe. Blocks are
    counted from 0 as in `out_indices`; the paper counts from 1.
    """

    default_prefix = 'linear_probe'

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            correct = sample['block_labels'].cpu() == sample['gt_label'].cpu()
            self.results.append((tuple(sample['probed_blocks']), correct))

    def compute_metrics(self, results: list) -> dict:
        """`block_<index>` of every block and `best`, in percent, and `best_block`, an index, as a float: MMEngine
        writes no whole numbers into the score file."""
        blocks = results[0][0]
        accuracies = 100 * torch.stack([correct for _, correct in results]).double().mean(dim=0)
        best = int(accuracies.argmax())
        return dict({f'block_{block}': accuracy.item() for block, accuracy in zip(blocks, accuracies)},
                    best=accuracies[best].item(), best_block=float(blocks[best]))


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TrainableOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """One parameter group of all parameters that require a gradient, biases decayed like weights (BEiT release,
    `run_linear_eval.py`).

    MMEngine's puts frozen parameters into the optimiser too, or warns of every one that it leaves out.

    Args:
        optim_wrapper_cfg: MMEngine's.
        paramwise_cfg: none.

    Raises:
        ValueError: If paramwise_cfg is given, or nothing requires a gradient.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: Optional[dict] = None):
        if paramwise_cfg:
            raise ValueError(f'TrainableOptimWrapperConstructor takes no paramwise_cfg, got {paramwise_cfg}')
        # MMEngine's asks add_params only where there are options.
        super().__init__(optim_wrapper_cfg, dict(trainable=True))

    def add_params(self, params: List[dict], module: nn.Module, **kwargs) -> None:
        """Append the group of a whole model."""
        trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if not trainable:
            raise ValueError(f'{type(module).__name__} must have a parameter that requires a gradient, got none')
        params.append(dict(params=trainable))
