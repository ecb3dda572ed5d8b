"""Pictures of a training batch. `draw_pictures.register` adds a function for another class of model."""

from collections.abc import Sequence
from functools import singledispatch
from typing import NamedTuple

import numpy as np
import torch
from mmpretrain.models import BaseClassifier
from mmseg.models import BaseSegmentor
from torch import nn, Tensor
from torch.nn import functional as F

from beit_mm.models import MaskedImageModel, VectorQuantisedTokenizer
from beit_mm.models.tokenizers.tokenizer import codebook_use, Tokenizer

from .reconstruction import can_decode, draw_reconstructions, gray_out, reconstruct_batch, to_uint8
from .sheets import draw_sheet, draw_text, fit_to_cell, generate_palette, segmentation_panel, stack_rows, to_picture

CELL = 160  # smaller than in reports, because there are many
NUM_COLUMNS = 4


class Pictures(NamedTuple):
    """Images, uint8 RGB (H, W, 3), by names that become parts of file names; and numbers by tag."""

    images: dict[str, np.ndarray]
    scalars: dict[str, float]


@singledispatch
def draw_pictures(model: nn.Module, batch: dict, num_images: int, meta: dict) -> Pictures:
    """Pictures of the first images of a batch.

    Args:
        model: without wrappers, in evaluation mode, without gradients.
        batch: as the loader gives it.
        num_images: the most images that are drawn. Numbers are those of the whole batch.
        meta: of the data set, with `classes` and `palette` if it has any.

    Raises:
        NotImplementedError: If nothing is registered for this class of model.
    """
    raise NotImplementedError(f'no pictures are known for {type(model).__name__}')


@draw_pictures.register
def _(model: MaskedImageModel, batch: dict, num_images: int, meta: dict) -> Pictures:
    """The mask; if visual tokens are predicted, also what they decode to and the use of the codebook."""
    data = model.data_preprocessor(batch)
    few = {key: data[key][:num_images] for key in ('inputs', 'views', 'mask')}
    tokenizer = getattr(model.target, 'tokenizer', None)
    if can_decode(tokenizer):
        sheet = draw_reconstructions(reconstruct_batch(model, **few), cell=CELL)
    else:
        masked = gray_out(few['views'], few['mask'])
        sheet = draw_sheet({'original': to_uint8(few['views']), 'masked': to_uint8(masked)}, cell=CELL)
    images, scalars = dict(reconstruction=np.asarray(sheet)), {}
    if tokenizer is not None:
        images['codebook'], scalars = describe_codebook(tokenizer.encode(data['views']), tokenizer.vocab_size)
    return Pictures(images, scalars)


@draw_pictures.register
def _(model: Tokenizer, batch: dict, num_images: int, meta: dict) -> Pictures:
    """Images, what their tokens decode to, and the use of the codebook."""
    images = model.data_preprocessor(batch)['inputs']
    tokens = model.encode(images)
    few, decoded = images[:num_images], model.decode(tokens[:num_images])
    decibels = -10 * (decoded - few).square().flatten(1).mean(dim=1).log10()
    captions = [f'PSNR {value:.1f} dB' for value in decibels.tolist()]
    sheet = draw_sheet({'original': to_uint8(few), 'tokens decoded': to_uint8(decoded)}, captions, cell=CELL)
    chart, scalars = describe_codebook(tokens, model.vocab_size)
    return Pictures(dict(reconstruction=np.asarray(sheet), codebook=chart), scalars)


@draw_pictures.register
def _(model: VectorQuantisedTokenizer, batch: dict, num_images: int, meta: dict) -> Pictures:
    """Images, how far the decoded features of every patch are from the teacher's, and the use of the codebook."""
    images = model.data_preprocessor(batch)['inputs']
    tokens, few = model.encode(images), images[:num_images]
    distances = model.distances(model.decode_features(tokens[:num_images]), few)  # 1 - cosine: black is equal
    captions = [f'distance to the teacher {value:.3f}' for value in distances.mean(dim=(1, 2)).tolist()]
    maps = F.interpolate(distances[:, None], size=few.shape[2:]).expand(-1, 3, -1, -1)
    sheet = draw_sheet({'original': to_uint8(few), 'distance': to_uint8(maps)}, captions, cell=CELL)
    chart, scalars = describe_codebook(tokens, model.vocab_size)
    return Pictures(dict(distances=np.asarray(sheet), codebook=chart), scalars)


