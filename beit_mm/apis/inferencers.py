"""Classes, label maps and features of images."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from mmcv.transforms import LoadAnnotations, LoadImageFromFile
from mmengine.dataset import Compose, default_collate, pseudo_collate
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope, TRANSFORMS
from mmpretrain.datasets import CenterCrop, ResizeEdge
from mmpretrain.models import BaseClassifier
from mmseg.models import BaseSegmentor
from torch import Tensor

from beit_mm.config.parts import innermost_dataset
from beit_mm.datasets import PackInputs
from beit_mm.datasets.images import input_format, normalize
from beit_mm.errors import UserError
from beit_mm.models import BEiT
from beit_mm.models.backbones.beit import POOLINGS, resolve_blocks

from .inferencer import Inferencer
from .models import Model

Blocks = int | Sequence[int]
Prepare = Callable[[np.ndarray, str], dict]


class ClassificationInferencer(Inferencer):
    """Classifies images exactly as the model's config evaluates them.

    A result has `image`, the image's name; MMPretrain's keys `pred_scores`, float32 (num_classes,) with sum 1, and
    `pred_label`, `pred_score` and `pred_class` of the best class; `top_labels`, `top_scores` and `top_classes`, lists
    of the best top_k classes, the best first. A class without a name is None.

    Args:
        model, weights, **loading: see Inferencer; the model must be a classifier.
        top_k: number of classes in the lists; all if there are fewer.
    """

    def __init__(self, model: Model, weights: str | None = None, top_k: int = 5, **loading):
        if top_k < 1:
            raise UserError(f'top_k must be at least 1, got {top_k}')
        super().__init__(model, weights, **loading)
        if not isinstance(self.model, BaseClassifier):
            raise UserError(f'classify needs a model that classifies, got {type(self.model).__name__}')
        self.prepare = evaluation_pipeline(self.model)
        self.classes = class_names(self.model)
        self.top_k = top_k

    def compute(self, samples: list[dict]) -> list[dict]:
        results = []
        for sample in self.model.test_step(default_collate(samples)):
            pred_scores = sample.pred_score.float().cpu()
            scores, labels = (part.tolist() for part in pred_scores.topk(min(self.top_k, len(pred_scores))))
            classes = [self.classes[label] if self.classes else None for label in labels]
            result = dict(pred_scores=pred_scores.numpy(), pred_label=labels[0], pred_score=scores[0])
            result.update(pred_class=classes[0], top_labels=labels, top_scores=scores, top_classes=classes)
            results.append(result)
        return results


class SegmentationInferencer(Inferencer):
    """Predicts a class for every pixel of images exactly as the model's config evaluates them.

    A result has `image`, the image's name; `labels`, (H, W) of the image's own size, uint8, or uint16 for more than 256
    classes; and `classes`, the names of the labels from 0, or None. A batch holds neighbors of one size after resizing.

    Args:
        model, weights, **loading: see Inferencer; the model must be a segmentor.
    """

    batch_size = 1  # the windows of one image fill a GPU
    keeps_pixels = True

    def __init__(self, model: Model, weights: str | None = None, **loading):
        super().__init__(model, weights, **loading)
        if not isinstance(self.model, BaseSegmentor):
            raise UserError(f'segment needs a model that segments, got {type(self.model).__name__}')
        self.prepare = evaluation_pipeline(self.model)
        self.classes = class_names(self.model)
        self.dtype = np.uint8 if getattr(self.model, 'num_classes', 257) <= 256 else np.uint16

    def compute(self, samples: list[dict]) -> list[dict]:
        predicted = self.model.test_step(pseudo_collate(samples))
        maps = [sample.pred_sem_seg.data[0].cpu().numpy().astype(self.dtype) for sample in predicted]
        return [dict(labels=labels, classes=self.classes) for labels in maps]


class FeatureInferencer(Inferencer):
    """Extracts features of images from the trunk of any model.

    The trunk's last norm is applied to the last block: `norm` after pre-training, to every token; `fc_norm` after
    fine-tuning, to the mean only, which is then what the classifier's head gets. A segmentor has no last norm. Inner
    blocks of a pre-trained trunk separate classes better (arXiv 2106.08254, appendix D).

    A classifier sees the images as its config evaluates them. Other models see them as in ImageNet's evaluation, with
    the short edge 256 / 224 of the trunk's side, then cropped. No patch is masked.

    A result has `image`, the image's name, and `features`, float32 (C,), or (h, w, C) for 'patches'. A list of blocks
    adds a dimension in front.

    Args:
        model, weights, **loading: see Inferencer; the weights may hold the trunk alone.
        kind: 'mean' of the patch tokens, 'cls_token', or 'patches', all patch tokens.
        blocks: a block, counted from 0 or back from -1, or a list of blocks.
    """

    def __init__(self, model: Model, weights: str | None = None, kind: str = 'mean', blocks: Blocks = -1, **loading):
        if kind not in POOLINGS:
            raise UserError(f'kind must be one of {", ".join(POOLINGS)}, got {kind!r}')
        super().__init__(model, weights, trunk_only=True, **loading)
        self.trunk = getattr(self.model, 'backbone', None)
        if not isinstance(self.trunk, BEiT):
            raise UserError(f'extract_features needs a model whose trunk is BEiT, got {type(self.model).__name__}')
        is_classifier = isinstance(self.model, BaseClassifier)
        self.prepare = evaluation_pipeline(self.model) if is_classifier else _imagenet_evaluation(self.trunk)
        self.kind = kind
        self.is_stacked = not isinstance(blocks, int)
        self.blocks = resolve_blocks(blocks, len(self.trunk.blocks))

    def compute(self, samples: list[dict]) -> list[dict]:
        inputs = torch.stack([sample['inputs'] for sample in samples]).to(self.trunk.cls_token.device)
        tokens, grid = self.trunk.read_blocks(normalize(inputs, input_format(self.model)), self.blocks)
        features = torch.stack([self._pool(*block, grid) for block in zip(self.blocks, tokens)], dim=1)
        return [dict(features=array if self.is_stacked else array[0]) for array in features.float().cpu().numpy()]

    def _pool(self, block: int, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Features of a block from its tokens, with the trunk's last norm if it is the last block."""
        trunk, is_last = self.trunk, block == len(self.trunk.blocks) - 1
        features = trunk.pool(trunk.norm(tokens) if is_last and hasattr(trunk, 'norm') else tokens, self.kind)
        if self.kind == 'mean' and is_last and hasattr(trunk, 'fc_norm'):
            return trunk.fc_norm(features)
        return features.unflatten(1, grid) if self.kind == 'patches' else features


