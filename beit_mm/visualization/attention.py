"""Self-attention of the trunk: maps of whole batches, and of points of an image (arXiv 2106.08254, figure 2)."""

from collections.abc import Sequence
from functools import partial
from itertools import product

import numpy as np
import torch
from torch import nn, Tensor

from beit_mm.datasets.images import (
    count_channels,
    find_loader,
    input_format,
    normalize,
    read_any,
    read_image,
    resize_image,
    size_for,
    Source,
)
from beit_mm.datasets.transforms.crops import channels_first
from beit_mm.errors import UserError
from beit_mm.models import BEiT
from beit_mm.models.backbones.beit import resolve_blocks
from beit_mm.models.backbones.layers import patch_grid
from beit_mm.models.inspection import evaluating, unwrap

from .sheets import fit_to_cell, to_picture

COLORMAP = 'inferno'
OPACITY = 0.65  # of a map over the image in gray
LONG_SIDE, MIN_WIDTH, GAP, TITLE, LABEL = 2.2, 1.1, 0.1, 0.45, 0.3  # inches, of pictures and of the space around them
MAX_PIXELS = 800  # of a picture's longer side; more would only cost time and memory
MARKER = dict(marker='o', markersize=9, clip_on=False)
DOT = dict(MARKER, markerfacecolor='red', markeredgecolor='white', markeredgewidth=1.5)
RING = dict(MARKER, markerfacecolor='none', markeredgecolor='cyan', markeredgewidth=1)  # a color that no map has
Point = tuple[int, int]


@torch.no_grad()
def attention_maps(
    trunk: BEiT, images: Tensor, blocks: Sequence[int], mask: Tensor | None = None, queries: Tensor | None = None
) -> dict[int, Tensor]:
    """Attention probabilities of blocks, from one forward of the trunk in evaluation mode.

    Args:
        trunk: its mode is restored.
        images, mask: as for `BEiT.forward`, on the trunk's device.
        blocks: counted from 0, or back from -1.
        queries: int64 (Q,), the tokens whose attention is wanted: 0 is the class token, 1 + row * w + column a patch;
            None for all.

    Returns:
        By block, counted from 0 and in the order of `blocks`, float32 or wider (B, num_heads, Q, 1 + h * w): the
        attention of the queries to all tokens, the class token first. Each row sums to 1.

    Raises:
        UserError: If there is no such block, or the images or the mask do not fit the trunk.
    """
    maps = dict.fromkeys(resolve_blocks(blocks, len(trunk.blocks)))

    def keep(block: int, attention: nn.Module, args: tuple, kwargs: dict) -> None:
        maps[block] = attention.probabilities(*args, **kwargs, queries=queries)

    layers = {block: trunk.blocks[block].attn for block in maps}
    hooks = [layers[block].register_forward_pre_hook(partial(keep, block), with_kwargs=True) for block in layers]
    try:
        # A block that is already compiled may not see new hooks.
        with evaluating(trunk), torch.compiler.set_stance('force_eager'):
            trunk(images, mask)
    finally:
        for hook in hooks:
            hook.remove()
    return maps


def point_attention_maps(
    model: nn.Module,
    image: Source,
    points: Sequence[Point],
    blocks: Sequence[int] = (-1,),
    size: tuple[int, int] | None = None,
) -> dict[int, Tensor]:
    """Attention of the patches at points of one image to all patches.

    Args:
        model: from `load_model`, with a BEiT as `backbone`.
        image: anything that `read_image` reads.
        points: (x, y), whole pixels of the image as it is in the file, from its top left corner.
        blocks: counted from 0, or back from -1.
        size: (H, W) that the trunk sees, multiples of the patch size; None for the image's own ratio, at most 4 to 1,
            with the shorter side as in training.

    Returns:
        By block, counted from 0, float32 or wider (num_points, num_heads, h, w) on the model's device, for h x w
        patches. What a map lacks to a sum of 1 is the attention to the class token.

    Raises:
        BadImage: If the image cannot be read.
        UserError: If a point is outside the image, there is no such block, the size does not fit, or the model has no
            BEiT.
    """
    model = unwrap(model)
    trunk = getattr(model, 'backbone', None)
    trunk = None if trunk is None else unwrap(trunk)
    if not isinstance(trunk, BEiT):
        actual = f'{type(model).__name__} with {type(trunk).__name__}'
        raise UserError(f'attention maps need a model with a BEiT as backbone, got {actual}')
    channels = count_channels(model)
    image = read_image(image, find_loader(model, channels), channels)
    patch_size = trunk.patch_embed.patch_size
    size = size or size_for(image.shape[:2], patch_size * min(trunk.grid), patch_size)
    grid = patch_grid(size, patch_size)
    queries = torch.tensor([_token_at(point, image.shape[:2], grid) for point in points], dtype=torch.long)
    resized = resize_image(image, size).reshape(*size, channels)
    pixels = channels_first(np.ascontiguousarray(resized))[None]
    inputs = normalize(pixels, input_format(model)).to(trunk.cls_token)
    maps = attention_maps(trunk, inputs, blocks, queries=queries.to(inputs.device))
    return {block: rows[0, :, :, 1:].transpose(0, 1).unflatten(2, grid) for block, rows in maps.items()}


