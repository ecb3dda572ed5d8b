"""Classes, label maps and features of images, and reconstructions of images whose patches are partly masked."""

import math
import random
import zlib
from collections.abc import Callable, Sequence

import mmcv
import numpy as np
import torch
from mmcv.transforms import LoadAnnotations, LoadImageFromFile
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate, pseudo_collate
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope, TRANSFORMS
from mmpretrain.datasets import CenterCrop, ResizeEdge
from mmpretrain.models import BaseClassifier
from mmseg.models import BaseSegmentor
from torch import Tensor

from beit_mm.config.parts import innermost_dataset, walk
from beit_mm.datasets import BlockwiseMaskGenerator, PackInputs, RandomMaskGenerator
from beit_mm.datasets.images import input_format, normalize, resize_backend, resize_image, size_for
from beit_mm.datasets.seeding import derive_seed
from beit_mm.datasets.transforms.crops import channels_first
from beit_mm.datasets.transforms.masking import MaskGenerator
from beit_mm.errors import UserError
from beit_mm.models import BEiT
from beit_mm.models.backbones.beit import POOLINGS, resolve_blocks
from beit_mm.models.backbones.layers import patch_grid
from beit_mm.models.inspection import keeping_random_states
from beit_mm.models.tokenizers.discrete_vae import STRIDE
from beit_mm.visualization.reconstruction import decoding_tokenizer, reconstruct_batch

from .inferencer import Inferencer
from .models import Model

