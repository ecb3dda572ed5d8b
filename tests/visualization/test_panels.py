"""Sheets keep the pictures' ratio, their pixels and their captions."""

import numpy as np
import pytest
from PIL import ImageChops

from beit_mm.visualization.panels import (
    blend_labels,
    draw_grid,
    draw_legend,
    draw_sheet,
    draw_text,
    fit,
    GAP,
    LINE,
    segmentation_panel,
    stack,
)

RED, BLUE = (255, 0, 0), (0, 0, 255)


def plain(height: int, width: int, colour=RED) -> np.ndarray:
    return np.full((height, width, 3), colour, dtype=np.uint8)


@pytest.mark.parametrize(
    'size, expected',
    [
        ((48, 48), (192, 192)),
        ((48, 96), (96, 192)),
        ((224, 224), (224, 224)),
        ((150, 200), (150, 200)),
        ((448, 896), (112, 224)),
        ((1000, 2), (224, 1)),
    ],
)
def test_a_picture_keeps_its_ratio_and_grows_by_whole_numbers(size, expected):
    assert fit(plain(*size), 224).size == expected[::-1]


def test_pixels_of_an_enlarged_picture_stay_pixels():
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(fit(image, 20)), image.repeat(4, axis=0).repeat(4, axis=1))


def test_a_sheet_holds_every_picture_below_its_name_and_above_its_caption():
    sheet = draw_sheet(
        {'a': [plain(10, 20), plain(20, 10)], 'b': [plain(10, 20, BLUE), plain(20, 10, BLUE)]},
        ['first', 'second'],
        cell=20,
    )
    assert sheet.height == 3 * LINE + 10 + 20 + 6 * GAP
    pixels = np.asarray(sheet)
    for colour in (RED, BLUE):
        rows, columns = np.nonzero((pixels == colour).all(axis=2))
        assert len(rows) == 2 * 10 * 20
        assert set(rows) == {
            *range(2 * GAP + LINE, 2 * GAP + LINE + 10),
            *range(4 * GAP + 2 * LINE + 10, 4 * GAP + 2 * LINE + 30),
        }
    for top in (GAP, 3 * GAP + LINE + 10, 5 * GAP + 2 * LINE + 30):  # names and captions
        assert (pixels[top : top + LINE] < 128).all(axis=2).any()


def test_a_long_name_widens_its_column_and_overlaps_no_other():
    name = 'a name much wider than its picture'
    sheet = draw_sheet({name: [plain(4, 4)], 'b': [plain(4, 4, BLUE)]}, cell=4)
    _, columns = np.nonzero((np.asarray(sheet) == BLUE).all(axis=2))
    assert columns.min() == 2 * GAP + draw_text(name).width


def test_a_caption_wider_than_all_columns_is_not_cut_off():
    caption = 'a line that is much wider than the only two columns of this sheet'
    sheet = draw_sheet({'a': [plain(4, 4)], 'b': [plain(4, 4)]}, [caption], cell=4)
    line = draw_text(caption)
    found = sheet.crop((GAP, sheet.height - GAP - LINE, GAP + line.width, sheet.height - GAP))
    assert ImageChops.difference(found, line).getbbox() is None


def test_text_is_cut_to_a_width():
    assert draw_text('tench, Tinca tinca', width=60).width <= 61 < draw_text('tench, Tinca tinca').width


def test_a_grid_goes_on_in_the_next_row():
    pictures = [fit(plain(8, 8, colour), 8) for colour in (RED, RED, BLUE)]
    assert draw_grid(pictures, 2).size == (2 * 8 + 3 * GAP, 2 * 8 + 3 * GAP)
    assert draw_grid(pictures, 4).size == stack([pictures]).size == (3 * 8 + 4 * GAP, 8 + 2 * GAP)


def test_labels_lie_over_the_image_and_unlabelled_places_show_it():
    image, labels = plain(1, 3, (100, 100, 100)), np.array([[0, 1, 255]])
    over = blend_labels(image, labels, [RED, BLUE], opacity=0.5)
    assert over.tolist() == [[[178, 50, 50], [50, 50, 178], [100, 100, 100]]]


def test_the_legend_names_the_classes_to_be_seen_only():
    labels = [np.array([[0, 2], [255, 2]])]
    palette, names = [RED, BLUE, (0, 255, 0)], ['sky', 'sea', 'sand']
    pixels = np.asarray(segmentation_panel([plain(2, 2, (0, 0, 0))], labels, labels, palette, names, cell=40))
    legend = pixels[-LINE - GAP :]
    assert (legend == RED).all(axis=2).sum() == (legend == (0, 255, 0)).all(axis=2).sum() == 12 * 12
    assert not (legend == BLUE).all(axis=2).any()


def test_a_legend_breaks_lines_at_its_width():
    names = [f'class {index}' for index in range(9)]
    one, three = (draw_legend(names, [RED] * 9, width) for width in (2000, 250))
    assert one.height == LINE and three.height > LINE and three.width == 250
    assert all((np.asarray(legend) == RED).all(axis=2).sum() == 9 * 12 * 12 for legend in (one, three))
