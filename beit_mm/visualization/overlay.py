"""A label map over its image, with a legend of the classes in it."""
import colorsys
from typing import List, Optional, Sequence, Tuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GOLDEN_RATIO = 0.618033988749895
Colours = Sequence[Sequence[int]]


def generate_palette(num_classes: int) -> List[Tuple[int, int, int]]:
    """Colours (R, G, B), 0 to 255, of classes that have none: hues a golden section apart, in three brightnesses."""
    return [tuple(round(255 * part) for part in colorsys.hsv_to_rgb(label * GOLDEN_RATIO % 1, 0.75,
                                                                    (0.95, 0.75, 0.55)[label % 3]))
            for label in range(num_classes)]


def segmentation_overlay(image: np.ndarray, labels: np.ndarray, classes: Optional[Sequence[str]] = None,
                         palette: Optional[Colours] = None, opacity: float = 0.5) -> Image.Image:
    """A label map drawn over its image; below, the classes in it with their share of the area, the largest first.

    Args:
        image: uint8 (H, W, 3) in RGB.
        labels: (H, W), classes from 0.
        classes: names by label; None for numbers.
        palette: colours (R, G, B), 0 to 255, by label; None for generated ones.
        opacity: of the colours inside of regions, 0 to 1; their borders are opaque.

    Returns:
        The picture, W pixels wide, or wider where the legend needs it, and higher than H by the legend.
    """
    found, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts, kind='stable')
    num_colours = int(found[-1]) + 1
    colours = np.array(generate_palette(num_colours) if palette is None else palette, dtype=np.uint8)
    painted = colours[labels]
    blended = (image * (1 - opacity) + painted * opacity).round().astype(np.uint8)
    border = _borders(labels)
    blended[border] = painted[border]
    entries = [(f'{classes[label] if classes else label} {share:.1%}', tuple(colours[label].tolist()))
               for label, share in zip(found[order].tolist(), (counts[order] / labels.size).tolist())]
    return _with_legend(Image.fromarray(blended), entries)


def _borders(labels: np.ndarray) -> np.ndarray:
    """bool (H, W): where the label to the right or below is another."""
    border = np.zeros(labels.shape, dtype=bool)
    border[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    border[:-1] |= labels[:-1] != labels[1:]
    return border


def _with_legend(picture: Image.Image, entries: Sequence[Tuple[str, Tuple[int, int, int]]]) -> Image.Image:
    size = min(max(picture.width // 45, 12), 36)
    font = ImageFont.load_default(size)
    line, gap = round(1.5 * size), size // 2
    widths = [size + gap + round(font.getlength(text)) for text, _ in entries]
    total = max(picture.width, max(widths) + 2 * gap)
    places, x, y = [], gap, picture.height + gap
    for width in widths:
        if x > gap and x + width + gap > total:
            x, y = gap, y + line
        places.append((x, y))
        x += width + 2 * gap
    sheet = Image.new('RGB', (total, y + line), 'white')
    sheet.paste(picture, (0, 0))
    draw = ImageDraw.Draw(sheet)
    for (x, y), (text, colour) in zip(places, entries):
        draw.rectangle((x, y, x + size, y + size), fill=colour, outline='black')
        draw.text((x + size + gap, y + size / 2), text, fill='black', font=font, anchor='lm')
    return sheet
