"""Features of images from the trunk of any model."""

from collections.abc import Sequence

import numpy as np
import torch
from mmengine.model import BaseModel
from mmpretrain.datasets import CenterCrop, ResizeEdge
from mmpretrain.models import BaseClassifier
from torch import Tensor

from beit_mm.datasets.images import input_format, normalise
from beit_mm.models import BEiT
from beit_mm.models.backbones.beit import POOLINGS, resolve_blocks

from .models import Model
from .predicting import collect, evaluation_pipeline, Predictions, Prepare, ready_model, Results
from .sources import Images

Blocks = int | Sequence[int]


def extract_features(
    model: Model,
    images: Images,
    weights: str | None = None,
    kind: str = 'mean',
    blocks: Blocks = -1,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    options: dict | None = None,
    progress: bool = True,
) -> Results:
    """Features of images from the trunk of a pre-trained model, a classifier or a segmentor.

    The last block's features end in the trunk's last norm: `norm` after pre-training, over every token; `fc_norm` after
    fine-tuning, over the mean alone, which is then what the classifier's head gets. A segmentor has none. Those of
    other blocks are as they leave the block. Inner blocks of a pre-trained trunk separate classes better (arXiv
    2106.08254, appendix D).

    A classifier sees the images as its config evaluates them. For other models they are resized and cropped to the
    size of the trunk as ImageNet is evaluated, 256 to 224 pixels, and no patch is masked.

    Args:
        model: a name of `list_models()`, the path of a config, a Config, or a loaded model, whose trunk is BEiT.
        images, batch_size, device, options, progress: as of classify.
        weights: a checkpoint in any layout, which may hold the trunk alone; with a loaded model, none.
        kind: 'mean' of the patch tokens, 'cls_token', or 'patches', all patch tokens.
        blocks: a block, counted from 0 or back from -1, or a list of blocks.

    Returns:
        Per image that could be read a dict of `image` (its name) and `features`, float32 (C,), for 'patches' (h, w, C);
        for a list of blocks with one more dimension in front. Others are in `skipped`, with the reason by the name.

    Raises:
        FileNotFoundError: If there is no such config, checkpoint or image.
        BadImage: If the only image cannot be read.
        ValueError: If none of several can be read, kind or blocks are none of the trunk's, or the trunk is not BEiT.
    """
    loaded = ready_model(model, weights, device, options, trunk_only=True)
    return collect(extract_features_each(loaded, images, kind, blocks, batch_size, progress))


def extract_features_each(
    model: BaseModel,
    images: Images,
    kind: str = 'mean',
    blocks: Blocks = -1,
    batch_size: int = 32,
    progress: bool = True,
) -> Predictions:
    """The same one by one, from a loaded model, for more images than memory holds; see Predictions."""
    trunk = getattr(model, 'backbone', None)
    if not isinstance(trunk, BEiT):
        raise ValueError(f'extract_features needs a model whose trunk is BEiT, got {type(model).__name__}')
    if kind not in POOLINGS:
        raise ValueError(f'kind must be one of {", ".join(POOLINGS)}, got {kind!r}')
    wanted = resolve_blocks(blocks, len(trunk.blocks))

    @torch.no_grad()
    def compute(samples: list[dict]) -> list[dict]:
        inputs = _inputs(model, samples)
        found = _features(trunk, inputs, kind, wanted)  # (B, num_blocks, ...)
        found = found[:, 0] if isinstance(blocks, int) else found
        return [dict(features=one) for one in found.float().cpu().numpy()]

    prepare = evaluation_pipeline(model) if isinstance(model, BaseClassifier) else _evaluation_of_imagenet(model)
    return Predictions(images, prepare, compute, batch_size, progress)


def _evaluation_of_imagenet(model: BaseModel) -> Prepare:
    """Resize the short edge to 256 / 224 of the trunk's side, bicubic, and crop the centre; normalised."""
    trunk, wanted = model.backbone, input_format(model)
    size = tuple(side * trunk.patch_embed.patch_size for side in trunk.grid)
    resize = ResizeEdge(round(max(size) * 256 / 224), edge='short', backend='pillow', interpolation='bicubic')
    crop = CenterCrop(size[::-1])

    def prepare(image: np.ndarray, name: str) -> dict:
        cropped = crop(resize(dict(img=image, img_shape=image.shape[:2])))['img']
        return dict(inputs=normalise(cropped, wanted)[0])

    return prepare


def _inputs(model: BaseModel, samples: list[dict]) -> Tensor:
    """Normalised images (B, 3, H, W) on the model's device."""
    inputs = torch.stack([sample['inputs'] for sample in samples])
    if isinstance(model, BaseClassifier):
        return model.data_preprocessor(dict(inputs=inputs))['inputs']
    return inputs.to(next(model.parameters()).device)


def _features(trunk: BEiT, inputs: Tensor, kind: str, blocks: Sequence[int]) -> Tensor:
    """Features of blocks (B, num_blocks, ...), the last with the trunk's norm, whatever its out_type."""
    outputs, grid = trunk.read_blocks(inputs, blocks)
    features = []
    for index, tokens in zip(blocks, outputs):
        is_last = index == len(trunk.blocks) - 1
        if is_last and hasattr(trunk, 'norm'):
            tokens = trunk.norm(tokens)
        pooled = trunk.pool(tokens, kind)
        if kind == 'patches':
            pooled = pooled.unflatten(1, grid)
        elif kind == 'mean' and is_last and hasattr(trunk, 'fc_norm'):
            pooled = trunk.fc_norm(pooled)
        features.append(pooled)
    return torch.stack(features, dim=1)