def class_names(model: torch.nn.Module) -> Sequence[str] | None:
    return (getattr(model, 'dataset_meta', None) or {}).get('classes')


def evaluation_pipeline(model: BaseModel) -> Prepare:
    """The steps with which the model's config tests, except those that load, so that inference equals evaluation.

    Raises:
        UserError: If the model has no config that tests, or its data set has no pipeline.
    """
    cfg = getattr(model, 'cfg', None) or getattr(model, '_config', None) or {}  # ours, or MMPretrain's get_model
    pipeline = (innermost_dataset(cfg.get('test_dataloader') or cfg.get('val_dataloader')) or {}).get('pipeline')
    if pipeline is None:
        raise UserError(
            f'a model must have a config as `cfg`, which load_model gives it, that tests on a dataset with a pipeline, '
            f'got {type(model).__name__} without'
        )
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
        steps = [TRANSFORMS.build(step) for step in pipeline]
    return _to_prepare([step for step in steps if not isinstance(step, (LoadImageFromFile, LoadAnnotations))])


def _imagenet_evaluation(trunk: BEiT) -> Prepare:
    """ImageNet's evaluation at the size of a trunk: resized bicubically, then the center."""
    size = tuple(side * trunk.patch_embed.patch_size for side in trunk.grid)
    resize = ResizeEdge(round(max(size) * 256 / 224), edge='short', backend='pillow', interpolation='bicubic')
    return _to_prepare([resize, CenterCrop(size[::-1]), PackInputs()])


def _to_prepare(steps: list) -> Prepare:
    compose = Compose(steps)
    return lambda image, name: compose(
        dict(img=image, img_path=name, img_shape=image.shape[:2], ori_shape=image.shape[:2])
    )
