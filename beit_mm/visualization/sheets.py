"""Contact sheets, and label maps drawn over their images with a legend. Images are uint8 RGB (H, W, 3)."""

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from beit_mm.text import show

from .fonts import fit_font

CELL = 224
GAP = 6
LINE = 20  # height of a line of text
GOLDEN_RATIO = 0.618033988749895
LEGEND_WIDTH = 640  # of a picture; the legend of a wider one is enlarged
MIN_WIDTH = 200  # of a picture with a legend
Palette = Sequence[Sequence[int]]  # (R, G, B), 0 to 255, by label


def draw_sheet(
    columns: dict[str, Sequence[np.ndarray]],
    captions: Sequence[str] | None = None,
    legend: Image.Image | None = None,
    cell: int = CELL,
) -> Image.Image:
    """Columns of images of any sizes, each below its name, with a caption below every row and a legend at the bottom.

    The longer side of an image is at most `cell` pixels, see fit_to_cell.
    """
    rows = [[draw_text(name) for name in columns]]
    for index, images in enumerate(zip(*columns.values())):
        rows.append([fit_to_cell(image, cell) for image in images])
        if captions is not None:
            rows.append([draw_text(captions[index])])
    return stack_rows(rows if legend is None else [*rows, [legend]])


def stack_rows(rows: Sequence[Sequence[Image.Image]], gap: int = GAP) -> Image.Image:
    """Rows of pictures on white with aligned columns. A picture alone in its row may be wider than its column."""
    num_columns = max(map(len, rows))
    of_columns = [row for row in rows if len(row) > 1] or rows
    widths = [max(row[column].width for row in of_columns if len(row) > column) for column in range(num_columns)]
    heights = [max(image.height for image in row) for row in rows]
    width = max(sum(widths) + gap * (num_columns - 1), *(row[0].width for row in rows))
    sheet = Image.new('RGB', (width + 2 * gap, sum(heights) + gap * (len(rows) + 1)), 'white')
    top = gap
    for row, height in zip(rows, heights):
        for column, image in enumerate(row):
            sheet.paste(image, (gap + sum(widths[:column]) + gap * column, top))
        top += height + gap
    return sheet


