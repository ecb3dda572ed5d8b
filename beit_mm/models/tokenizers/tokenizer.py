"""What all visual tokenizers share: modes of a call, weights that fit, images that fit, the use of the vocabulary."""

import torch
from mmengine.model import BaseModel
from torch import Tensor

from beit_mm.errors import UserError
from beit_mm.models.weights import naming_checkpoint


class Tokenizer(BaseModel):
    """Base of the visual tokenizers.

    A tokenizer has `vocab_size`, `encode(images)` from (B, C, H, W) in [0, 1] to int64 (B, h, w), `loss(images)`, and
    `decode(tokens)` from (B, h, w) to images, or a `predict` of its own.

    Attributes:
        has_encoder, has_decoder: whether they hold trained weights.
    """

    vocab_size: int
    has_encoder: bool
    has_decoder: bool

    def init_weights(self) -> None:
        """Load the checkpoint of init_cfg; a UserError names the file if it does not fit."""
        with naming_checkpoint(self):
            super().init_weights()

    def forward(self, inputs: Tensor, data_samples=None, mode: str = 'tensor'):
        """'tensor': visual tokens; 'loss': a training's losses; 'predict': tokens and an error of every image."""
        return dict(tensor=self.encode, loss=self.loss, predict=self.predict)[mode](inputs)

    def predict(self, images: Tensor) -> list[dict[str, Tensor]]:
        """For each image its `tokens` (h, w) and the `squared_error` of what they decode to."""
        tokens = self.encode(images)
        error = (self.decode(tokens) - images).square().flatten(1).mean(dim=1)
        return [dict(tokens=t, squared_error=e) for t, e in zip(tokens, error)]


def check_images(images: Tensor, in_channels: int, patch_size: int) -> None:
    """UserError unless a tokenizer with these channels and this side of a token in pixels takes images (B, C, H, W)."""
    channels, height, width = images.shape[1:]
    if channels != in_channels:
        raise UserError(f'images must have {in_channels} channels (in_channels of the tokenizer), got {channels}')
    if height % patch_size or width % patch_size:
        raise UserError(f'the tokenizer needs image sides that are multiples of {patch_size}, got {height} x {width}')


def codebook_use(counts: Tensor) -> dict[str, Tensor]:
    """Perplexity (1 to V) and percentage of used codes from the counts (V,) of every token."""
    share = counts.float() / counts.sum().clamp(min=1)
    perplexity = torch.exp(-torch.special.xlogy(share, share).sum())
    return dict(perplexity=perplexity, used_codes=100 * (counts > 0).float().mean())
