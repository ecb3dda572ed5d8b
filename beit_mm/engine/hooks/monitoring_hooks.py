"""Hooks that watch a model in training: pictures of what it predicts, and k-nearest neighbours on its features."""

import math
import signal
from functools import partial

import torch
from mmengine.dataset import default_collate
from mmengine.dist import all_gather, get_dist_info, is_main_process
from mmengine.hooks import Hook
from torch import nn, Tensor
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from beit_mm.datasets.images import input_format, normalize
from beit_mm.errors import UserError
from beit_mm.evaluation.metrics import predict_by_neighbours, predict_by_regression, rank_me
from beit_mm.models.backbones.beit import BEiT
from beit_mm.models.inspection import evaluating, keeping_random_states, unwrap
from beit_mm.registry import DATASETS, HOOKS
from beit_mm.visualization.pictures import draw_pictures

from .report_hook import timed
from .stop_hook import ignore_signals_in_worker

SET_BY_HOOK = {'batch_sampler', 'collate_fn', 'drop_last', 'sampler', 'shuffle'}  # arguments of a loader
# Which outputs of a trunk hold these features.
OUT_TYPES = dict(mean=('raw', 'avg_featmap', 'featmap'), cls_token=('raw', 'cls_token'))


MIN_RANK = 2.0  # of features, in directions
MIN_PERPLEXITY = 1.5  # of tokens, in tokens
MAX_ACCURACY = 0.98  # of predicting masked tokens: then nearly all are the same
REMEDY = 'lower optim_wrapper.optimizer.lr, and look at the tokenizer by tools/analysis_tools/score_tokenizer.py'


def _require_positive(hook: Hook, **options: float) -> None:
    for name, value in options.items():
        if value <= 0:
            raise UserError(f'{type(hook).__name__}.{name} must be positive, got {value}')


@HOOKS.register_module()
class PicturesHook(Hook):
    """Draws the first images of the current batch and what the model makes of them, at an interval.

    Pictures and numbers go to every backend of the visualizer, such as TensorBoard and the folder `vis_image`, over the
    number of iterations done. `draw_pictures` decides what they show of each class of model.

    Training does not change, bit for bit. Only the main process draws; of a sharded model all processes compute.
    An error is a warning in the log, the first time with its traceback. Errors while drawing a sharded model end the
    training, as other processes may wait.

    Args:
        interval: iterations from one drawing to the next.
        num_images: number of images, at most those of a batch.

    Raises:
        UserError: If an option is not positive.
    """

    priority = 'LOW'

    def __init__(self, interval: int = 1000, num_images: int = 8):
        _require_positive(self, interval=interval, num_images=num_images)
        self.interval, self.num_images = interval, num_images
        self.has_failed = False

    def before_train(self, runner) -> None:
        model = unwrap(runner.model)
        self.all_compute = any(isinstance(parameter, DTensor) for parameter in model.parameters())  # in shards
        self.takes_part = is_main_process() or self.all_compute
        if draw_pictures.dispatch(type(model)) is draw_pictures.dispatch(object):
            self.takes_part = False
            runner.logger.info(f'PicturesHook: there are no pictures for {type(model).__name__}')

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if not self.takes_part or not self.every_n_train_iters(runner, self.interval):
            return
        model, step, pictures = unwrap(runner.model), runner.iter + 1, None
        try:
            with timed(runner, 'pictures'):
                with keeping_random_states(), torch.no_grad(), evaluating(model):
                    with torch.compiler.set_stance('force_eager'):  # another batch size would compile again
                        meta = runner.visualizer.dataset_meta or {}
                        pictures = draw_pictures(model, data_batch, self.num_images, meta)
                for name, image in pictures.images.items():
                    runner.visualizer.add_image(name, image, step)
                for tag, value in pictures.scalars.items():
                    runner.visualizer.add_scalar(tag, value, step)
        except Exception as error:
            if self.all_compute and pictures is None:
                raise
            message = f'PicturesHook: nothing drawn after {step} iterations: {error}'
            runner.logger.warning(message, exc_info=not self.has_failed)
            self.has_failed = True


