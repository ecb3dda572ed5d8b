"""A picture of a label map: over its image, with a legend of the classes in it."""

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image

from .panels import blend_labels, draw_legend, GAP, Palette

GOLDEN_RATIO = 0.618033988749895
LEGEND_WIDTH = 640  # of an image in pixels up to which the text has its usual size; it grows with larger ones
MIN_WIDTH = 200


def generate_palette(num_classes: int) -> list[tuple[int, int, int]]:
    """Colours (R, G, B), 0 to 255, of classes that have none: hues a golden section apart, in three brightnesses."""
    return [
        tuple(
            round(255 * part)
            for part in colorsys.hsv_to_rgb(label * GOLDEN_RATIO % 1, 0.75, (0.95, 0.75, 0.55)[label % 3])
        )
        for label in range(num_classes)
    ]


def segmentation_overlay(
    image: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str] | None = None,
    palette: Palette | None = None,
    opacity: float = 0.5,
) -> Image.Image:
    """A label map drawn over its image; below, the classes in it with their share of the area, the largest first.

    Args:
        image: uint8 (H, W, 3) in RGB.
        labels: (H, W), classes from 0.
        classes: names by label; None for numbers.
        palette: colours (R, G, B), 0 to 255, by label; generated ones if None, or too few.
        opacity: of the colours, 0 to 1.

    Returns:
        The picture, W pixels wide, at least MIN_WIDTH, and higher than H by the legend.
    """
    found, counts = np.unique(labels, return_counts=True)
    num_colours = int(found[-1]) + 1
    colours = generate_palette(num_colours) if palette is None or len(palette) < num_colours else palette
    order = np.argsort(-counts, kind='stable').tolist()
    names = [
        f'{classes[found[place]] if classes else found[place]} {describe_share(counts[place] / labels.size)}'
        for place in order
    ]
    picture = Image.fromarray(blend_labels(image, labels, colours, opacity))
    scale = max(1, picture.width / LEGEND_WIDTH)
    width = max(picture.width, MIN_WIDTH)
    legend = draw_legend(names, [colours[found[place]] for place in order], round(width / scale) - 2 * GAP)
    legend = legend.resize([round(side * scale) for side in legend.size], Image.BICUBIC)
    margin = round(GAP * scale)
    sheet = Image.new('RGB', (width, picture.height + legend.height + 2 * margin), 'white')
    sheet.paste(picture, (0, 0))
    sheet.paste(legend, (margin, picture.height + margin))
    return sheet


def describe_share(share: float) -> str:
    """A share, 0 to 1, in percent; a positive one is never 0."""
    return '<0.1 %' if 0 < share < 0.0005 else f'{100 * share:.1f} %'
