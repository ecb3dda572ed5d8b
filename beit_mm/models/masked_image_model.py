"""MaskedImageModel: predict from the visible patches what the masked ones held (arXiv 2106.08254, section 2.3)."""
from typing import Dict, List, Optional

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.nn import functional as F

from ..registry import MODELS, build_part
from .loading import WeightsMismatch


@MODELS.register_module()
class VisualTokens(nn.Module):
    """Prediction target: the visual tokens of a frozen tokenizer.

    Args:
        tokenizer: config or module with `vocab_size` and `encode(images) -> (B, h, w) int64`.
    """

    def __init__(self, tokenizer: dict):
        super().__init__()
        self.tokenizer = build_part(tokenizer)
        if not isinstance(getattr(self.tokenizer, 'vocab_size', None), int):
            raise ValueError(f'a tokenizer needs a whole number vocab_size, {type(self.tokenizer).__name__} has '
                             f'{getattr(self.tokenizer, "vocab_size", None)!r}')
        self.num_outputs = self.tokenizer.vocab_size
        self._tokens_checked = False
        self.tokenizer.requires_grad_(False).eval()

    def init_weights(self) -> None:
        if hasattr(self.tokenizer, 'init_weights'):
            self.tokenizer.init_weights()

    def train(self, mode: bool = True) -> 'VisualTokens':
        """Keep the tokenizer in evaluation mode whatever the model around it does."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    @torch.no_grad()
    def forward(self, images: Tensor, views: Tensor) -> Tensor:
        """Targets of every patch.

        Args:
            images: what the trunk sees, normalised (B, 3, H, W); not used by this target.
            views: the tokenizer's view of the same crops, (B, 3, 8h, 8w) in [0, 1].

        Returns:
            int64 (B, h, w).

        Raises:
            ValueError: If the first batch holds a token beyond the vocabulary.
        """
        # Outside of autocast, as in the release: bfloat16 changes one token in twenty.
        with torch.autocast(views.device.type, enabled=False):
            tokens = self.tokenizer.encode(views)
        if not self._tokens_checked:  # once: it waits for the device
            self._tokens_checked = True
            low, high = int(tokens.min()), int(tokens.max())
            if low < 0 or high >= self.num_outputs:
                raise ValueError(f'visual tokens must lie in 0 to {self.num_outputs - 1} to fit lm_head, '
                                 f'the tokenizer gave {low} to {high}')
        return tokens

    @staticmethod
    def loss(predictions: Tensor, targets: Tensor) -> Dict[str, Tensor]:
        """Cross-entropy and accuracy of logits (M, vocab_size) against tokens (M,)."""
        accuracy = (predictions.detach().argmax(dim=1) == targets).float().mean()
        return dict(loss=F.cross_entropy(predictions.float(), targets), masked_token_accuracy=accuracy)


@MODELS.register_module()
class MaskedImageModel(BaseModel):
    """Pre-training by masked image modelling.

    Args:
        backbone: a trunk with `out_type='raw'` and a mask token.
        target: a prediction target with `num_outputs`, `forward(images, views)` and `loss(predictions, targets)`.
        data_preprocessor: gives `inputs`, `views` and `mask`, see TwoViewPreprocessor.
        init_cfg: MMEngine's.
    """

    def __init__(self, backbone: dict, target: dict, data_preprocessor: Optional[dict] = None,
                 init_cfg: Optional[dict] = None):
        super().__init__(data_preprocessor, init_cfg)
        self.backbone = build_part(backbone)
        self.target = build_part(target)
        self.lm_head = nn.Linear(self.backbone.embed_dim, self.target.num_outputs)
        # Cut at one standard deviation, as the release initialises everything in pre-training.
        nn.init.trunc_normal_(self.lm_head.weight, std=0.02, a=-0.02, b=0.02)
        nn.init.zeros_(self.lm_head.bias)
        self.register_load_state_dict_pre_hook(_check_head_weights)

    def forward(self, inputs: Tensor, views: Optional[Tensor] = None, mask: Optional[Tensor] = None,
                mode: str = 'tensor'):
        """'tensor': features of the trunk; 'loss': losses; 'predict': predicted and true targets at masked patches.

        Args:
            inputs: normalised images (B, 3, H, W).
            views: what the target is made from, see the target.
            mask: bool (B, h, w), True where masked.
        """
        if mode == 'tensor':
            return self.backbone(inputs, mask)
        if mode == 'loss':
            return self.loss(inputs, views, mask)
        return self.predict(inputs, views, mask)

    def loss(self, inputs: Tensor, views: Tensor, mask: Tensor) -> Dict[str, Tensor]:
        """Encode, predict, compare; only masked patches count."""
        masked = _masked_positions(mask)
        targets = self._targets(inputs, views, mask).index_select(0, masked)
        return self.target.loss(self._predict(inputs, mask, masked), targets)

    def predict(self, inputs: Tensor, views: Tensor, mask: Tensor) -> List[dict]:
        """Per image: `predicted` and `target`, the classes (k,) at its k masked patches."""
        masked = _masked_positions(mask)
        targets = self._targets(inputs, views, mask).index_select(0, masked)
        predicted = self._predict(inputs, mask, masked).argmax(dim=1)
        counts = mask.flatten(1).sum(dim=1).tolist()
        return [dict(predicted=p, target=t) for p, t in zip(predicted.split(counts), targets.split(counts))]

    def _predict(self, inputs: Tensor, mask: Tensor, masked: Tensor) -> Tensor:
        features = self.backbone(inputs, mask)[-1]  # (B, 1 + h * w, C)
        return self.lm_head(features[:, 1:].flatten(0, 1).index_select(0, masked))  # (M, num_outputs)

    def _targets(self, inputs: Tensor, views: Tensor, mask: Tensor) -> Tensor:
        targets = self.target(inputs, views)
        if targets.shape[1:3] != mask.shape[1:3]:
            raise ValueError(f'the grid of targets (second_scale of the pipeline, over 8) must be that of the masks '
                             f'(grid of the mask generator), {tuple(mask.shape[1:3])}, got {tuple(targets.shape[1:3])}')
        return targets.flatten(0, 2)  # (B * h * w, ...)

    def get_layer_depth(self, param_name: str):
        """Layer of a parameter for layer-wise decay; see the trunk's."""
        return self.backbone.get_layer_depth(param_name, 'backbone.')


def _masked_positions(mask: Tensor) -> Tensor:
    """Places (M,) of the masked patches among all of the batch, image after image."""
    return mask.flatten().nonzero().squeeze(1)


def _check_head_weights(module: MaskedImageModel, state_dict: Dict[str, Tensor], prefix: str, *_) -> None:
    """Pre-load hook: a head for another vocabulary is an error, not a head left at random.

    Raises:
        WeightsMismatch: If the checkpoint's lm_head has another number of outputs.
    """
    given = state_dict.get(f'{prefix}lm_head.weight')
    if given is not None and len(given) != module.target.num_outputs:
        raise WeightsMismatch(f'lm_head must have {module.target.num_outputs} outputs to fit the prediction target, '
                         f'the checkpoint has {len(given)}')
