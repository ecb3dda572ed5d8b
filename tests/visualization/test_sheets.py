"""Sheets keep the pictures' ratio, their pixels and their captions."""

import numpy as np
import pytest
from PIL import ImageChops

from beit_mm.visualization.sheets import (
    blend_labels,
    describe_share,
    draw_legend,
    draw_sheet,
    draw_text,
    fit_to_cell,
    GAP,
    generate_palette,
    LINE,
    MIN_WIDTH,
    segmentation_overlay,
    segmentation_panel,
)

RED, BLUE = (255, 0, 0), (0, 0, 255)
PALETTE = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]


def plain(height: int, width: int, color=RED) -> np.ndarray:
    return np.full((height, width, 3), color, dtype=np.uint8)


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
    assert fit_to_cell(plain(*size), 224).size == expected[::-1]


def test_pixels_of_an_enlarged_picture_stay_pixels():
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(fit_to_cell(image, 20)), image.repeat(4, axis=0).repeat(4, axis=1))


def test_a_sheet_holds_every_picture_below_its_name_and_above_its_caption():
    sheet = draw_sheet(
        {'a': [plain(10, 20), plain(20, 10)], 'b': [plain(10, 20, BLUE), plain(20, 10, BLUE)]},
        ['first', 'second'],
        cell=20,
    )
    assert sheet.height == 3 * LINE + 10 + 20 + 6 * GAP
    pixels = np.asarray(sheet)
    for color in (RED, BLUE):
        rows, columns = np.nonzero((pixels == color).all(axis=2))
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


def test_labels_lie_over_the_image_and_unlabeled_pixels_show_it():
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


def test_colors_are_drawn_over_the_image():
    image, labels = np.full((40, 300, 3), 100, np.uint8), np.zeros((40, 300), np.uint8)
    labels[:, 200:] = 2
    picture = np.asarray(segmentation_overlay(image, labels, ['a', 'b', 'c'], PALETTE, opacity=0.25))
    assert picture.shape[1] == 300
    assert picture[20, 10].tolist() == [125, 75, 75] and picture[20, 290].tolist() == [75, 75, 125]
    below = {tuple(color) for color in picture[40:].reshape(-1, 3).tolist()}
    assert {PALETTE[0], PALETTE[2]} <= below and PALETTE[1] not in below


def test_the_legend_names_classes_by_their_share_the_largest_first():
    image, labels = np.zeros((10, 640, 3), np.uint8), np.ones((10, 640), np.uint8)
    labels[0, 0] = 0
    legend = np.asarray(draw_legend(['tree <0.1 %', 'sky 100.0 %'][::-1], [PALETTE[1], PALETTE[0]], 628))
    picture = np.asarray(segmentation_overlay(image, labels, ['tree', 'sky'], PALETTE))
    assert np.array_equal(picture[16 : 16 + len(legend), 6:634], legend)


@pytest.mark.parametrize('width, expected', [(30, MIN_WIDTH), (500, 500), (2560, 2560)])
def test_the_legend_has_room_and_grows_with_the_image(width, expected):
    labels = np.zeros((20, width), np.uint8)
    picture = segmentation_overlay(np.zeros((20, width, 3), np.uint8), labels, ['sky'], PALETTE)
    assert picture.width == expected
    assert picture.height == 20 + (20 + 12) * max(1, width // 640)


def test_generated_colors_differ():
    palette = generate_palette(150)
    assert len(set(palette)) == 150 and generate_palette(10) == palette[:10]
    neighbours = np.abs(np.diff(np.array(palette[:20]), axis=0)).sum(axis=1)
    assert neighbours.min() > 60
    labels = np.array([[0, 1], [100, 255]], np.uint8)
    for palette in (None, PALETTE):
        assert segmentation_overlay(np.zeros((2, 2, 3), np.uint8), labels, None, palette).width == MIN_WIDTH


@pytest.mark.parametrize('share, expected', [(0, '0.0 %'), (1e-6, '<0.1 %'), (0.0005, '0.1 %'), (1, '100.0 %')])
def test_a_share_that_is_not_0_is_never_shown_as_0(share, expected):
    assert describe_share(share) == expected
