"""What an exported file says of itself: strings, lists and dicts among them as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from beit_mm.checkpoint.checksums import sha256_of
from beit_mm.config.parts import innermost_dataset
from beit_mm.datasets.images import input_format
from beit_mm.version import __version__

from .parts import Part


def describe(
    model: nn.Module, name: str, part: Part, size: tuple[int, int], num_outputs: int, weights: str | None = None
) -> dict[str, str]:
    """Meta data of an exported part.

    Args:
        model: what it was taken from; `data_preprocessor`, `dataset_meta` and `cfg` are read where it has them.
        name: of the part, one of PARTS.
        part: at the grid of the size.
        size: height and width of the images in pixels.
        num_outputs: channels of the first output.
        weights: the file that the model's weights came from; its name and SHA-256 are told.

    Returns:
        Always `beit_mm_version`, `torch_version`, `part`, `image_size`, `patch_size`, `grid`, `embed_dim`, `depth`,
        `num_heads`, `outputs`; `out_type` and `out_indices` of a trunk, `num_classes` of the others. Where known,
        `channel_order` ('RGB' or 'BGR'), `mean` and `std` (of pixels 0 to 255), `classes`, `test_pipeline` and
        `test_cfg` as the config has them, `weights` and `weights_sha256`.
    """
    trunk = part.trunk
    told: dict[str, Any] = dict(
        beit_mm_version=__version__,
        torch_version=torch.__version__,
        part=name,
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
        told.update(channel_order=wanted.channel_order, mean=_short(wanted.mean), std=_short(wanted.std))
    if name == 'trunk':
        told.update(out_type=trunk.out_type, out_indices=trunk.out_indices)
    else:
        told.update(num_classes=num_outputs)
        classes = (getattr(model, 'dataset_meta', None) or {}).get('classes') or ()
        if len(classes) == num_outputs:  # a head for other data than the config tests on has other classes
            told.update(classes=classes)
    told.update(_of_config(getattr(model, 'cfg', None) or {}, name))
    if weights is not None and Path(weights).is_file():
        told.update(weights=Path(weights).name, weights_sha256=sha256_of(Path(weights)))
    return {key: value if isinstance(value, str) else json.dumps(value, default=str) for key, value in told.items()}


def _short(values: Sequence[float]) -> list[float]:
    """Numbers of float32 with no more digits than they have: 123.675, not 123.67500305175781."""
    return [float(str(np.float32(value))) for value in values]


def _of_config(cfg: dict, name: str) -> dict[str, Any]:
    """How the config reads images and, for a segmentor, places its windows."""
    told = dict(test_pipeline=(innermost_dataset(cfg.get('test_dataloader')) or {}).get('pipeline'))
    if name == 'segmentor':
        told.update(test_cfg=cfg['model'].get('test_cfg') if 'model' in cfg else None)
    return {key: value for key, value in told.items() if value}