def _token_at(point: Point, size: tuple[int, int], grid: tuple[int, int]) -> int:
    """The token of the patch that has the center of pixel (x, y) of an image of size (H, W)."""
    (x, y), (height, width) = point, size
    if not (0 <= x < width and 0 <= y < height):
        raise UserError(
            f'a point must be in the image, x from 0 to {width - 1} and y from 0 to {height - 1}, got {x},{y}'
        )
    row, column = int((y + 0.5) * grid[0] / height), int((x + 0.5) * grid[1] / width)
    return 1 + row * grid[1] + column


def grid_points(size: tuple[int, int], rows: int, columns: int) -> list[Point]:
    """Points (x, y) in the middle of the cells of a grid over an image of size (H, W), row by row."""
    if rows < 1 or columns < 1:
        raise UserError(f'a grid of points must have at least one row and one column, got {rows} x {columns}')
    ys = [(2 * row + 1) * size[0] // (2 * rows) for row in range(rows)]
    xs = [(2 * column + 1) * size[1] // (2 * columns) for column in range(columns)]
    return [(x, y) for y, x in product(ys, xs)]


def attention_figure(image: Source, points: Sequence[Point], maps: dict[int, Tensor], heads: Sequence[int] = ()):
    """Draw one row per point: the image with the point, then for every block the mean of the heads and chosen heads.

    Maps are drawn over the image in gray, interpolated between the centers of the patches, with a ring around the
    point. The colors of each map run from its lowest to its highest probability, which are printed below it.

    Args:
        image: anything that `read_image` reads.
        points, maps: what `point_attention_maps` took and returned.
        heads: drawn after the mean, counted from 0; UserError if there is no such head.

    Returns:
        A matplotlib Figure; `figure.savefig('attention.png')` writes it, `.pdf` too.
    """
    columns: dict[str, np.ndarray] = {}  # (num_points, h, w)
    for block, tensor in maps.items():
        values = tensor.float().cpu().numpy()  # (num_points, num_heads, h, w)
        columns[f'block {block}\nmean of heads'] = values.mean(axis=1)
        for head in heads:
            if not 0 <= head < values.shape[1]:
                raise UserError(f'a head must be 0 to {values.shape[1] - 1}, got {head}')
            columns[f'block {block}\nhead {head}'] = values[:, head]
    image = to_picture(read_any(image))
    height, width = image.shape[:2]
    if max(height, width) > MAX_PIXELS:
        image = np.asarray(fit_to_cell(image, MAX_PIXELS))
    extent = -0.5, width - 0.5, height - 0.5, -0.5  # so that whole numbers are centers of pixels
    figure, axes = _empty_figure(len(points), 1 + len(columns), (height, width))
    for axis, title in zip(axes[0], ['point', *columns]):
        axis.set_title(title, fontsize=9)
    for row, point in enumerate(points):
        axes[row, 0].imshow(image, extent=extent)
        axes[row, 0].plot(*point, **DOT)
        axes[row, 0].set_xlabel(f'x {point[0]}, y {point[1]}', fontsize=8)
        for axis, values in zip(axes[row, 1:], columns.values()):
            axis.imshow(image.mean(axis=2), extent=extent, cmap='gray', vmin=0, vmax=255)
            axis.imshow(values[row], extent=extent, cmap=COLORMAP, alpha=OPACITY, interpolation='bilinear')
            axis.plot(*point, **RING)
            lowest, highest = (round(float(value), 4) for value in (values[row].min(), values[row].max()))
            axis.set_xlabel(f'{lowest:.2g} to {highest:.2g}', fontsize=8)
    return figure


def _empty_figure(rows: int, columns: int, size: tuple[int, int]):
    """A figure and its axes (rows, columns), for images of size (H, W) with titles above and labels below."""
    from matplotlib.figure import Figure

    # The sizes are computed here because matplotlib's layout engines take many seconds for a hundred pictures.
    height, width = (LONG_SIDE * side / max(size) for side in size)
    width = max(width, MIN_WIDTH)
    across, down = columns * width + (columns + 1) * GAP, TITLE + rows * (height + LABEL)
    figure = Figure(figsize=(across, down), dpi=150)
    figure.subplots_adjust(GAP / across, LABEL / down, 1 - GAP / across, 1 - TITLE / down, GAP / width, LABEL / height)
    axes = figure.subplots(rows, columns, squeeze=False, subplot_kw=dict(xticks=[], yticks=[]))
    for axis in axes.flat:
        axis.spines[:].set_visible(False)
    return figure, axes
