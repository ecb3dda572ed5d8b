"""Images as a masked image model predicts them: its tokens, decoded (arXiv 2106.08254, section 2.3)."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn, Tensor
from torch.nn import functional as F

from beit_mm.errors import UserError
from beit_mm.models import MaskedImageModel
from beit_mm.models.inspection import evaluating

from .sheets import CELL, draw_sheet, to_picture

GRAY = 0.5
TITLES = dict(original='original', masked='masked', tokens_decoded='tokens decoded', completed='reconstruction')


@torch.no_grad()
def reconstruct_batch(model: MaskedImageModel, inputs: Tensor, views: Tensor, mask: Tensor) -> list[dict[str, object]]:
    """Tokenize, predict the tokens at masked patches from the others, decode; in evaluation mode, in float32.

    Args:
        model: predicts the visual tokens of a tokenizer that decodes. Its mode is restored.
        inputs: normalized images (B, 3, H, W).
        views: the tokenizer's view of the same crops, (B, 3, 8h, 8w) in [0, 1].
        mask: bool (B, h, w), True where masked.

    Returns:
        A dict for every image.
        `original`, `masked`: the view, whole and gray where masked, uint8 RGB (8h, 8w, 3).
        `tokens_decoded`: its visual tokens, decoded: the best that a prediction can reach.
        `completed`: the same with the predicted tokens at masked patches.
        `tokens`, `predicted`: int64 (h, w), which differ at masked patches only.
        `token_accuracy`: share of the masked patches whose token is predicted right.
        `perplexity`: exp of the mean cross-entropy of the tokens at masked patches, at least 1.

    Raises:
        UserError: If the model predicts something else, its tokenizer is missing or has no decoder, or the mask does
            not fit the views.
    """
    tokenizer = decoding_tokenizer(model)
    eager = torch.compiler.set_stance('force_eager')  # another batch size would compile again
    with evaluating(model), eager, torch.autocast(inputs.device.type, enabled=False):
        tokens = model.target(inputs, views)  # (B, h, w)
        if mask.shape != tokens.shape:
            raise UserError(
                f'mask must be {tuple(tokens.shape)} to fit views of {views.shape[2]} x {views.shape[3]}, '
                f'got {tuple(mask.shape)}'
            )
        logits = model(inputs, mask=mask, mode='outputs').float()  # (M, vocab_size)
        predicted = tokens.masked_scatter(mask, logits.argmax(dim=1))
        tokens_decoded, completed = tokenizer.decode(tokens), tokenizer.decode(predicted)
    counts = mask.flatten(1).sum(dim=1)
    right = (mask & (predicted == tokens)).flatten(1).sum(dim=1)
    losses = F.cross_entropy(logits, tokens[mask], reduction='none').split(counts.tolist())
    values = dict(
        original=to_uint8(views),
        masked=to_uint8(gray_out(views, mask)),
        tokens_decoded=to_uint8(tokens_decoded),
        completed=to_uint8(completed),
        tokens=tokens.cpu().numpy(),
        predicted=predicted.cpu().numpy(),
        token_accuracy=(right / counts).tolist(),
        perplexity=[loss.mean().exp().item() for loss in losses],
    )
    return [dict(zip(values, of_image)) for of_image in zip(*values.values())]


def decoding_tokenizer(model: nn.Module) -> nn.Module:
    """The tokenizer of a masked image model; UserError with the reason if it cannot decode."""
    if not isinstance(model, MaskedImageModel):
        raise UserError(f'reconstruction needs a MaskedImageModel, got {type(model).__name__}')
    tokenizer = getattr(model.target, 'tokenizer', None)
    if tokenizer is None:
        target = type(model.target).__name__
        raise UserError(f'reconstruction needs a model that predicts visual tokens, got one that predicts {target}')
    if not hasattr(tokenizer, 'decode'):
        raise UserError(f'reconstruction needs a tokenizer with `decode`, got {type(tokenizer).__name__}')
    if not (getattr(tokenizer, 'has_encoder', True) and can_decode(tokenizer)):
        missing = 'its decoder' if getattr(tokenizer, 'has_encoder', True) else 'it'
        raise UserError(
            f'reconstruction needs the tokenizer that the model was trained with, got weights without {missing}: give '
            "both files, such as OpenAI's encoder.pkl and decoder.pkl"
        )
    return tokenizer


def can_decode(tokenizer: nn.Module | None) -> bool:
    """Whether a tokenizer can decode tokens. Some only encode, and a DiscreteVAE may lack its decoder's weights."""
    return getattr(tokenizer, 'has_decoder', hasattr(tokenizer, 'decode'))


def gray_out(views: Tensor, mask: Tensor) -> Tensor:
    """Images (B, 3, H, W), gray where a mask, bool (B, h, w), is True."""
    masked = F.interpolate(mask[:, None].float(), size=views.shape[2:])
    return views * (1 - masked) + GRAY * masked


def draw_reconstructions(
    images: Sequence[dict[str, object]], names: Sequence[str] | None = None, cell: int = CELL
) -> Image.Image:
    """A sheet with a row and a line of numbers for every dict of `reconstruct_batch`; names come before the numbers."""
    captions = []
    for index, image in enumerate(images):
        numbers = f'token accuracy {100 * image["token_accuracy"]:.1f} %, perplexity {image["perplexity"]:.1f}'
        captions.append(numbers if names is None else f'{names[index]}: {numbers}')
    columns = {title: [image[name] for image in images] for name, title in TITLES.items()}
    return draw_sheet(columns, captions, cell=cell)


def to_uint8(images: Tensor) -> np.ndarray:
    """Images (B, 3, H, W) in [0, 1] to uint8 (B, H, W, 3); other numbers of channels see to_picture."""
    pixels = (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return pixels if pixels.shape[3] == 3 else np.stack([to_picture(image) for image in pixels])
