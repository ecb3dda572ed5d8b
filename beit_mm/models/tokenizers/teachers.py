"""Teachers of the tokenizer of BEiT v2: frozen networks whose patch features it learns to reproduce."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn, Tensor

from beit_mm.errors import UserError
from beit_mm.models.backbones.beit import BEiT
from beit_mm.registry import build_part, MODELS

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Teacher(nn.Module):
    """Normalises images; a subclass computes features of them.

    Args:
        mean, std: of every channel, for images in [0, 1].

    Attributes:
        is_init: whether `init_weights` has loaded the weights; the tokenizer calls it before the first use.
    """

    is_init = False

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        for name, values in (('mean', mean), ('std', std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        return (images - self.get_buffer('mean')) / self.get_buffer('std')


@MODELS.register_module()
class TimmTeacher(Teacher):
    """A vision transformer of timm.

    Args:
        name: in timm: `vit_base_patch16_clip_224.openai` for CLIP, `vit_base_patch16_224.dino` for DINO.
        pretrained: whether `init_weights` loads the weights that belong to the name, which timm downloads if they are
            not in its cache.
        use_head: whether the last linear layer is applied to every patch, as CLIP's projection to 512 features.
        options: of `timm.create_model`, such as img_size.
    """

    def __init__(self, name: str, pretrained: bool = True, use_head: bool = False, options: dict | None = None):
        import timm

        create = partial(timm.create_model, name, **(options or {}))
        trunk: Any = create()
        super().__init__(trunk.pretrained_cfg['mean'], trunk.pretrained_cfg['std'])
        self.trunk, self.use_head, self.pretrained, self._create = trunk, use_head, pretrained, create

    def init_weights(self) -> None:
        if self.pretrained:
            self.trunk.load_state_dict(self._create(pretrained=True).state_dict())
        self.is_init = True

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] to features of every patch, (B, h, w, D)."""
        tokens = self.trunk.forward_features(self.normalise(images))[:, self.trunk.num_prefix_tokens :]
        features = self.trunk.head(tokens) if self.use_head else tokens
        height, width = self.trunk.patch_embed.patch_size
        return features.unflatten(1, (images.shape[2] // height, images.shape[3] // width))


@MODELS.register_module()
class BEiTTeacher(Teacher):
    """A BEiT, such as a fine-tuned one.

    Args:
        trunk: the BEiT, with `out_type='featmap'` and an init_cfg that names its weights.
        mean, std: of its training, for images in [0, 1].
    """

    def __init__(self, trunk: dict, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD):
        super().__init__(mean, std)
        self.trunk = build_part(trunk)
        if not isinstance(self.trunk, BEiT) or self.trunk.out_type != 'featmap':
            raise UserError("BEiTTeacher needs a trunk of type BEiT with out_type='featmap'")

    def init_weights(self) -> None:
        self.trunk.init_weights()
        self.is_init = True

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] to features of every patch, (B, h, w, C)."""
        return self.trunk(self.normalise(images))[-1].permute(0, 2, 3, 1)