def fit_to_cell(image: np.ndarray, cell: int = CELL) -> Image.Image:
    """An image in its ratio, its longer side at most `cell` pixels. A small one grows by a whole number of times."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture = ImageOps.scale(picture, max(1, cell // max(picture.size)), Image.NEAREST)
    picture.thumbnail((cell, cell), Image.LANCZOS, reducing_gap=None)
    return picture


def to_picture(image: np.ndarray) -> np.ndarray:
    """An image as it is read, (H, W, bands) or (H, W), to uint8 RGB (H, W, 3): the first three bands are blue, green
    and red. Other dtypes than uint8 are spread from black to white.
    """
    if image.ndim == 2 or image.shape[2] < 3:
        image = np.repeat(image.reshape(*image.shape[:2], -1)[..., :1], 3, axis=2)
    image = image[..., 2::-1]
    if image.dtype == np.uint8:
        return image
    image = image.astype(np.float32)
    return (255 * (image - image.min()) / max(float(np.ptp(image)), 1e-6)).astype(np.uint8)


def principal_colors(features: np.ndarray) -> list[np.ndarray]:
    """Features (B, h, w, C) of patches to colors: their first three principal components over all images."""
    batch, height, width, channels = features.shape
    flat = features.reshape(-1, channels).astype(np.float64)
    flat -= flat.mean(axis=0)
    _, _, directions = np.linalg.svd(flat, full_matrices=False)
    parts = flat @ directions[:3].T
    low, high = np.percentile(parts, (2, 98), axis=0)
    colors = np.clip(255 * (parts - low) / np.maximum(high - low, 1e-6), 0, 255).astype(np.uint8)
    return list(colors.reshape(batch, height, width, -1))


def draw_text(text: str, color: str = 'black', width: float = float('inf')) -> Image.Image:
    """A line of text, cut to a width in pixels."""
    text, font = fit_font(show(text))
    if font.getlength(text) > width:
        while text and font.getlength(f'{text}...') > width:
            text = text[:-1]
        text = f'{text}...'
    line = Image.new('RGB', (max(1, round(font.getlength(text) + 0.5)), LINE), 'white')
    ImageDraw.Draw(line).text((0, 2), text, fill=color, font=font)
    return line


def draw_legend(names: Sequence[str], colors: Palette, width: int) -> Image.Image:
    """Names, each after a square of its color, in lines of a width in pixels."""
    picture = Image.new('RGB', (width, LINE * (len(names) + 1)), 'white')
    left = top = 0
    for name, color in zip(names, colors):
        text = draw_text(name, width=width - 2 * LINE)
        entry_width = text.width + LINE + GAP
        if left and left + entry_width > width:
            left, top = 0, top + LINE
        picture.paste(tuple(map(int, color)), (left, top + 4, left + 12, top + 16))
        picture.paste(text, (left + LINE - 2, top))
        left += entry_width + GAP
    return picture.crop((0, 0, width, top + LINE))


def blend_labels(image: np.ndarray, labels: np.ndarray, palette: Palette, opacity: float = 0.6) -> np.ndarray:
    """Draw a label map (H, W) over its image, which stays where a label has no color, such as 255, unlabeled."""
    has_color = (labels >= 0) & (labels < len(palette))
    colors = np.asarray(palette, dtype=np.float32)[np.where(has_color, labels, 0)]
    blended = np.rint((1 - opacity) * image + opacity * colors).astype(np.uint8)
    return np.where(has_color[..., None], blended, image)


def segmentation_panel(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    palette: Palette,
    classes: Sequence[str] | None = None,
    cell: int = CELL,
) -> Image.Image:
    """A sheet of images and their label maps (H, W), 255 for unlabeled, above the names of the classes in the maps."""
    legend = None
    if classes is not None:
        seen = np.unique(np.concatenate([labels.ravel() for labels in (*truths, *predictions)]))
        seen = [label for label in seen if label < min(len(classes), len(palette))]
        width = 3 * max(fit_to_cell(image, cell).width for image in images) + 2 * GAP  # of the three columns
        legend = draw_legend([classes[label] for label in seen], [palette[label] for label in seen], max(width, cell))
    columns = {
        'image': images,
        'ground truth': [blend_labels(image, truth, palette) for image, truth in zip(images, truths)],
        'prediction': [blend_labels(image, labels, palette) for image, labels in zip(images, predictions)],
    }
    return draw_sheet(columns, legend=legend, cell=cell)


def segmentation_overlay(
    image: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str] | None = None,
    palette: Palette | None = None,
    opacity: float = 0.5,
) -> Image.Image:
    """A label map (H, W) over its image, above a legend of its classes with their shares of the area, largest first.

    Args:
        classes: names by label; None for numbers.
        palette: generated if it is None or too short.
        opacity: of the colors, 0 to 1.
    """
    seen, counts = np.unique(labels, return_counts=True)
    if palette is None or len(palette) <= seen[-1]:
        palette = generate_palette(int(seen[-1]) + 1)
    largest = np.argsort(-counts, kind='stable')
    shares = [describe_share(count / labels.size) for count in counts[largest]]
    names = [f'{classes[label] if classes else label} {share}' for label, share in zip(seen[largest], shares)]
    picture = Image.fromarray(blend_labels(image, labels, palette, opacity))
    scale = max(1, picture.width / LEGEND_WIDTH)
    legend_width = round(max(picture.width, MIN_WIDTH) / scale) - 2 * GAP
    legend = draw_legend(names, [palette[label] for label in seen[largest]], legend_width)
    legend = ImageOps.scale(ImageOps.expand(legend, GAP, 'white'), scale)
    return stack_rows([[picture], [legend]], gap=0)


def label_picture(labels: np.ndarray, palette: Palette | None = None) -> Image.Image:
    """A label map (H, W) as a picture whose values are the labels: uint8 with colors as its palette, or uint16 in gray.

    Args:
        palette: at most 256 colors, of the first labels; those of the others are generated.
    """
    picture = Image.fromarray(labels)
    if labels.dtype == np.uint8:
        colors = [*(palette or ()), *generate_palette(256)[len(palette or ()) :]]
        picture.putpalette(np.array(colors, np.uint8).tobytes())
    return picture


def generate_palette(num_classes: int) -> list[tuple[int, ...]]:
    """Colors (R, G, B), 0 to 255: hues a golden section apart, in three brightnesses."""
    hues = [label * GOLDEN_RATIO % 1 for label in range(num_classes)]
    colors = [colorsys.hsv_to_rgb(hue, 0.75, (0.95, 0.75, 0.55)[label % 3]) for label, hue in enumerate(hues)]
    return [tuple(round(255 * part) for part in color) for color in colors]


def describe_share(share: float) -> str:
    """A share, 0 to 1, in percent. One that is not 0 is never printed as 0."""
    return '<0.1 %' if 0 < share < 0.0005 else f'{100 * share:.1f} %'
