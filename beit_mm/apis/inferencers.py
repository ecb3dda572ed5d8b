"""Classes, label maps and features of images."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from mmcv.transforms import LoadAnnotations, LoadImageFromFile
from mmengine.dataset import Compose, default_collate, pseudo_collate
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope, TRANSFORMS
from mmpretrain.datasets import CenterCrop
from mmpretrain.models import BaseClassifier
from mmseg.models import BaseSegmentor
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from beit_mm.config.parts import innermost_dataset
from beit_mm.datasets import PackInputs, ResizeEdge
from beit_mm.datasets.images import input_format, normalize, resize_image
from beit_mm.errors import UserError
from beit_mm.models import BEiT
from beit_mm.models.backbones.beit import POOLINGS, resolve_blocks
from beit_mm.models.inspection import unwrap

from .inferencer import Inferencer
from .models import Model

MAX_LOGITS = 2**28  # of an image at its own size, in memory at once: 1 GiB
Blocks = int | Sequence[int]
Prepare = Callable[[np.ndarray, str], dict]


class ClassificationInferencer(Inferencer):
    """Classifies images exactly as the model's config evaluates them.

    A result has `image`, the image's name; MMPretrain's keys `pred_scores`, float32 (num_classes,) with sum 1, and
    `pred_label`, `pred_score` and `pred_class` of the best class; `top_labels`, `top_scores` and `top_classes`, lists
    of the best top_k classes, the best first. A class without a name is None.

    Args:
        model, weights, loading: see Inferencer; the model must be a classifier.
        top_k: number of classes in the lists; all if there are fewer.
    """

    def __init__(self, model: Model, weights: str | None = None, top_k: int = 5, **loading):
        if top_k < 1:
            raise UserError(f'top_k must be at least 1, got {top_k}')
        super().__init__(model, weights, **loading)
        _require(BaseClassifier, self.model, 'classify needs a model that classifies')
        self.prepare = evaluation_pipeline(self.model)
        self.classes = _class_names(self.model)
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

    A result has `image`, the image's name; `labels`, (H, W) of the image's own size, uint8, or uint16 for more than 255
    classes; and `classes`, the names of the labels from 0, or None. A batch holds neighbors of one size after resizing.

    Images may have up to 1,000 million pixels; Pillow's limit for the whole process is raised to that. Logits of large
    images are enlarged in parts, with the labels of the whole up to rounding.

    Args:
        model, weights, loading: see Inferencer; the model must be a segmentor.
        probabilities: results also have `probabilities`, float32 (num_classes, H, W); of a model with one output,
            (1, H, W) of class 1.
    """

    batch_size = 1  # the windows of one image fill a GPU
    max_pixels = 1_000_000_000  # OpenCV has a limit of 2**30
    keeps_pixels = True

    def __init__(self, model: Model, weights: str | None = None, probabilities: bool = False, **loading):
        super().__init__(model, weights, **loading)
        if Image.MAX_IMAGE_PIXELS is not None:
            Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, self.max_pixels)
        self.probabilities = probabilities
        _require(BaseSegmentor, self.model, 'segment needs a model that segments')
        self.prepare = evaluation_pipeline(self.model)
        self.classes = _class_names(self.model)
        self.num_classes = getattr(self.model, 'num_classes', 256)
        self.dtype = np.uint8 if self.num_classes <= 255 else np.uint16

    def compute(self, samples: list[dict]) -> list[dict]:
        sizes = [sample['data_samples'].ori_shape for sample in samples]
        is_large = [math.prod(size) * self.num_classes > MAX_LOGITS for size in sizes]
        for sample in samples:
            if any(is_large):  # then the model does not enlarge its logits
                sample['data_samples'].set_metainfo(dict(ori_shape=tuple(sample['inputs'].shape[1:])))
        results = []
        for sample, size in zip(self.model.test_step(pseudo_collate(samples)), sizes):
            if any(is_large):
                result = self._enlarge(sample.seg_logits.data, size)
            else:
                result = dict(labels=sample.pred_sem_seg.data[0].cpu().numpy().astype(self.dtype))
                if self.probabilities:
                    result['probabilities'] = _to_probabilities(sample.seg_logits.data).cpu().numpy()
            results.append(dict(result, classes=self.classes))
        return results

    def _enlarge(self, logits: Tensor, size: tuple[int, int]) -> dict:
        """The result for an image (H, W) from logits (C, h, w), interpolated as by the model, some rows at a time."""
        (channels, height, _), align_corners = logits.shape, self.model.align_corners
        if align_corners:
            source = torch.linspace(0, height - 1, size[0], device=logits.device)
        else:
            rows = torch.arange(size[0], device=logits.device)
            source = ((rows + 0.5) * (height / size[0]) - 0.5).clamp(0, height - 1)
        result = dict(labels=np.empty(size, self.dtype))
        if self.probabilities:
            result['probabilities'] = np.empty((channels, *size), np.float32)
        num_rows = max(1, MAX_LOGITS // (channels * size[1]))
        for start in range(0, size[0], num_rows):
            part = source[start : start + num_rows]
            above = part.long()
            weight = (part - above).to(logits)[:, None]
            wide = torch.lerp(logits[:, above], logits[:, (above + 1).clamp(max=height - 1)], weight)
            shape = (len(part), size[1])
            wide = F.interpolate(wide[None], shape, mode='bilinear', align_corners=align_corners)[0]
            labels = wide.argmax(dim=0) if channels > 1 else wide[0] > self.model.decode_head.threshold
            result['labels'][start : start + num_rows] = labels.cpu().numpy()
            if self.probabilities:
                result['probabilities'][:, start : start + num_rows] = _to_probabilities(wide).cpu().numpy()
        return result


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
        model, weights, loading: see Inferencer; the weights may hold the trunk alone.
        pooling: 'mean' of the patch tokens, 'cls_token', or 'patches', all patch tokens.
        blocks: a block, counted from 0 or back from -1, or a list of blocks.
        own_size: the trunk sees the whole image at its own size, resized to the nearest whole number of patches.
    """

    def __init__(
        self,
        model: Model,
        weights: str | None = None,
        pooling: str = 'mean',
        blocks: Blocks = -1,
        own_size: bool = False,
        **loading,
    ):
        pooling = loading.pop('kind', pooling)  # its name in version 0.1
        if pooling not in POOLINGS:
            raise UserError(f'pooling must be one of {", ".join(POOLINGS)}, got {pooling!r}')
        super().__init__(model, weights, trunk_only=True, **loading)
        trunk = getattr(self.model, 'backbone', None)
        self.trunk = trunk = None if trunk is None else unwrap(trunk)
        if not isinstance(trunk, BEiT):
            raise UserError(f'extract_features needs a model whose trunk is BEiT, got {type(self.model).__name__}')
        if own_size:
            self.prepare = self._prepare_whole
        elif isinstance(self.model, BaseClassifier):
            self.prepare = evaluation_pipeline(self.model)
        else:
            size = tuple(side * trunk.patch_embed.patch_size for side in trunk.grid)
            edge = dict(scale=round(max(size) * 256 / 224), edge='short', interpolation='bicubic', backend='pillow')
            self.prepare = _to_prepare([ResizeEdge(**edge), CenterCrop(size[::-1]), PackInputs()])
        self.pooling = pooling
        self.is_stacked = not isinstance(blocks, int)
        self.blocks = resolve_blocks(blocks, len(trunk.blocks))

    def compute(self, samples: list[dict]) -> list[dict]:
        inputs = torch.stack([sample['inputs'] for sample in samples]).to(self.trunk.cls_token.device)
        tokens, grid = self.trunk.read_blocks(normalize(inputs, input_format(self.model)), self.blocks)
        features = torch.stack([self._pool(*block, grid) for block in zip(self.blocks, tokens)], dim=1)
        return [dict(features=array if self.is_stacked else array[0]) for array in features.float().cpu().numpy()]

    def _prepare_whole(self, image: np.ndarray, name: str) -> dict:
        patch_size = self.trunk.patch_embed.patch_size
        size = tuple(max(1, round(side / patch_size)) * patch_size for side in image.shape[:2])
        return PackInputs()(dict(img=resize_image(image, size), img_path=name))

    def _pool(self, block: int, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Features of a block from its tokens, with the trunk's last norm if it is the last block."""
        trunk, is_last = self.trunk, block == len(self.trunk.blocks) - 1
        features = trunk.pool(trunk.norm(tokens) if is_last and hasattr(trunk, 'norm') else tokens, self.pooling)
        if self.pooling == 'mean' and is_last and hasattr(trunk, 'fc_norm'):
            return trunk.fc_norm(features)
        return features.unflatten(1, grid) if self.pooling == 'patches' else features


def _require(cls: type, model: BaseModel, sentence: str) -> None:
    if not isinstance(model, cls):
        raise UserError(f'{sentence}, got {type(model).__name__}')


def _to_probabilities(logits: Tensor) -> Tensor:
    """From logits (C, H, W) of a segmentor; it has already applied a sigmoid if there is one class."""
    return logits.float().softmax(dim=0) if len(logits) > 1 else logits.float()


def _class_names(model: BaseModel) -> Sequence[str] | None:
    return (getattr(model, 'dataset_meta', None) or {}).get('classes')


def evaluation_pipeline(model: BaseModel) -> Prepare:
    """The steps with which the model's config tests, except those that load, so that inference equals evaluation.

    UserError if the model has no config that tests, or its data set has no pipeline.
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


def _to_prepare(steps: list) -> Prepare:
    compose = Compose(steps)
    return lambda image, name: compose(
        dict(img=image, img_path=name, img_shape=image.shape[:2], ori_shape=image.shape[:2])
    )
