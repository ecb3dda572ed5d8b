"""Contact sheets: pictures in rows with named columns, or in a grid, each in its own ratio of height to width."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CELL = 224
GAP = 6
LINE = 20  # height of a line of text
Palette = Sequence[Sequence[int]]


def draw_sheet(
    columns: dict[str, Sequence[np.ndarray]],
    captions: Sequence[str] | None = None,
    legend: Image.Image | None = None,
    cell: int = CELL,
) -> Image.Image:
    """A sheet with one row for each image of a column, and the columns' names above.

    Args:
        columns: for every name its pictures, uint8 RGB (H, W, 3), of any sizes.
        captions: a line of text under every row.
        legend: a picture at the bottom.
        cell: the longer side of a picture is at most so many pixels: larger ones are reduced, smaller ones enlarged
            by a whole number, so that their pixels stay pixels.
    """
    rows = [[draw_text(name) for name in columns]]
    for index, images in enumerate(zip(*columns.values())):
        rows.append([fit(image, cell) for image in images])
        if captions is not None:
            rows.append([draw_text(captions[index])])
    return stack(rows if legend is None else [*rows, [legend]])


def draw_grid(images: Sequence[Image.Image], num_columns: int = 4) -> Image.Image:
    """Pictures row after row."""
    return stack([list(images[start : start + num_columns]) for start in range(0, len(images), num_columns)])


def stack(rows: Sequence[Sequence[Image.Image]], gap: int = GAP) -> Image.Image:
    """Rows of pictures on white, their columns aligned; a picture alone in its row may reach over all columns."""
    num_columns = max(map(len, rows))
    widths = [
        max((row[place].width for row in rows if len(row) > max(place, 1) or num_columns == 1), default=0)
        for place in range(num_columns)
    ]
    heights = [max(image.height for image in row) for row in rows]
    width = max(sum(widths) + gap * (num_columns - 1), *(row[0].width for row in rows))
    sheet = Image.new('RGB', (width + 2 * gap, sum(heights) + gap * (len(rows) + 1)), 'white')
    top = gap
    for row, height in zip(rows, heights):
        for place, image in enumerate(row):
            sheet.paste(image, (gap + sum(widths[:place]) + gap * place, top))
        top += height + gap
    return sheet


def fit(image: np.ndarray, cell: int = CELL) -> Image.Image:
    """A picture uint8 RGB (H, W, 3) in its ratio: reduced to a longer side of `cell`, or enlarged by a whole number."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    longer = max(picture.size)
    if longer > cell:
        size = [max(1, round(side * cell / longer)) for side in picture.size]
        return picture.resize(size, Image.LANCZOS)
    return picture.resize([side * (cell // longer) for side in picture.size], Image.NEAREST)


def draw_text(text: str, colour: str = 'black', width: int | None = None) -> Image.Image:
    """A line of text, cut to a width in pixels if there is one."""
    font = ImageFont.load_default(13)
    if width is not None and font.getlength(text) > width:
        while text and font.getlength(f'{text}...') > width:
            text = text[:-1]
        text = f'{text}...'
    line = Image.new('RGB', (max(1, round(font.getlength(text) + 0.5)), LINE), 'white')
    ImageDraw.Draw(line).text((0, 2), text, fill=colour, font=font)
    return line


def draw_legend(names: Sequence[str], colours: Palette, width: int) -> Image.Image:
    """Names, each after a square of its colour, in lines of a width in pixels."""
    lines: list[list[Image.Image]] = [[]]
    taken = 0
    for name, colour in zip(names, colours):
        text = draw_text(name, width=width - 2 * LINE)
        entry = Image.new('RGB', (text.width + LINE + GAP, LINE), 'white')
        entry.paste(tuple(int(value) for value in colour), (0, 4, 12, 16))
        entry.paste(text, (LINE - 2, 0))
        if lines[-1] and taken + entry.width > width:
            lines.append([])
            taken = 0
        lines[-1].append(entry)
        taken += entry.width + GAP
    picture = Image.new('RGB', (width, LINE * len(lines)), 'white')
    for row, entries in enumerate(lines):
        left = 0
        for entry in entries:
            picture.paste(entry, (left, row * LINE))
            left += entry.width + GAP
    return picture


def blend_labels(image: np.ndarray, labels: np.ndarray, palette: Palette, opacity: float = 0.6) -> np.ndarray:
    """A label map over its image.

    Args:
        image: uint8 RGB (H, W, 3).
        labels: whole numbers (H, W); where there is no colour for one, such as 255, unlabelled, the image stays.
        palette: uint8 RGB of every label from 0.
        opacity: of the colours, 0 to 1.

    Returns:
        uint8 RGB (H, W, 3).
    """
    labelled = (labels >= 0) & (labels < len(palette))
    colours = np.asarray(palette, dtype=np.float32)[np.where(labelled, labels, 0)]
    blended = np.rint((1 - opacity) * image + opacity * colours).astype(np.uint8)
    return np.where(labelled[..., None], blended, image)


def segmentation_panel(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    palette: Palette,
    classes: Sequence[str] | None = None,
    cell: int = CELL,
) -> Image.Image:
    """Images uint8 RGB (H, W, 3) beside their label maps (H, W), which lie over them; 255 is unlabelled.

    With names of classes, those of the labels to be seen stand below.
    """
    legend = None
    if classes is not None:
        seen = np.unique(np.concatenate([labels.ravel() for labels in (*truths, *predictions)]))
        seen = [label for label in seen if label < min(len(classes), len(palette))]
        width = 3 * max(fit(image, cell).width for image in images) + 2 * GAP  # of the three columns
        legend = draw_legend([classes[label] for label in seen], [palette[label] for label in seen], max(width, cell))
    return draw_sheet(
        {
            'image': images,
            'ground truth': [blend_labels(image, truth, palette) for image, truth in zip(images, truths)],
            'prediction': [blend_labels(image, labels, palette) for image, labels in zip(images, predictions)],
        },
        legend=legend,
        cell=cell,
    )
