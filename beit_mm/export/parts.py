"""What is exported: a classifier, a trunk or a segmentor, and what an exported file says about itself."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmpretrain.models import ImageClassifier
from mmseg.models.segmentors import EncoderDecoder
from torch import nn, Tensor

from beit_mm.checkpoint.checksums import sha256_of
from beit_mm.config.parts import innermost_dataset
from beit_mm.datasets.images import input_format
from beit_mm.errors import UserError
from beit_mm.models.backbones.beit import BEiT
from beit_mm.models.classifiers.linear_probe import LinearProbeHead
from beit_mm.version import __version__

Outputs = Tensor | tuple[Tensor, ...]
PARTS = ('classifier', 'trunk', 'segmentor')


class Part(nn.Module):
    """A part of a model for export, on the CPU, float32, in evaluation mode. The model stays as it is.

    Args:
        model: a BEiT, or a model with one as `backbone`.
        name: one of PARTS; None for what the model is.

    Attributes:
        output_names: of what `forward` returns.
        prefix: what the names of the weights begin with in our layout, before the module's own names.

    Raises:
        UserError: If the model has no BEiT, or is no such part.
    """

    def __init__(self, model: nn.Module, name: str | None = None):
        super().__init__()
        trunk = model if isinstance(model, BEiT) else getattr(model, 'backbone', None)
        if not isinstance(trunk, BEiT):
            raise UserError(f'a model must be or have a BEiT trunk, got {type(model).__name__}')
        whole = 'classifier' if isinstance(model, ImageClassifier) else 'trunk'
        whole = 'segmentor' if isinstance(model, EncoderDecoder) else whole
        if name not in (None, whole, 'trunk'):
            choices = ' or '.join(dict.fromkeys((whole, 'trunk')))
            raise UserError(f'the part of {type(model).__name__} must be {choices}, got {name!r}')
        self.name = name or whole
        self.module = copy.deepcopy(trunk if self.name == 'trunk' else model).cpu().float()
        self.eval().requires_grad_(False)
        self.output_names: tuple[str, ...] = ('logits',)
        self.prefix = ''
        if self.name == 'trunk':
            several = [f'features_{index}' for index in range(len(trunk.out_indices))]
            self.output_names = ('features',) if len(several) == 1 else tuple(several)
            self.prefix = 'backbone.'

    @property
    def trunk(self) -> BEiT:
        # Not a second submodule, as exported programs would then hold its weights twice.
        return self.module if self.name == 'trunk' else self.module.backbone

    def forward(self, images: Tensor) -> Outputs:
        """From normalized images (N, 3, H, W), for a segmentor one window each, to logits or a trunk's features."""
        if self.name == 'segmentor':
            size = tuple(images.shape[2:])
            return self.module.encode_decode(images, [dict(img_shape=size, pad_shape=size)])
        outputs = self.module(images)
        if self.name == 'trunk':
            return outputs[0] if len(outputs) == 1 else outputs
        head = self.module.head
        return outputs[head.predict_index] if isinstance(head, LinearProbeHead) else outputs


def as_tuple(outputs: Outputs) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def describe(
    model: nn.Module, part: Part, size: tuple[int, int], num_outputs: int, weights: str | None = None
) -> dict[str, str]:
    """Meta data of an exported part. Numbers, lists and dicts are written as JSON.

    Args:
        model: what the part comes from; `data_preprocessor`, `dataset_meta` and `cfg` are read if it has them.
        part: at the grid of the size.
        size: height and width of the images in pixels.
        num_outputs: channels of the first output.
        weights: the file that the model's weights come from.

    Returns:
        Always `beit_mm_version`, `torch_version`, `part`, `image_size`, `patch_size`, `grid`, `embed_dim`, `depth`,
        `num_heads`, `outputs`; `out_type` and `out_indices` of a trunk, `num_classes` of the others. If known,
        `channel_order` ('RGB' or 'BGR'), `mean` and `std` (of pixels 0 to 255), `classes`, `test_pipeline` and
        `test_cfg` as the config has them, `weights` (the file's name) and `weights_sha256`.
    """
    trunk = part.trunk
    meta: dict[str, Any] = dict(
        beit_mm_version=__version__,
        torch_version=torch.__version__,
        part=part.name,
        image_size=size,
        patch_size=trunk.patch_embed.patch_size,
        grid=trunk.grid,
        embed_dim=trunk.embed_dim,
        depth=len(trunk.blocks),
        num_heads=trunk.blocks[0].attn.num_heads,
        outputs=part.output_names,
    )
    if getattr(model, 'data_preprocessor', None) is not None:
        wanted = input_format(model)
        # By way of NumPy float32 has no more digits than it knows: 123.675, not 123.67500305175781.
        mean, std = ([float(str(np.float32(value))) for value in values] for values in (wanted.mean, wanted.std))
        meta.update(channel_order=wanted.channel_order, mean=mean, std=std)
    cfg = getattr(model, 'cfg', None) or {}
    if part.name == 'trunk':
        meta.update(out_type=trunk.out_type, out_indices=trunk.out_indices)
    else:
        meta.update(num_classes=num_outputs)
        classes = (getattr(model, 'dataset_meta', None) or {}).get('classes') or ()
        if len(classes) == num_outputs:  # otherwise they belong to the config's data, not to this head
            meta.update(classes=classes)
    if part.name == 'segmentor':
        meta.update(test_cfg=(cfg.get('model') or {}).get('test_cfg'))  # how windows cover an image
    meta.update(test_pipeline=(innermost_dataset(cfg.get('test_dataloader')) or {}).get('pipeline'))
    if weights is not None and Path(weights).is_file():
        meta.update(weights=Path(weights).name, weights_sha256=sha256_of(Path(weights)))
    meta = {key: value for key, value in meta.items() if value is not None}
    return {key: value if isinstance(value, str) else json.dumps(value, default=str) for key, value in meta.items()}
