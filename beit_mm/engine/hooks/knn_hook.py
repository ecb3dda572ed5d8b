"""k-nearest neighbours on the features of the trunk while it trains: a quick look without training a head."""

import math
import signal
from functools import partial

import torch
from mmengine.dataset import default_collate
from mmengine.dist import all_gather, get_dist_info
from mmengine.hooks import Hook
from torch import nn, Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from beit_mm.datasets.images import input_format, normalize
from beit_mm.engine.runners.stopwatch import timed
from beit_mm.errors import UserError
from beit_mm.evaluation.metrics import predict_by_neighbours
from beit_mm.models.backbones.beit import BEiT
from beit_mm.models.inspection import evaluating, keeping_random_states, unwrap
from beit_mm.registry import DATASETS, HOOKS

from .stop_hook import ignore_signals_in_worker

RESERVED = {'batch_sampler', 'collate_fn', 'drop_last', 'sampler', 'shuffle'}  # arguments that the hook sets
# Which outputs of a trunk hold these features.
OUT_TYPES = dict(mean=('raw', 'avg_featmap', 'featmap'), cls_token=('raw', 'cls_token'))


@HOOKS.register_module()
class KNNHook(Hook):
    """Classifies some validation images by their nearest training images in the trunk's features, at an interval.

    `knn/top1`, in percent, goes to the log and to TensorBoard, over the number of iterations done. The model needs a
    `backbone` and a `data_preprocessor`. Processes share the work. Random states, modes and weights of the run do not
    change. Example:

        loader = dict(batch_size=64, num_workers=4)
        imagenet = dict(type='ImageNet', data_root='data/imagenet', pipeline=test_pipeline)
        dict(
            type='beit_mm.KNNHook',
            train_dataloader=dict(**loader, dataset=dict(**imagenet, split='train')),
            val_dataloader=dict(**loader, dataset=dict(**imagenet, split='val')))

    Inner blocks of a pre-trained BEiT separate classes better than the last (arXiv 2106.08254, appendix D). For the
    ninth set `model.backbone.out_indices=[8, 11]` and `output=0`.

    Args:
        train_dataloader, val_dataloader: `dataset`, whose pipeline ends in PackInputs with images of one size, and
            PyTorch's `batch_size`, `num_workers` and the like. The hook chooses the images, so there is no sampler.
        num_train, num_val: number of images of each, taken at even distances, as data sets are ordered by class.
        interval: epochs, or iterations if not by_epoch, between two looks; there is always a look at the end.
        by_epoch: whether interval counts epochs.
        features: 'mean' of the patch tokens or 'cls_token'.
        output: index among the outputs of the trunk.
        k, temperature: as in predict_by_neighbours.

    Raises:
        UserError: If an option is out of range, or, before the first step, if there are fewer training images than k
            or the trunk does not compute these features.
    """

    priority = 'LOW'

    def __init__(
        self,
        train_dataloader: dict,
        val_dataloader: dict,
        num_train: int = 10000,
        num_val: int = 2000,
        interval: int = 1,
        by_epoch: bool = True,
        features: str = 'mean',
        output: int = -1,
        k: int = 20,
        temperature: float = 0.07,
    ):
        for name, value in dict(num_train=num_train, num_val=num_val, interval=interval, k=k).items():
            if value < 1:
                raise UserError(f'KNNHook.{name} must be at least 1, got {value}')
        for name, loader in dict(train_dataloader=train_dataloader, val_dataloader=val_dataloader).items():
            if 'dataset' not in loader or RESERVED & set(loader):
                none_of = ', '.join(sorted(RESERVED))
                raise UserError(f'KNNHook.{name} must have a dataset and none of {none_of}, got {", ".join(loader)}')
        if features not in OUT_TYPES:
            raise UserError(f"KNNHook.features must be 'mean' or 'cls_token', got {features!r}")
        if temperature <= 0:
            raise UserError(f'KNNHook.temperature must be positive, got {temperature}')
        self.loaders = [(train_dataloader, num_train), (val_dataloader, num_val)]
        self.interval, self.by_epoch = interval, by_epoch
        self.features, self.output = features, output
        self.k, self.temperature = k, temperature

    def before_train(self, runner) -> None:
        model = unwrap(runner.model)
        out_type = getattr(getattr(model, 'backbone', None), 'out_type', None)
        if out_type not in OUT_TYPES[self.features]:
            raise UserError(
                f'KNNHook.features={self.features!r} needs a backbone whose out_type is one of '
                f'{", ".join(OUT_TYPES[self.features])}, got {out_type!r}'
            )
        with keeping_random_states():
            self.sources = [_choose_images(loader, number) for loader, number in self.loaders]
        num_train = len(self.sources[0]['sampler'])
        if num_train < self.k:
            raise UserError(f'KNNHook needs at least k={self.k} training images, got {num_train}')

    def after_train_epoch(self, runner) -> None:
        if self.by_epoch and (self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner)):
            self._look(runner, runner.iter)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if not self.by_epoch and (self.every_n_train_iters(runner, self.interval) or self.is_last_train_iter(runner)):
            self._look(runner, runner.iter + 1)

    def _look(self, runner, step: int) -> None:
        with timed(runner, 'validation'):
            top1 = self.top1(unwrap(runner.model))
        runner.logger.info(f'k-NN on frozen features after {step} iterations: knn/top1: {top1:.4f}')
        runner.visualizer.add_scalar('knn/top1', top1, step)

    @torch.no_grad()
    def top1(self, model: nn.Module) -> float:
        """Share of the validation images that are classified right, in percent, the same in every process."""
        with keeping_random_states(), evaluating(model.backbone):
            train, (features, labels) = [self._extract(model, **source) for source in self.sources]
        predicted = predict_by_neighbours(features, *train, self.k, self.temperature)
        return 100 * (predicted == labels).double().mean().item()

    def _extract(self, model: nn.Module, sampler: list[int], **loader) -> tuple[Tensor, Tensor]:
        """Features (N, C), of length 1, and labels (N,) of the chosen images; each process computes its share."""
        rank, world_size = get_dist_info()
        share = math.ceil(len(sampler) / world_size)  # of equal size: the last processes repeat the first images
        own = [sampler[index % len(sampler)] for index in range(rank, share * world_size, world_size)]
        worker_init = partial(ignore_signals_in_worker, [signal.SIGTERM], None)
        colors, device = input_format(model), next(model.parameters()).device
        features, labels = [], []
        for batch in DataLoader(sampler=own, collate_fn=default_collate, worker_init_fn=worker_init, **loader):
            output = model.backbone(normalize(batch['inputs'].to(device), colors))[self.output]
            if output.ndim == 4:  # a map (B, C, h, w)
                output = output.flatten(2).mean(dim=2)
            elif output.ndim == 3:  # tokens (B, 1 + N, C)
                output = BEiT.pool(output, self.features)
            features.append(F.normalize(output.float(), dim=1))
            labels += [int(sample.gt_label) for sample in batch['data_samples']]
        shares = torch.cat(features), torch.tensor(labels, device=device)
        # Back in the order of the sampler.
        return tuple(torch.stack(all_gather(part), dim=1).flatten(0, 1)[: len(sampler)] for part in shares)


def _choose_images(loader: dict, number: int) -> dict:
    """The arguments of a loader, with its data set built, and indices at even distances as its sampler."""
    dataset = DATASETS.build(loader['dataset'])
    number = min(number, len(dataset))
    return dict(loader, dataset=dataset, sampler=[index * len(dataset) // number for index in range(number)])
