"""The figure of attention maps: pictures keep their shape, and points and maps lie where they belong."""

from io import BytesIO

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from beit_mm.visualization import attention_figure

GREY = np.full((60, 90, 3), 128, dtype=np.uint8)
ONE_PATCH = torch.zeros(1, 2, 4, 6)
ONE_PATCH[:, :, 2, 4] = 0.5  # of x 60 to 74, y 30 to 44


def pictures(figure) -> list:
    """The rendered pictures of the first row as arrays, without what is around them."""
    file = BytesIO()
    figure.savefig(file, format='png')
    sheet = np.asarray(Image.open(file).convert('RGB')).astype(int)
    found = []
    for axis in figure.axes:
        box = axis.get_window_extent()
        top, bottom = len(sheet) - box.y1, len(sheet) - box.y0
        found.append(sheet[round(top) : round(bottom), round(box.x0) : round(box.x1)])
    return found


def centre(mask: np.ndarray) -> np.ndarray:
    """Mean (x, y) of the True pixels as a share of width and height."""
    assert mask.any()
    rows, columns = mask.nonzero()
    return np.array([columns.mean() + 0.5, rows.mean() + 0.5]) / mask.shape[::-1]


def test_the_marker_and_the_map_lie_where_the_point_is_and_the_ratio_is_kept():
    point = (80, 10)
    first, second = pictures(attention_figure(GREY, [point], {11: ONE_PATCH}))
    expected = np.array([80.5 / 90, 10.5 / 60])
    for picture in (first, second):
        assert picture.shape[1] / picture.shape[0] == pytest.approx(1.5, rel=0.02)
    red = (first[..., 0] > 200) & (first[..., 1:].max(axis=2) < 60)
    assert np.allclose(centre(red), expected, atol=0.01)
    cyan = (second[..., 0] < 90) & (second[..., 1:].min(axis=2) > 200)
    assert np.allclose(centre(cyan), expected, atol=0.01)
    bright = second.sum(axis=2) > 300  # the light end of the colour map, which the patch's centre has
    assert np.allclose(centre(bright & ~cyan), [67.5 / 90, 37.5 / 60], atol=0.02)
    assert second[:10, :10].mean() < 60 and np.allclose(first[:10, :10], 128)


def test_columns_are_the_mean_and_the_chosen_heads_of_every_block():
    maps = {block: torch.rand(3, 4, 2, 3, generator=torch.Generator().manual_seed(block)) for block in (2, 0)}
    maps[0][0, 1] = torch.tensor([1e-9, 0.001234, 0.25]).repeat(2, 1)
    figure = attention_figure(GREY, [(1, 2), (3, 4), (89, 59)], maps, heads=[3, 1])
    axes = np.array(figure.axes).reshape(3, 7)
    names = ['mean of heads', 'head 3', 'head 1']
    assert [axis.get_title() for axis in axes[0]] == [
        'point',
        *(f'block {block}\n{name}' for block in (2, 0) for name in names),
    ]
    for row, point in enumerate([(1, 2), (3, 4), (89, 59)]):
        assert axes[row, 0].get_xlabel() == f'x {point[0]}, y {point[1]}'
        for column, (block, head) in enumerate([(block, head) for block in (2, 0) for head in (None, 3, 1)], start=1):
            expected = maps[block][row].mean(dim=0) if head is None else maps[block][row, head]
            drawn = axes[row, column].images[1].get_array()
            assert np.allclose(drawn, expected)
    assert axes[0, 6].get_xlabel() == '0 to 0.25'


def test_colours_of_the_image_are_its_own_and_a_large_one_is_reduced():
    image = np.zeros((1000, 4000, 3), dtype=np.uint8)
    image[..., 0] = 200  # blue, as images are read in BGR
    figure = attention_figure(image, [(3999, 0)], {0: ONE_PATCH})
    assert figure.axes[0].images[0].get_array().shape == (200, 800, 3)
    first, second = pictures(figure)
    assert np.allclose(first[-10:, :10], [0, 0, 200])
    assert first.shape[1] / first.shape[0] == pytest.approx(4, rel=0.03)


def test_texts_do_not_overlap_below_narrow_pictures():
    maps = {23: ONE_PATCH.expand(2, -1, -1, -1)}
    figure = attention_figure(np.zeros((400, 20, 3), np.uint8), [(1, 2)] * 2, maps, heads=[0, 1])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = [
        text.get_window_extent(renderer)
        for axis in figure.axes
        for text in (axis.title, axis.xaxis.label)
        if text.get_text()
    ]
    assert len(boxes) == 4 + 8
    for number, box in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:number])


def test_a_head_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match='a head must be 0 to 1, got -1'):
        attention_figure(GREY, [(0, 0)], {11: ONE_PATCH}, heads=[0, -1])