@HOOKS.register_module()
class KNNHook(Hook):
    """Classifies some validation images by the trunk's features of training images, at an interval.

    `knn/top1`, by their nearest neighbours, and `linear/top1`, by ridge regression, in percent, go to the log and to
    TensorBoard, over the number of iterations done; so does `features/rank_me`, how many directions the features fill.
    A warning says when features have collapsed. Neighbours say little of small models. The model needs a
    `backbone` and a `data_preprocessor`. Processes share the work. Random states, modes and weights of the run do not
    change. Example::

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
        interval: epochs, or iterations if not by_epoch, between two evaluations; there is always one at the end.
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
        _require_positive(self, num_train=num_train, num_val=num_val, interval=interval, k=k, temperature=temperature)
        for name, loader in dict(train_dataloader=train_dataloader, val_dataloader=val_dataloader).items():
            if 'dataset' not in loader or SET_BY_HOOK & set(loader):
                none_of = ', '.join(sorted(SET_BY_HOOK))
                raise UserError(f'KNNHook.{name} must have a dataset and none of {none_of}, got {", ".join(loader)}')
        if features not in OUT_TYPES:
            raise UserError(f"KNNHook.features must be 'mean' or 'cls_token', got {features!r}")
        self.loaders = [(train_dataloader, num_train), (val_dataloader, num_val)]
        self.interval, self.by_epoch = interval, by_epoch
        self.features, self.output = features, output
        self.k, self.temperature = k, temperature

    def before_train(self, runner) -> None:
        self.prepare(unwrap(runner.model))

    def prepare(self, model: nn.Module) -> None:
        """List the images; UserError if they are too few or the trunk gives no such features."""
        out_type = getattr(getattr(model, 'backbone', None), 'out_type', None)
        if out_type not in OUT_TYPES[self.features]:
            raise UserError(
                f'KNNHook.features={self.features!r} needs a backbone whose out_type is one of '
                f'{", ".join(OUT_TYPES[self.features])}, got {out_type!r}'
            )
        self.sources = []  # arguments of two loaders, with indices at even distances as samplers
        for loader, number in self.loaders:
            with keeping_random_states():
                dataset = DATASETS.build(loader['dataset'])
            number = min(number, len(dataset))
            indices = [index * len(dataset) // number for index in range(number)]
            self.sources.append(dict(loader, dataset=dataset, sampler=indices))
        if (num_train := len(self.sources[0]['sampler'])) < self.k:
            raise UserError(f'KNNHook needs at least k={self.k} training images, got {num_train}')

    def after_train_epoch(self, runner) -> None:
        if self.by_epoch and (self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner)):
            self._classify(runner, runner.iter)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if not self.by_epoch and (self.every_n_train_iters(runner, self.interval) or self.is_last_train_iter(runner)):
            self._classify(runner, runner.iter + 1)

    def _classify(self, runner, step: int) -> None:
        """Classify the validation images, and log the share that is right."""
        with timed(runner, 'validation'):
            scores = self.scores(unwrap(runner.model))
        text = ', '.join(f'{name}: {score:.4f}' for name, score in scores.items())
        runner.logger.info(f'frozen features after {step} iterations: {text}')
        if scores['features/rank_me'] < MIN_RANK:
            runner.logger.warning(
                f'the features of all images are nearly the same after {step} iterations: RankMe is '
                f'{scores["features/rank_me"]:.2f}, expected at least {MIN_RANK}; {REMEDY}'
            )
        for name, score in scores.items():
            runner.visualizer.add_scalar(name, score, step)

    @torch.no_grad()
    def scores(self, model: nn.Module) -> dict[str, float]:
        """Shares of the validation images that are classified right, in percent, and RankMe of their features."""
        with keeping_random_states(), evaluating(model.backbone):
            train, (features, labels) = [self._extract(model, **source) for source in self.sources]
        predicted = {
            'knn/top1': predict_by_neighbours(features, *train, self.k, self.temperature),
            'linear/top1': predict_by_regression(features, *train),
        }
        scores = {name: 100 * (classes == labels).double().mean().item() for name, classes in predicted.items()}
        return {**scores, 'features/rank_me': rank_me(features)}

    def _extract(self, model: nn.Module, sampler: list[int], **loader) -> tuple[Tensor, Tensor]:
        """Features (N, C), of length 1, and labels (N,) of the chosen images; each process computes its share."""
        rank, world_size = get_dist_info()
        share = math.ceil(len(sampler) / world_size)  # of equal size: the last processes repeat the first images
        own = [sampler[index % len(sampler)] for index in range(rank, share * world_size, world_size)]
        worker_init = partial(ignore_signals_in_worker, [signal.SIGINT], None)
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


@HOOKS.register_module()
class CollapseHook(Hook):
    """Warns, once, when a tokenizer or a pre-training sees nearly one visual token alone.

    Looks at what is logged: `perplexity` of a tokenizer, `masked_token_accuracy` of a pre-training.

    Args:
        interval: iterations from one look to the next.
    """

    priority = 'LOW'

    def __init__(self, interval: int = 100):
        _require_positive(self, interval=interval)
        self.interval, self.has_warned = interval, False

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if self.has_warned or not self.every_n_train_iters(runner, self.interval):
            return
        perplexity, accuracy = (self._last(runner, name) for name in ('perplexity', 'masked_token_accuracy'))
        if perplexity is not None and perplexity < MIN_PERPLEXITY:
            found = f'perplexity is {perplexity:.2f}, expected at least {MIN_PERPLEXITY}'
        elif accuracy is not None and accuracy > MAX_ACCURACY:
            found = f'masked_token_accuracy is {accuracy:.3f}, expected at most {MAX_ACCURACY}'
        else:
            return
        self.has_warned = True
        runner.logger.warning(
            f'nearly all visual tokens are the same after {runner.iter + 1} iterations: {found}; {REMEDY}'
        )

    def _last(self, runner, name: str) -> float | None:
        scalars = runner.message_hub.log_scalars
        return scalars[f'train/{name}'].mean(self.interval) if f'train/{name}' in scalars else None
