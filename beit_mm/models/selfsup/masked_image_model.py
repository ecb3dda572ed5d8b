"""Pre-training: predict the masked patches from the visible ones (arXiv 2106.08254, sections 2.3 and 3.3)."""

import torch
from mmengine.model import BaseModel
from torch import nn, Tensor
from torch.nn import functional as F

from beit_mm.errors import UserError
from beit_mm.models.backbones.beit import BEiT
from beit_mm.models.backbones.layers import patch_grid
from beit_mm.models.weight_layouts import OPENMMLAB
from beit_mm.models.weights import describe, is_plain, WeightsMismatch
from beit_mm.registry import build_part, MODELS

from .class_token_bottleneck import ClassTokenBottleneck

HOST_NAMES = ('head.cls_head.', 'target_generator.', 'neck.patch_aggregation.', 'neck.norm.')


@MODELS.register_module()
class VisualTokens(nn.Module):
    """Prediction target: the visual tokens of a frozen tokenizer, a config or a module; see `beit_mm.models`."""

    def __init__(self, tokenizer: dict):
        super().__init__()
        self.tokenizer = build_part(tokenizer)
        self.num_outputs = getattr(self.tokenizer, 'vocab_size', None)
        if not isinstance(self.num_outputs, int):
            name = type(self.tokenizer).__name__
            raise UserError(f'a tokenizer needs a whole number vocab_size, {name} has {self.num_outputs!r}')
        self._tokens_checked = False
        self.tokenizer.requires_grad_(False).eval()

    def init_weights(self) -> None:
        if hasattr(self.tokenizer, 'init_weights'):
            self.tokenizer.init_weights()

    def train(self, mode: bool = True) -> 'VisualTokens':
        super().train(mode)
        self.tokenizer.eval()
        return self

    @torch.no_grad()
    def forward(self, images: Tensor, views: Tensor) -> Tensor:
        """Tokens of every patch, int64 (B, h, w), from the tokenizer's views of the crops, (B, C, 8h, 8w) in [0, 1]."""
        # Without autocast, as in the release: bfloat16 changes one token in twenty.
        with torch.autocast(views.device.type, enabled=False):
            tokens = self.tokenizer.encode(views)
            if not self._tokens_checked:  # only once, since it waits for the device
                self._tokens_checked = True
                low, high, last = int(tokens.min()), int(tokens.max()), self.num_outputs - 1
                if low < 0 or high > last:
                    raise UserError(f'visual tokens must be 0 to {last} to fit lm_head, got {low} to {high}')
        return tokens

    @staticmethod
    def loss(predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Cross-entropy and accuracy of logits (M, vocab_size) against tokens (M,)."""
        accuracy = (predictions.detach().argmax(dim=1) == targets).float().mean()
        return dict(loss=F.cross_entropy(predictions.float(), targets), masked_token_accuracy=accuracy)

    @staticmethod
    def decide(predictions: Tensor) -> Tensor:
        return predictions.argmax(dim=1)


@MODELS.register_module()
class NormalisedPixels(nn.Module):
    """Prediction target of the paper's ablation: the pixels of every patch, normalised as the trunk sees them.

    patch_size and in_channels are the trunk's. The paper does not name its loss; mean squared error is our choice.
    """

    def __init__(self, patch_size: int = 16, in_channels: int = 3):
        super().__init__()
        self.patch_size, self.in_channels = patch_size, in_channels
        self.num_outputs = patch_size**2 * in_channels

    def forward(self, images: Tensor, views: Tensor) -> Tensor:
        """Pixels of every patch, (B, h, w, patch_size * patch_size * C), in rows, each with its channels."""
        rows, columns = patch_grid(images.shape[-2:], self.patch_size)
        patches = images.unflatten(3, (columns, self.patch_size)).unflatten(2, (rows, self.patch_size))
        return patches.permute(0, 2, 4, 3, 5, 1).flatten(3)  # (B, C, h, p, w, p) to (B, h, w, p * p * C)

    @staticmethod
    def loss(predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return dict(loss=F.mse_loss(predictions.float(), targets.float()))

    @staticmethod
    def decide(predictions: Tensor) -> Tensor:
        return predictions


@MODELS.register_module()
class MaskedPatches(nn.Module):
    """Predict the masked patches.

    `num_masked` is the number in every image; None if it varies, and then every step waits for the device to count.
    """

    def __init__(self, num_masked: int | None = None):
        super().__init__()
        self.num_masked = num_masked
        self._counts_checked = False

    def forward(self, mask: Tensor) -> Tensor:
        """Mask bool (B, h, w) to indices (M,) among all patches of the batch, image after image."""
        if self.num_masked is None:
            return mask.flatten().nonzero().squeeze(1)
        mask = mask.flatten(1)  # (B, h * w)
        if not self._counts_checked:  # only once, since it waits for the device
            self._counts_checked = True
            counts = mask.sum(dim=1).tolist()
            if set(counts) != {self.num_masked}:
                raise UserError(
                    f"recovered.num_masked must be the mask generator's number, got {self.num_masked} and {counts} "
                    'masked patches; set it to None if the number varies'
                )
        indices = mask.int().argsort(dim=1, descending=True, stable=True)[:, : self.num_masked]
        return (indices + mask.shape[1] * torch.arange(len(mask), device=mask.device)[:, None]).flatten()


@MODELS.register_module()
class AllPatches(nn.Module):
    """Predict all patches, masked or not (the paper's ablation)."""

    def forward(self, mask: Tensor) -> Tensor:
        """Mask bool (B, h, w) to the indices of all patches, (B * h * w,)."""
        return torch.arange(mask.numel(), device=mask.device)


@MODELS.register_module()
class MaskedImageModel(BaseModel):
    """Pre-training by masked image modelling.

    Args:
        backbone: a trunk with `out_type='raw'` and a mask token.
        target: a prediction target, see `beit_mm.models`.
        recovered: the patches that the loss counts: MaskedPatches, or AllPatches for the ablation.
        bottleneck: options of ClassTokenBottleneck, for BEiT v2; None for BEiT.
        data_preprocessor: returns `inputs`, `views` and `mask`, see TwoViewPreprocessor.
        init_cfg: MMEngine's.
    """

    def __init__(
        self,
        backbone: dict,
        target: dict,
        recovered: dict | None = None,
        bottleneck: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(data_preprocessor, init_cfg)
        self.backbone = build_part(backbone)
        self.target = build_part(target)
        out_type = getattr(self.backbone, 'out_type', 'raw')
        if out_type != 'raw':
            raise UserError(f"pre-training needs a backbone with out_type='raw', got {out_type!r}")
        if getattr(self.backbone, 'mask_token', True) is None:
            raise UserError('pre-training needs a backbone with use_mask_token=True, got use_mask_token=False')
        if isinstance(self.target, NormalisedPixels) and isinstance(self.backbone, BEiT):
            for name in ('patch_size', 'in_channels'):
                expected, value = (getattr(part, name) for part in (self.backbone.patch_embed, self.target))
                if value != expected:
                    raise UserError(f"target.{name} must be the backbone's {expected}, got {value}")
        self.recovered = build_part(recovered or dict(type='beit_mm.MaskedPatches'))
        self.lm_head = nn.Linear(self.backbone.embed_dim, self.target.num_outputs)
        # Truncated at one standard deviation, as everything in the release's pre-training.
        nn.init.trunc_normal_(self.lm_head.weight, std=0.02, a=-0.02, b=0.02)
        nn.init.zeros_(self.lm_head.bias)
        self.bottleneck = None
        if bottleneck is not None:
            self.bottleneck = ClassTokenBottleneck(self.backbone, self.target.num_outputs, **bottleneck)
        self.register_load_state_dict_pre_hook(_check_head_weights)

    def forward(self, inputs: Tensor, views: Tensor | None = None, mask: Tensor | None = None, mode: str = 'tensor'):
        """'tensor': features of the trunk; 'loss': losses; 'predict': predicted and true targets at masked patches;
        'outputs': outputs of lm_head at masked patches, (M, num_outputs), such as logits, image after image.

        Args:
            inputs: normalised images (B, C, H, W).
            views: images that the target is made from, see the target.
            mask: bool (B, h, w), True where masked.
        """
        if mode == 'tensor':
            return self.backbone(inputs, mask)
        assert mask is not None, f'mode {mode!r} needs a mask'
        if mode == 'loss':
            return self.loss(inputs, views, mask)
        if mode == 'outputs':
            return self._predict(inputs, mask, mask.flatten().nonzero().squeeze(1))
        return self.predict(inputs, views, mask)

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Features of the trunk without a mask, as MMPretrain's tools ask for them."""
        return self.backbone(inputs)

    def loss(self, inputs: Tensor, views: Tensor | None, mask: Tensor) -> dict[str, Tensor]:
        targets = self._targets(inputs, views, mask)
        indices = self.recovered(mask)
        targets = targets.index_select(0, indices)
        if self.bottleneck is None:
            return self.target.loss(self._predict(inputs, mask, indices), targets)
        features, behind = self.bottleneck(self.backbone, inputs, mask)
        losses = self.target.loss(self.lm_head(_select(features, indices)), targets)
        lm_head = self.bottleneck.lm_head or self.lm_head
        losses_behind = self.target.loss(lm_head(_select(behind, indices)), targets)
        # MMEngine adds up what is called a loss, and calls the sum `loss`.
        losses['loss_patches'] = losses.pop('loss')
        return losses | {f'{name}_class_token': value for name, value in losses_behind.items()}

    def predict(self, inputs: Tensor, views: Tensor | None, mask: Tensor) -> list[dict]:
        """Per image: `predicted` and `target` at its k masked patches: classes (k,), or pixels (k, num_outputs)."""
        targets = self._targets(inputs, views, mask)
        indices = mask.flatten().nonzero().squeeze(1)
        predicted = self.target.decide(self._predict(inputs, mask, indices))
        targets = targets.index_select(0, indices)
        counts = mask.flatten(1).sum(dim=1).tolist()
        return [dict(predicted=p, target=t) for p, t in zip(predicted.split(counts), targets.split(counts))]

    def _predict(self, inputs: Tensor, mask: Tensor, indices: Tensor) -> Tensor:
        return self.lm_head(_select(self.backbone(inputs, mask)[-1], indices))  # (M, num_outputs)

    def _targets(self, inputs: Tensor, views: Tensor | None, mask: Tensor) -> Tensor:
        targets = self.target(inputs, views)
        expected, grid = tuple(mask.shape[1:3]), tuple(targets.shape[1:3])
        if grid != expected:
            raise UserError(
                "the grid of targets (second_scale of the pipeline, over the tokenizer's patch) must be the grid of "
                f'the masks (grid of the mask generator), {expected}, got {grid}'
            )
        return targets.flatten(0, 2)  # (B * h * w, ...)

    def get_layer_depth(self, param_name: str):
        return self.backbone.get_layer_depth(param_name, 'backbone.')


def _select(tokens: Tensor, indices: Tensor) -> Tensor:
    """From tokens (B, 1 + h * w, C), the patches of the batch with these indices, (M, C)."""
    return tokens[:, 1:].flatten(0, 1).index_select(0, indices)


def _check_head_weights(module: MaskedImageModel, state_dict: dict[str, Tensor], prefix: str, *_) -> None:
    """Pre-load hook: rename MMPretrain's names, and refuse a head for another vocabulary."""
    for name in [name for name in state_dict if name.startswith(tuple(prefix + host for host in HOST_NAMES))]:
        ours = OPENMMLAB.our_name(name[len(prefix) :], 'backbone.')
        if ours is not None:
            state_dict[prefix + ours] = state_dict.pop(name)
    for name, own in module.lm_head.state_dict().items():
        value = state_dict.get(f'{prefix}lm_head.{name}', own)
        if not is_plain(value, own):
            raise WeightsMismatch(f'lm_head.{name} must be a dense tensor of real numbers, got {describe(value, own)}')
    weight = state_dict.get(f'{prefix}lm_head.weight')
    if weight is not None and len(weight) != module.target.num_outputs:
        raise WeightsMismatch(
            f'lm_head must have {module.target.num_outputs} outputs to fit the prediction target, '
            f'the checkpoint has {len(weight)}'
        )
