"""A first look at what BEiT does: the demonstration's small models on pictures, as one page."""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from PIL import Image
from torch.nn import functional as F

from beit_mm.datasets.images import read_image, resize_image
from beit_mm.files import atomic_write
from beit_mm.model_index import MIM
from beit_mm.visualization import draw_sheet, point_attention_maps
from beit_mm.visualization.sheets import blend_labels, draw_legend, principal_colors, to_picture

from .images import find_images, Images
from .inferencers import ClassificationInferencer, FeatureInferencer, SegmentationInferencer
from .models import load_model
from .reconstruction import ReconstructionInferencer

FOLDER = Path(__file__).parents[1] / 'trial'  # models, pictures and the page's template
SIDE = 96  # pixels that the models see
CELL = 192  # pixels of a picture on the page, a multiple of what the models give
MAX_IMAGES = 16
OPACITY = 0.65  # of the attention over the image in gray


def try_models(images: Images | None = None, page: Path = Path('beit_mm_try.html')) -> Path:
    """Write a page with what the small models of `make demo` make of pictures.

    Args:
        images: see find_images; None for bundled pictures. Only the first 16 are taken, and of each the middle square,
            in 96 x 96 pixels.
        page: replaced atomically; needs no other file.

    Returns:
        Its path.

    Raises:
        BadImage: If an image cannot be read.
        UserError, OSError: If there are no images, or the page cannot be written.
    """
    from jinja2 import Environment, StrictUndefined

    named = find_images(str(FOLDER / 'pictures') if images is None else images)[:MAX_IMAGES]
    squares = [_square(read_image(image.source)) for image in named]
    names = [Path(image.name).name for image in named]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    stream = io.BytesIO()
    _draw(squares, names).save(stream, 'PNG')
    text = environment.from_string((FOLDER / 'page.html').read_text(encoding='utf-8')).render(
        picture=base64.b64encode(stream.getvalue()).decode(),
        made=json.loads((FOLDER / 'models.json').read_text(encoding='utf-8')),
        are_bundled=images is None,
    )
    with atomic_write(page) as temporary:
        temporary.write_text(text, encoding='utf-8')
    return page


def _square(image: np.ndarray) -> np.ndarray:
    """The middle of an image (H, W, 3), uint8 (96, 96, 3)."""
    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return np.ascontiguousarray(resize_image(image[top : top + side, left : left + side], (SIDE, SIDE)))


def load_small_model(config: str, **weights: str) -> BaseModel:
    """A model with a config of the demonstration, from bundled files: `weights`, and `tokenizer` to pre-train."""
    cfg = Config.fromfile(MIM / 'configs' / 'demo' / f'{config}.py')
    files = {name: str(FOLDER / f'{file}.safetensors') for name, file in weights.items()}
    return load_model(cfg, device='cpu', **files)


def _draw(squares: Sequence[np.ndarray], names: Sequence[str]) -> Image.Image:
    """A row of pictures for every image (96, 96, 3), and below it the classes that the classifier finds."""
    pretrained = load_small_model('pretrain', weights='pretrain', tokenizer='tokenizer')
    segmentor = load_small_model('segment', weights='segment')
    options = dict(images=list(squares), progress=False)
    rebuilt = ReconstructionInferencer(pretrained)(**options)
    features = np.stack([result['features'] for result in FeatureInferencer(pretrained, pooling='patches')(**options)])
    classes = ClassificationInferencer(load_small_model('finetune', weights='finetune'), top_k=2)(**options)
    labels = [result['labels'] for result in SegmentationInferencer(segmentor)(**options)]
    pictures = [to_picture(square) for square in squares]
    palette = segmentor.dataset_meta['palette']
    columns = {
        'image': pictures,
        'masked': [result['masked'] for result in rebuilt],
        'reconstruction': [result['completed'] for result in rebuilt],
        'attention of the middle': [_attention(pretrained, square) for square in squares],
        'features': principal_colors(features),
        'segmentation': [blend_labels(*pair, palette) for pair in zip(pictures, labels)],
    }
    captions = []
    for name, result in zip(names, classes):
        found = [f'{label} {100 * score:.0f} %' for label, score in zip(result['top_classes'], result['top_scores'])]
        captions.append(f'{name}: {", ".join(found)}')
    seen = np.unique(labels)
    shown = [segmentor.dataset_meta['classes'][label] for label in seen], [palette[label] for label in seen]
    return draw_sheet(columns, captions, draw_legend(*shown, len(columns) * CELL), CELL)


def _attention(model: torch.nn.Module, square: np.ndarray) -> np.ndarray:
    """Attention of the middle patch in the last block, the mean of its heads, over the image: uint8 (96, 96, 3)."""
    maps = point_attention_maps(model, square, [(SIDE // 2, SIDE // 2)])
    ((heads,),) = maps.values()
    values = F.interpolate(heads.mean(dim=0)[None, None].float(), size=(SIDE, SIDE), mode='bilinear')[0, 0]
    values = (values - values.min()) / (values.max() - values.min()).clamp(min=1e-6)
    colors = 255 * matplotlib.colormaps['inferno'](values.numpy())[..., :3]
    gray = to_picture(square).mean(axis=2, keepdims=True)
    return (OPACITY * colors + (1 - OPACITY) * gray).astype(np.uint8)
