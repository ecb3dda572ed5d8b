"""Pictures of label maps: colours over the image, and below a legend that can be read."""

import numpy as np
import pytest

from beit_mm.visualization.overlay import describe_share, generate_palette, MIN_WIDTH, segmentation_overlay
from beit_mm.visualization.panels import draw_legend

PALETTE = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]


def test_colours_lie_over_the_image():
    image, labels = np.full((40, 300, 3), 100, np.uint8), np.zeros((40, 300), np.uint8)
    labels[:, 200:] = 2
    picture = np.asarray(segmentation_overlay(image, labels, ['a', 'b', 'c'], PALETTE, opacity=0.25))
    assert picture.shape[1] == 300
    assert picture[20, 10].tolist() == [125, 75, 75] and picture[20, 290].tolist() == [75, 75, 125]
    below = {tuple(colour) for colour in picture[40:].reshape(-1, 3).tolist()}
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


def test_generated_colours_differ():
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
