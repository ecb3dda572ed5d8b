"""k-nearest neighbours on the features of the trunk while it trains: a quick look without training anything."""

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

from beit_mm.engine.runners.random_states import untouched_random_states
from beit_mm.engine.runners.stopwatch import timed
from beit_mm.engine.runners.unwrapping import unwrap
from beit_mm.models.backbones.beit import BEiT
from beit_mm.models.evaluating import evaluating
from beit_mm.registry import DATASETS, HOOKS

from .stop_hook import outlive_signals

# Similarities held at once: 64 MiB in float32.
MAX_SIMILARITIES = 2**24
# What the hook decides of a loader.
OWN_LOADING = {'batch_sampler', 'collate_fn', 'drop_last', 'sampler', 'shuffle'}
# What a trunk may give for each kind of features.
OUT_TYPES = dict(mean=('raw', 'avg_featmap', 'featmap'), cls_token=('raw', 'cls_token'))


@HOOKS.register_module()
class KNNHook(Hook):
    """Classifies a few validation images by their nearest training images in the trunk's features, at an interval.

    `knn/top1`, in percent, goes to the log and to TensorBoard, over the number of iterations done. It works on any
    model with a `backbone` and a `data_preprocessor` with `mean`, `std` and `to_rgb`, such as MaskedImageModel and
    ImageClassifier, and on any number of processes. The run is left as it was: random states, modes, weights.

    In a pre-training config (data sets and pipeline as in fine-tuning's evaluation):

        imagenet = dict(
            type='ImageNet',
            data_root='data/imagenet',
            pipeline=[
                dict(type='beit_mm.LoadImage'),
                dict(type='ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bicubic'),
                dict(type='CenterCrop', crop_size=224),
                dict(type='PackInputs')
            ])
        custom_hooks = [
            dict(
                type='beit_mm.KNNHook',
                interval=10,
                train_dataloader=dict(batch_size=64, num_workers=4, dataset=dict(**imagenet, split='train')),
                val_dataloader=dict(batch_size=64, num_workers=4, dataset=dict(**imagenet, split='val')))
        ]

    The features are those of the last entry of the trunk's `out_indices`, unless `output` chooses another: inner blocks
    of a pre-trained BEiT separate classes better (arXiv 2106.08254, appendix D), for example the ninth:
    `model.backbone.out_indices=[8, 11]` and `output=0`.

    Args:
        train_dataloader, val_dataloader: `dataset`, whose pipeline ends in PackInputs with images of one size, and
            PyTorch's `batch_size`, `num_workers` and the like; no sampler, as the hook chooses the images.
        num_train, num_val: images taken from each, evenly spaced, as data sets list class after class.
        interval: epochs, or iterations if not by_epoch, from one look to the next; the last is always looked at.
        by_epoch: what interval counts.
        features: 'mean' of the patch tokens or 'cls_token'.
        output: which of the trunk's outputs.
        k, temperature: see predict_by_neighbours.

    Raises:
        ValueError: If an option is out of range, there are fewer training images than k, or the trunk does not give
            these features (before the first step).
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
                raise ValueError(f'KNNHook.{name} must be at least 1, got {value}')
        for name, loader in dict(train_dataloader=train_dataloader, val_dataloader=val_dataloader).items():
            if 'dataset' not in loader or OWN_LOADING & set(loader):
                raise ValueError(
                    f'KNNHook.{name} must have a dataset and none of {", ".join(sorted(OWN_LOADING))}, '
                    f'got {", ".join(loader)}'
                )
        if features not in OUT_TYPES:
            raise ValueError(f"KNNHook.features must be 'mean' or 'cls_token', got {features!r}")
        if temperature <= 0:
            raise ValueError(f'KNNHook.temperature must be positive, got {temperature}')
        self.loaders = [(train_dataloader, num_train), (val_dataloader, num_val)]
        self.interval = interval
        self.by_epoch = by_epoch
        self.features = features
        self.output = output
        self.k = k
        self.temperature = temperature

    def before_train(self, runner) -> None:
        model = unwrap(runner.model)
        out_type = getattr(getattr(model, 'backbone', None), 'out_type', None)
        if out_type not in OUT_TYPES[self.features]:
            raise ValueError(
                f'KNNHook.features={self.features!r} needs a backbone whose out_type is one of '
                f'{", ".join(OUT_TYPES[self.features])}, got {out_type!r}'
            )
        missing = [name for name in ('mean', 'std', 'to_rgb') if not hasattr(model.data_preprocessor, name)]
        if missing:
            raise ValueError(
                f'KNNHook needs a data_preprocessor with mean, std and to_rgb, got '
                f'{type(model.data_preprocessor).__name__} without {", ".join(missing)}'
            )
        with untouched_random_states():
            self.loading = [choose_images(loader, number) for loader, number in self.loaders]
        num_train = len(self.loading[0]['sampler'])
        if num_train < self.k:
            raise ValueError(f'KNNHook needs at least k={self.k} training images, got {num_train}')

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
        """Share of the validation images classified right, in percent; every process has the same."""
        with untouched_random_states(), evaluating(model.backbone):
            (train_features, train_labels), (features, labels) = [
                self._extract(model, **loading) for loading in self.loading
            ]
        predicted = predict_by_neighbours(features, train_features, train_labels, self.k, self.temperature)
        return 100 * (predicted == labels).double().mean().item()

    def _extract(self, model: nn.Module, sampler: list[int], **loading) -> tuple[Tensor, Tensor]:
        """Features (N, C), of length 1, and labels (N,) of N images; each process computes its share."""
        rank, world_size = get_dist_info()
        share = math.ceil(len(sampler) / world_size)  # the last ones begin again with the first
        own = [sampler[place % len(sampler)] for place in range(rank, share * world_size, world_size)]
        preprocessor = model.data_preprocessor
        features, labels = [], []
        protected = partial(outlive_signals, [signal.SIGTERM], None)
        for batch in DataLoader(sampler=own, collate_fn=default_collate, worker_init_fn=protected, **loading):
            images = batch['inputs'].to(preprocessor.mean.device)
            images = images.flip(1) if preprocessor.to_rgb else images
            images = (images.float() - preprocessor.mean) / preprocessor.std
            features.append(F.normalize(pool(model.backbone(images)[self.output], self.features).float(), dim=1))
            labels += [int(sample.gt_label) for sample in batch['data_samples']]
        features = torch.cat(features)
        # From every process its share, back into the order of the sampler.
        return tuple(
            torch.stack(all_gather(part.contiguous()), dim=1).flatten(0, 1)[: len(sampler)]
            for part in (features, torch.tensor(labels, device=features.device))
        )


def predict_by_neighbours(
    features: Tensor, train_features: Tensor, train_labels: Tensor, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """Classes by weighted nearest neighbours (arXiv 1805.01978, section 3.4; k = 20 is DINO's, arXiv 2104.14294).

    Each of the k nearest training images votes for its class with weight exp(cosine similarity / temperature).

    Args:
        features: (N, C), each of length 1.
        train_features: (M, C), each of length 1.
        train_labels: int64 (M,).
        k: number of neighbours, at most M.
        temperature: of the weights.

    Returns:
        int64 (N,).
    """
    predicted = []
    for part in features.split(max(1, MAX_SIMILARITIES // len(train_features))):
        similarities, neighbours = (part @ train_features.t()).topk(k, dim=1)
        votes = similarities.new_zeros(len(part), int(train_labels.max()) + 1)
        # Less the largest similarity, as in a softmax, so that no temperature overflows.
        weights = ((similarities - similarities[:, :1]) / temperature).exp()
        votes.scatter_add_(1, train_labels[neighbours], weights)
        predicted.append(votes.argmax(dim=1))
    return torch.cat(predicted)


def pool(output: Tensor, features: str) -> Tensor:
    """Features (B, C) from what a trunk gives: tokens (B, 1 + h * w, C), a map (B, C, h, w), or features."""
    if output.ndim == 4:
        return output.flatten(2).mean(dim=2)
    if output.ndim == 3:
        return BEiT.pool(output, features)
    return output


def choose_images(loader: dict, number: int) -> dict:
    """A loader's config with its data set built and the indices of at most so many images of it as sampler."""
    dataset = DATASETS.build(loader['dataset'])
    return dict(loader, dataset=dataset, sampler=evenly_spaced(len(dataset), number))


def evenly_spaced(total: int, number: int) -> list[int]:
    """At most so many indices below the total, evenly spaced."""
    number = min(number, total)
    return [place * total // number for place in range(number)]
