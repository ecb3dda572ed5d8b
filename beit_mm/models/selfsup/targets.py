"""What a masked image model predicts, and for which patches (arXiv 2106.08254, sections 2.3 and 3.3)."""

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from beit_mm.errors import UserError
from beit_mm.models.backbones.layers import patch_grid
from beit_mm.registry import build_part, MODELS


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
        """Tokens of every patch, int64 (B, h, w), from the tokenizer's views of the crops, (B, 3, 8h, 8w) in [0, 1]."""
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

    The trunk's patch size and channels. The paper does not name its loss; mean squared error is our choice.
    """

    def __init__(self, patch_size: int = 16, in_channels: int = 3):
        super().__init__()
        self.patch_size = patch_size
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

    `num_masked` of every image, so that nothing waits for the device to count them; None if the number varies.
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
