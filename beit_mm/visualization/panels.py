"""Contact sheets: masked image modelling and segmentation, one image per row, named columns."""
from typing import Dict, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from ..models import MaskedImageModel

GREY = 0.5


def draw_sheet(columns: Dict[str, Sequence[np.ndarray]], cell: int = 144, gap: int = 6) -> Image.Image:
    """A sheet of uint8 RGB images (H, W, 3), one named column per entry, each image scaled to `cell` pixels high."""
    num_rows = min(len(images) for images in columns.values())
    caption = 22
    sheet = Image.new('RGB', (len(columns) * (cell + gap) + gap, num_rows * (cell + gap) + gap + caption), 'white')
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for x, (name, images) in enumerate(columns.items()):
        left = gap + x * (cell + gap)
        draw.text((left, 4), name, fill='black', font=font)
        for y in range(num_rows):
            image = Image.fromarray(np.ascontiguousarray(images[y])).resize((cell, cell), Image.NEAREST)
            sheet.paste(image, (left, caption + gap + y * (cell + gap)))
    return sheet


@torch.no_grad()
def reconstruction_panel(model: MaskedImageModel, batch: Dict[str, Tensor]) -> Image.Image:
    """Input, mask, the tokens decoded, and the image decoded from the predicted tokens at masked patches.

    Args:
        model: a pre-trained model whose target is the visual tokens of a tokenizer that decodes.
        batch: preprocessed `inputs` (B, 3, H, W), `views` (B, 3, 8h, 8w) in [0, 1] and `mask` bool (B, h, w).
    """
    model.eval()
    tokenizer, mask = model.target.tokenizer, batch['mask']
    tokens = tokenizer.encode(batch['views'])  # (B, h, w)
    predicted = torch.cat([sample['predicted'] for sample in model.predict(**batch)])
    completed = tokens.masked_scatter(mask, predicted)
    hidden = F.interpolate(mask[:, None].float(), size=batch['views'].shape[2:])
    return draw_sheet({
        'input': _to_uint8(batch['views']),
        'masked': _to_uint8(batch['views'] * (1 - hidden) + GREY * hidden),
        'tokens decoded': _to_uint8(tokenizer.decode(tokens)),
        'reconstruction': _to_uint8(tokenizer.decode(completed)),
    })


def segmentation_panel(images: Sequence[np.ndarray], truths: Sequence[np.ndarray], predictions: Sequence[np.ndarray],
                       palette: Sequence[Sequence[int]]) -> Image.Image:
    """Images uint8 (H, W, 3) RGB beside their label maps (H, W), drawn in the palette; 255 is unlabelled, white."""
    colours = np.full((256, 3), 255, dtype=np.uint8)
    colours[:len(palette)] = palette
    return draw_sheet({
        'image': images,
        'ground truth': [colours[truth] for truth in truths],
        'prediction': [colours[prediction] for prediction in predictions],
    })


def _to_uint8(images: Tensor) -> np.ndarray:
    """(B, 3, H, W) in [0, 1] to uint8 (B, H, W, 3)."""
    return (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
