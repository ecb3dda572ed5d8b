"""Sheets keep the pictures' ratio, their pixels and their captions; label maps have the colors of their classes."""

import numpy as np
from matplotlib.font_manager import findfont
from PIL import ImageChops

from beit_mm.visualization import fonts
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

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
PALETTE = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]


def plain(height: int, width: int, color=RED) -> np.ndarray:
    return np.full((height, width, 3), color, dtype=np.uint8)


def count(picture, color) -> int:
    return int((np.asarray(picture) == color).all(axis=2).sum())


def test_a_picture_keeps_its_ratio_and_grows_by_whole_numbers():
    for size, expected in [
        ((48, 96), (96, 192)),
        ((224, 224), (224, 224)),
        ((150, 200), (150, 200)),
        ((448, 896), (112, 224)),
        ((1000, 2), (224, 1)),
    ]:
        assert fit_to_cell(plain(*size), 224).size == expected[::-1]
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(fit_to_cell(image, 20)), image.repeat(4, axis=0).repeat(4, axis=1))


def test_a_sheet_has_every_picture_below_its_name_and_above_its_caption():
    columns = {'a': [plain(10, 20), plain(20, 10)], 'b': [plain(10, 20, BLUE), plain(20, 10, BLUE)]}
    pixels = np.asarray(draw_sheet(columns, ['first', 'second'], cell=20))
    assert len(pixels) == 3 * LINE + 10 + 20 + 6 * GAP
    first, second = 2 * GAP + LINE, 4 * GAP + 2 * LINE + 10
    for color in (RED, BLUE):
        rows, _ = np.nonzero((pixels == color).all(axis=2))
        assert len(rows) == 2 * 10 * 20 and set(rows) == {*range(first, first + 10), *range(second, second + 20)}
    for top in (GAP, 3 * GAP + LINE + 10, 5 * GAP + 2 * LINE + 30):  # names and captions
        assert (pixels[top : top + LINE] < 128).all(axis=2).any()


def test_long_names_and_captions_are_not_cut_off():
    name, caption = 'a name much wider than its picture', 'a line that is wider than the only two columns of this sheet'
    sheet = draw_sheet({name: [plain(4, 4)], 'b': [plain(4, 4, BLUE)]}, [caption], cell=4)
    _, columns = np.nonzero((np.asarray(sheet) == BLUE).all(axis=2))
    assert columns.min() == 2 * GAP + draw_text(name).width
    line = draw_text(caption)
    drawn = sheet.crop((GAP, sheet.height - GAP - LINE, GAP + line.width, sheet.height - GAP))
    assert ImageChops.difference(drawn, line).getbbox() is None


def test_text_is_cut_to_a_width_and_a_legend_breaks_lines_at_it():
    assert draw_text('tench, Tinca tinca', width=60).width <= 61 < draw_text('tench, Tinca tinca').width
    names = [f'class {index}' for index in range(9)]
    wide, narrow = (draw_legend(names, [RED] * 9, width) for width in (2000, 250))
    assert wide.height == LINE < narrow.height and narrow.width == 250
    assert count(wide, RED) == count(narrow, RED) == 9 * 12 * 12


def test_names_in_other_scripts_are_readable_or_named(monkeypatch):
    """No letter is the box that a font draws for what it does not have, and no two are alike."""
    letters = [draw_text(letter) for letter in 'äßłжΩ\ufffe']
    shapes = [np.asarray(letter.crop((0, 0, 30, LINE))).tobytes() for letter in letters[:-1]]
    assert len(set(shapes)) == 5 and all(letter.width > 2 for letter in letters)
    warnings = []
    monkeypatch.setattr(fonts, 'print_log', lambda text, **options: warnings.append(text))
    monkeypatch.setattr(fonts, '_font_files', lambda: [findfont('DejaVu Sans')])
    line = draw_text('cat 猫\u4e8c')
    assert 'no font here has the characters 二猫: install one' in warnings[0]
    assert ImageChops.difference(line, draw_text(r'cat \u732b\u4e8c')).getbbox() is not None  # in another font
    assert line.width > draw_text('cat u732bu4e8c').width
    draw_text('cat 猫\u4e8c')
    assert len(warnings) == 1


def test_labels_lie_over_the_image_and_unlabeled_pixels_show_it():
    image, labels = plain(1, 3, (100, 100, 100)), np.array([[0, 1, 255]])
    over = blend_labels(image, labels, [RED, BLUE], opacity=0.5)
    assert over.tolist() == [[[178, 50, 50], [50, 50, 178], [100, 100, 100]]]


def test_the_legend_of_a_panel_has_the_classes_of_its_maps_only():
    labels = [np.array([[0, 2], [255, 2]])]
    panel = segmentation_panel([plain(2, 2, (0, 0, 0))], labels, labels, [RED, BLUE, GREEN], ['sky', 'sea', 'sand'], 40)
    legend = np.asarray(panel)[-LINE - GAP :]
    assert count(legend, RED) == count(legend, GREEN) == 12 * 12 and count(legend, BLUE) == 0


def test_an_overlay_has_the_image_in_colors_and_its_classes_by_their_share():
    image, labels = plain(10, 640, (100, 100, 100)), np.ones((10, 640), np.uint8)
    labels[0, 0] = 2
    picture = np.asarray(segmentation_overlay(image, labels, ['a', 'sky', 'tree'], PALETTE, opacity=0.25))
    assert picture[0, 0].tolist() == [75, 75, 125] and picture[5, 5].tolist() == [75, 125, 75]
    legend = np.asarray(draw_legend(['sky 100.0 %', 'tree <0.1 %'], PALETTE[1:], 628))
    assert np.array_equal(picture[16 : 16 + len(legend), 6:634], legend)
    for width, expected in ((30, MIN_WIDTH), (500, 500), (2560, 2560)):  # the legend has room, and grows with the image
        picture = segmentation_overlay(plain(20, width), np.zeros((20, width), np.uint8), ['sky'], PALETTE)
        assert picture.size == (expected, 20 + (20 + 12) * max(1, width // 640))
    for share, text in ((0, '0.0 %'), (1e-6, '<0.1 %'), (0.0005, '0.1 %'), (1, '100.0 %')):
        assert describe_share(share) == text


def test_generated_colors_differ_and_replace_a_palette_that_is_too_short():
    palette = generate_palette(150)
    assert len(set(palette)) == 150 and generate_palette(10) == palette[:10]
    neighbors = np.abs(np.diff(np.array(palette[:20]), axis=0)).sum(axis=1)
    assert neighbors.min() > 60
    for palette in (None, PALETTE):
        assert segmentation_overlay(plain(1, 2), np.array([[0, 255]]), None, palette).width == MIN_WIDTH