GENERATORS = dict(blockwise=BlockwiseMaskGenerator, random=RandomMaskGenerator)
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

    A result has `image`, the image's name; `labels`, (H, W) of the image's own size, uint8, or uint16 for more than 256
    classes; and `classes`, the names of the labels from 0, or None. A batch holds neighbors of one size after resizing.

    Args:
        model, weights, **loading: see Inferencer; the model must be a segmentor.
    """

    batch_size = 1  # the windows of one image fill a GPU
    keeps_pixels = True

    def __init__(self, model: Model, weights: str | None = None, **loading):
        super().__init__(model, weights, **loading)
        _require(BaseSegmentor, self.model, 'segment needs a model that segments')
        self.prepare = evaluation_pipeline(self.model)
        self.classes = _class_names(self.model)
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
        self.trunk = trunk = getattr(self.model, 'backbone', None)
        if not isinstance(trunk, BEiT):
            raise UserError(f'extract_features needs a model whose trunk is BEiT, got {type(self.model).__name__}')
        if isinstance(self.model, BaseClassifier):
            self.prepare = evaluation_pipeline(self.model)
        else:
            size = tuple(side * trunk.patch_embed.patch_size for side in trunk.grid)
            edge = dict(scale=round(max(size) * 256 / 224), edge='short', interpolation='bicubic')
            crop = [CenterCrop(size[::-1]), PackInputs()]
            prepare = {name: _to_prepare([ResizeEdge(**edge, backend=name), *crop]) for name in ('pillow', 'cv2')}
            self.prepare = lambda image, name: prepare[resize_backend(image)](image, name)
        self.kind = kind
        self.is_stacked = not isinstance(blocks, int)
        self.blocks = resolve_blocks(blocks, len(trunk.blocks))

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


class ReconstructionInferencer(Inferencer):
    """Predicts the visual tokens of masked patches of images from the other patches, and decodes them.

    A result has `image`, the image's name; `mask`, bool (h, w); and the values of `reconstruct_batch`, with pictures of
    8h x 8w pixels for h x w patches. A batch holds neighbors of one size after resizing.

    Args:
        model, weights, **loading: see Inferencer; the model must predict visual tokens. If the weights hold no
            tokenizer, like released ones, `tokenizer` is its file, or OpenAI's `encoder.pkl` and `decoder.pkl`.
        num_masked: patches to mask in every image; None for the share of the model's config, 75 of 196 in the paper.
        mask: 'blockwise', with the blocks of the config, or 'random', patch by patch.
        seed: of the masks. An image has the same mask wherever it comes in the list.
        size: (H, W) that the trunk sees, multiples of its patch size; None for the image's own ratio, at most 4 to 1,
            with the shorter side as in training. The tokenizer sees 8 pixels per patch.

    Raises:
        UserError: Also if the tokenizer is missing or has no decoder, or an option does not fit.
    """

    batch_size = 8

    def __init__(
        self,
        model: Model,
        weights: str | None = None,
        num_masked: int | None = None,
        mask: str = 'blockwise',
        seed: int = 0,
        size: tuple[int, int] | None = None,
        **loading,
    ):
        if mask not in GENERATORS:
            raise UserError(f'mask must be one of {", ".join(GENERATORS)}, got {mask!r}')
        super().__init__(model, weights, **loading)
        decoding_tokenizer(self.model)  # an error says what is missing
        self.trunk = self.model.backbone
        self.patch_size = self.trunk.patch_embed.patch_size
        if size is not None:
            patch_grid(size, self.patch_size)
        self.num_masked, self.mask, self.seed, self.size = num_masked, mask, seed, size
        self.trained_generator = _find_generator(getattr(self.model, 'cfg', None))

    def prepare(self, image: np.ndarray, name: str) -> dict:
        short_side = self.patch_size * min(self.trunk.grid)
        size = tuple(self.size or size_for(image.shape[:2], short_side, self.patch_size))
        grid = patch_grid(size, self.patch_size)
        view = mmcv.imresize(image, (STRIDE * grid[1], STRIDE * grid[0]), interpolation='lanczos', backend='pillow')
        resized = resize_image(image, size)
        inputs, views = (channels_first(np.ascontiguousarray(pixels)) for pixels in (resized, view))
        return dict(inputs=inputs, views=views)

    def compute(self, samples: list[dict]) -> list[dict]:
        with keeping_random_states():
            samples = [dict(sample, mask=self._draw_mask(sample['views'])) for sample in samples]
        results = reconstruct_batch(self.model, **self.model.data_preprocessor(default_collate(samples)))
        return [dict(result, mask=sample['mask'].numpy()) for result, sample in zip(results, samples)]

    def _draw_mask(self, view: Tensor) -> Tensor:
        """The mask of an image, bool (h, w), which depends on its pixels and the seed only.

        The shares are those of the training's generator, whose grid may be another.
        """
        height, width = (side // STRIDE for side in view.shape[1:])
        trained = self.trained_generator
        share = height * width / trained.num_patches
        num_masked = max(1, round(share * trained.num_masked)) if self.num_masked is None else self.num_masked
        random.seed(derive_seed(self.seed, zlib.crc32(view.numpy().tobytes())))
        if self.mask == 'random':
            generator = RandomMaskGenerator((height, width), num_masked)
        else:
            blocks = trained if isinstance(trained, BlockwiseMaskGenerator) else BlockwiseMaskGenerator()
            min_block_size = max(1, round(blocks.min_block_size * height * width / blocks.num_patches))
            min_aspect = math.exp(-blocks.log_aspect)
            generator = BlockwiseMaskGenerator((height, width), num_masked, min_block_size, min_aspect)
        return torch.from_numpy(generator.generate())


def _find_generator(cfg: Config | None) -> MaskGenerator:
    """The mask generator that a config trains with; the paper's if it has none of ours."""
    for _, node in walk((cfg or {}).get('train_dataloader') or {}, ''):
        if str(node.get('type')).split('.')[-1] in [generator.__name__ for generator in GENERATORS.values()]:
            return TRANSFORMS.build(node)
    return BlockwiseMaskGenerator()


def _require(cls: type, model: BaseModel, sentence: str) -> None:
    if not isinstance(model, cls):
        raise UserError(f'{sentence}, got {type(model).__name__}')


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
