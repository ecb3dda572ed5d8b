"""Pictures of a batch in training, by the kind of model. Another kind joins in by `draw_pictures.register`."""

from collections.abc import Sequence
from functools import singledispatch
from typing import NamedTuple

import numpy as np
import torch
from mmpretrain.models import BaseClassifier
from mmpretrain.structures import DataSample
from mmseg.models import BaseSegmentor
from torch import nn, Tensor

from beit_mm.models import DiscreteVAE, MaskedImageModel

from .codebook import describe_codebook
from .overlay import generate_palette
from .panels import draw_grid, draw_sheet, draw_text, fit, segmentation_panel, stack
from .reconstruction import can_decode, draw_reconstructions, hide, reconstruct_batch, split_images, to_uint8

CELL = 160  # smaller than on paper, as there are many
RIGHT, WRONG = 'green', 'red'


class Pictures(NamedTuple):
    """What is shown of a batch.

    images: uint8 RGB (H, W, 3) by name, a name being part of a file's.
    scalars: numbers by tag.
    """

    images: dict[str, np.ndarray]
    scalars: dict[str, float]


@singledispatch
def draw_pictures(model: nn.Module, batch: dict, num_images: int, meta: dict) -> Pictures:
    """Pictures of the first images of a batch.

    Args:
        model: without wrappers, in evaluation mode; without gradients.
        batch: as the loader gives it.
        num_images: how many are drawn, at most; numbers are those of the whole batch.
        meta: of the data set, `classes` and `palette`, if it has any.

    Raises:
        NotImplementedError: If nothing is known to be drawn of this kind of model.
    """
    raise NotImplementedError(f'no pictures are known of {type(model).__name__}')


@draw_pictures.register
def _(model: MaskedImageModel, batch: dict, num_images: int, meta: dict) -> Pictures:
    """The mask; where visual tokens are predicted, what they decode to and how many of the codebook there are."""
    data = model.data_preprocessor(batch)
    few = {key: data[key][:num_images] for key in ('inputs', 'views', 'mask')}
    tokenizer = getattr(model.target, 'tokenizer', None)
    if can_decode(tokenizer):
        sheet = draw_reconstructions(split_images(reconstruct_batch(model, **few)), cell=CELL)
    else:
        sheet = draw_sheet(
            {'original': to_uint8(few['views']), 'masked': to_uint8(hide(few['views'], few['mask']))}, cell=CELL
        )
    images, scalars = dict(reconstruction=np.asarray(sheet)), {}
    if tokenizer is not None:
        images['codebook'], numbers = describe_codebook(tokenizer.encode(data['views']), tokenizer.vocab_size)
        scalars = {f'codebook/{name}': value for name, value in numbers.items()}
    return Pictures(images, scalars)


@draw_pictures.register
def _(model: DiscreteVAE, batch: dict, num_images: int, meta: dict) -> Pictures:
    """Images beside what their tokens decode to, and how many of the codebook there are."""
    images = model.data_preprocessor(batch)['inputs']
    tokens = model.encode(images)
    few = images[:num_images]
    decoded = model.decode(tokens[:num_images])
    decibels = -10 * (decoded - few).square().flatten(1).mean(dim=1).log10()
    sheet = draw_sheet(
        {'original': to_uint8(few), 'tokens decoded': to_uint8(decoded)},
        [f'PSNR {value:.1f} dB' for value in decibels.tolist()],
        cell=CELL,
    )
    chart, numbers = describe_codebook(tokens, model.vocab_size)
    return Pictures(
        dict(reconstruction=np.asarray(sheet), codebook=chart),
        {f'codebook/{name}': value for name, value in numbers.items()},
    )


@draw_pictures.register
def _(model: BaseSegmentor, batch: dict, num_images: int, meta: dict) -> Pictures:
    """Images, and over them the ground truth and the prediction, with the names of classes."""
    few = {key: batch[key][:num_images] for key in ('inputs', 'data_samples')}
    data = model.data_preprocessor(few, training=True)  # padded as in training, to one size
    predicted = model(data['inputs'], mode='predict')
    sizes = [image.shape[1:] for image in few['inputs']]
    truths, labels = (
        [_crop(getattr(sample, key).data[0], size) for sample, size in zip(samples, sizes)]
        for samples, key in ((data['data_samples'], 'gt_sem_seg'), (predicted, 'pred_sem_seg'))
    )
    classes = meta.get('classes')
    palette = meta.get('palette') or generate_palette(len(classes or range(model.num_classes)))
    panel = segmentation_panel(_to_rgb(few['inputs']), truths, labels, palette, classes)
    return Pictures(dict(segmentation=np.asarray(panel)), {})


@draw_pictures.register
def _(model: BaseClassifier, batch: dict, num_images: int, meta: dict) -> Pictures:
    """Images as augmented, but not mixed, with their class and the predicted one."""
    inputs = batch['inputs'][:num_images]
    scores = [sample.pred_score for sample in model(**model.data_preprocessor(dict(inputs=inputs)), mode='predict')]
    cells = [
        _label(fit(image, CELL), sample, score, meta.get('classes'))
        for image, sample, score in zip(_to_rgb(inputs), batch['data_samples'], scores)
    ]
    return Pictures(dict(classification=np.asarray(draw_grid(cells))), {})


def _label(picture, sample: DataSample, scores: Tensor, classes: Sequence[str] | None):
    """A picture above its class and the predicted one."""
    score, best = scores.max(dim=0)
    truths: list[int] = sample.gt_label.tolist()
    # Of an ImageNet class the first of its names, 'tench, Tinca tinca'.
    true, predicted = (
        ' and '.join(str(classes[label] if classes else label).split(',')[0] for label in labels)
        for labels in (truths, [best.item()])
    )
    lines = [
        draw_text(f'true: {true}', width=picture.width),
        draw_text(f'{100 * score.item():.0f} %: {predicted}', RIGHT if best.item() in truths else WRONG, picture.width),
    ]
    return stack([[picture], *([line] for line in lines)], gap=0)


def _to_rgb(images: Sequence[Tensor]) -> list[np.ndarray]:
    """Images of the hosts' pipelines, uint8 (3, H, W) in BGR, to uint8 RGB (H, W, 3)."""
    return [image.flip(0).permute(1, 2, 0).cpu().numpy() for image in images]


def _crop(labels: Tensor, size: torch.Size) -> np.ndarray:
    return labels[: size[0], : size[1]].cpu().numpy()
