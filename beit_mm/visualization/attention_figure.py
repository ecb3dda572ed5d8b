"""Attention maps of points drawn over their image, one point per row (arXiv 2106.08254, figure 2)."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from beit_mm.datasets.images import read_image, resize_image, Source

from .attention import Point

COLOURS = 'inferno'
OPACITY = 0.65  # of a map over the image in grey
LONGER_SIDE, TEXT_WIDTH, GAP, TITLE, LABEL = 2.2, 1.1, 0.1, 0.45, 0.3  # of pictures and around them, in inches
MAX_PIXELS = 800  # of a picture's longer side; more would only cost time and memory
MARKER = dict(marker='o', markersize=9, clip_on=False)
DOT = dict(MARKER, markerfacecolor='red', markeredgecolor='white', markeredgewidth=1.5)
RING = dict(MARKER, markerfacecolor='none', markeredgecolor='cyan', markeredgewidth=1)  # no colour of a map
Extent = tuple[float, float, float, float]


def attention_figure(
    image: Source, points: Sequence[Point], maps: dict[int, Tensor], heads: Sequence[int] = ()
) -> Figure:
    """One row per point: the image with the point on it, then for every block the heads' mean and chosen heads.

    Maps lie over the image in grey, interpolated between the centres of the patches, with a ring around the point.
    The colours of each run from its lowest to its highest probability, which stand below it.

    Args:
        image: whatever `read_image` reads.
        points, maps: what `point_attention_maps` took and gave.
        heads: drawn after the mean, counted from 0.

    Returns:
        A figure; `figure.savefig('attention.png')` writes it, `.pdf` too.

    Raises:
        BadImage: If the image cannot be read.
        ValueError: If there is no such head.
    """
    columns = _columns(maps, heads)
    image = read_image(image)[..., ::-1]
    size = image.shape[:2]
    if max(size) > MAX_PIXELS:
        image = resize_image(image, tuple(max(side * MAX_PIXELS // max(size), 1) for side in size))
    extent = -0.5, size[1] - 0.5, size[0] - 0.5, -0.5  # so that whole numbers are centres of pixels
    figure, axes = _empty_pictures(len(points), 1 + len(columns), size)
    for row, point in enumerate(points):
        _draw_point(axes[row, 0], image, point, extent)
        for axis, values in zip(axes[row, 1:], columns.values()):
            _draw_map(axis, image, point, values[row], extent)
    for axis, title in zip(axes[0], ['point', *columns]):
        axis.set_title(title, fontsize=9)
    return figure


def _columns(maps: dict[int, Tensor], heads: Sequence[int]) -> dict[str, np.ndarray]:
    """Titles and maps (num_points, h, w) of the columns."""
    columns = {}
    for block, given in maps.items():
        given = given.float().cpu().numpy()  # (num_points, num_heads, h, w)
        columns[f'block {block}\nmean of heads'] = given.mean(axis=1)
        for head in heads:
            if not 0 <= head < given.shape[1]:
                raise ValueError(f'a head must be 0 to {given.shape[1] - 1}, got {head}')
            columns[f'block {block}\nhead {head}'] = given[:, head]
    return columns


def _empty_pictures(rows: int, columns: int, size: tuple[int, int]) -> tuple[Figure, np.ndarray]:
    """A figure and its axes (rows, columns), with room for images of size (H, W), titles above and labels below.

    Placed here, as matplotlib's own layouts take many seconds for a hundred pictures.
    """
    height, width = (LONGER_SIDE * side / max(size) for side in size)
    width = max(width, TEXT_WIDTH)
    total = columns * width + (columns + 1) * GAP, TITLE + rows * (height + LABEL)  # inches
    figure = Figure(figsize=total, dpi=150)
    axes = figure.subplots(
        rows,
        columns,
        squeeze=False,
        gridspec_kw=dict(
            left=GAP / total[0],
            right=1 - GAP / total[0],
            wspace=GAP / width,
            bottom=LABEL / total[1],
            top=1 - TITLE / total[1],
            hspace=LABEL / height,
        ),
    )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return figure, axes


def _draw_point(axis: Axes, image: np.ndarray, point: Point, extent: Extent) -> None:
    axis.imshow(image, extent=extent)
    axis.plot(*point, **DOT)
    axis.set_xlabel(f'x {point[0]}, y {point[1]}', fontsize=8)


def _draw_map(axis: Axes, image: np.ndarray, point: Point, values: np.ndarray, extent: Extent) -> None:
    axis.imshow(image.mean(axis=2), extent=extent, cmap='gray', vmin=0, vmax=255)
    axis.imshow(values, extent=extent, cmap=COLOURS, alpha=OPACITY, interpolation='bilinear')
    axis.plot(*point, **RING)
    lowest, highest = (round(float(value), 4) for value in (values.min(), values.max()))
    axis.set_xlabel(f'{lowest:.2g} to {highest:.2g}', fontsize=8)