@draw_pictures.register
def _(model: BaseSegmentor, batch: dict, num_images: int, meta: dict) -> Pictures:
    """Images, and over them the ground truth and the prediction, with the names of classes."""
    few = {key: batch[key][:num_images] for key in ('inputs', 'data_samples')}
    data = model.data_preprocessor(few, training=True)  # padded to one size, as in training
    predicted = model(data['inputs'], mode='predict')
    truths, labels = [], []
    for image, sample, prediction in zip(few['inputs'], data['data_samples'], predicted):
        height, width = image.shape[1:]  # without the padding
        truths.append(sample.gt_sem_seg.data[0, :height, :width].cpu().numpy())
        labels.append(prediction.pred_sem_seg.data[0, :height, :width].cpu().numpy())
    classes = meta.get('classes')
    palette = meta.get('palette') or generate_palette(len(classes or range(model.num_classes)))
    panel = segmentation_panel(_to_rgb(few['inputs']), truths, labels, palette, classes)
    return Pictures(dict(segmentation=np.asarray(panel)), {})


@draw_pictures.register
def _(model: BaseClassifier, batch: dict, num_images: int, meta: dict) -> Pictures:
    """Images as augmented, but not mixed, above their class and the predicted class."""
    inputs, cells = batch['inputs'][:num_images], []
    predicted = model(**model.data_preprocessor(dict(inputs=inputs)), mode='predict')
    # An ImageNet class has several names, 'tench, Tinca tinca'; the first is shown.
    names = [str(name).split(',')[0] for name in meta.get('classes') or range(len(predicted[0].pred_score))]
    for image, sample, prediction in zip(_to_rgb(inputs), batch['data_samples'], predicted):
        picture, truths = fit_to_cell(image, CELL), sample.gt_label.tolist()
        score, best = (value.item() for value in prediction.pred_score.max(dim=0))
        true = draw_text(f'true: {" and ".join(names[label] for label in truths)}', width=picture.width)
        color = 'green' if best in truths else 'red'
        guess = draw_text(f'{100 * score:.0f} %: {names[best]}', color, picture.width)
        cells.append(stack_rows([[picture], [true], [guess]], gap=0))
    grid = stack_rows([cells[start : start + NUM_COLUMNS] for start in range(0, len(cells), NUM_COLUMNS)])
    return Pictures(dict(classification=np.asarray(grid)), {})


def _to_rgb(images: Sequence[Tensor]) -> list[np.ndarray]:
    """Images of the hosts' pipelines, (C, H, W) in BGR, to uint8 RGB (H, W, 3)."""
    return [to_picture(image.permute(1, 2, 0).cpu().numpy()) for image in images]


def describe_codebook(tokens: Tensor, vocab_size: int) -> tuple[np.ndarray, dict[str, float]]:
    """How much of its vocabulary a tokenizer uses for the tokens (B, h, w) of a batch.

    Returns:
        A chart of the share of every token, the most frequent first, uint8 RGB (H, W, 3); and `codebook/perplexity`,
        1 to vocab_size, and `codebook/used_codes`, in percent, which both grow with the number of images.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = torch.bincount(tokens.flatten(), minlength=vocab_size)
    numbers = {f'codebook/{name}': value.item() for name, value in codebook_use(counts).items()}
    shares = (counts[counts > 0].sort(descending=True).values / counts.sum()).cpu().numpy()
    figure = Figure(figsize=(7, 3.5), dpi=100)  # pyplot would keep it
    figure.subplots_adjust(left=0.1, right=0.98, bottom=0.15, top=0.9)  # a layout engine would draw it twice
    axes = figure.add_subplot(xlabel='visual tokens, the most frequent first', ylabel='share of all patches')
    axes.stairs(shares, np.arange(len(shares) + 1) + 0.5, fill=True, baseline=shares.min() / 2)
    axes.axhline(1 / vocab_size, color='black', linestyle='--', linewidth=1, label='all tokens equally often')
    axes.set(yscale='log', xlim=(0.5, vocab_size + 0.5))
    use = f'{len(shares):,} of {vocab_size:,} visual tokens used by {len(tokens)} images'
    axes.set_title(f'{use}, perplexity {numbers["codebook/perplexity"]:,.1f}', fontsize=11)
    axes.legend(loc='upper right')
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy(), numbers
