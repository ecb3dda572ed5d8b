"""Bias tables moved from one grid to another, against SciPy's splines."""

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline
from scipy.optimize import brentq

from beit_mm.models.backbones.relative_position import (
    expand_bias,
    infer_grid,
    locate,
    num_table_rows,
    RelativePositionBias,
)


def table_of(grid, heads=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(grid[0] * 100 + grid[1])
    return torch.randn(num_table_rows(grid), heads, generator=generator, dtype=dtype)


def as_map(table, grid):
    """(2h - 1, 2w - 1, heads) as NumPy, without the class token's rows."""
    return table[:-3].reshape(2 * grid[0] - 1, 2 * grid[1] - 1, -1).numpy()


def geometric(source, target):
    """Offsets of a source axis, 1 + q + q^2 ... from the centre, the last of them on the target's last."""

    def last(ratio):
        return sum(ratio**i for i in range(source - 1))

    ratio = 1.5 if last(1.5) < target - 1 else brentq(lambda q: last(q) - (target - 1), 1.01, 1.5, xtol=1e-12)
    steps = np.cumsum(ratio ** np.arange(source - 1))
    return np.concatenate([-steps[::-1], [0], steps])


def resize_axis(offsets, source, target):
    """The first axis: a cubic spline over geometric offsets where it grows, else its centre."""
    if target <= source:
        return offsets[source - target : source + target - 1]
    positions = geometric(source, target)
    wanted = np.arange(-(target - 1), target).clip(positions[0], positions[-1])
    return CubicSpline(positions, offsets, bc_type='not-a-knot')(wanted)


GROWN = [((5, 7), (7, 10)), ((14, 14), (20, 24)), ((3, 4), (8, 5))]  # 8 rows are more than ratio 1.5 reaches
SHRUNK = [((6, 8), (4, 5)), ((14, 14), (1, 14)), ((5, 5), (4, 5))]


@pytest.mark.parametrize('source, target', [*GROWN, *SHRUNK, ((6, 5), (4, 7)), ((5, 6), (7, 4))])
def test_an_axis_that_grows_is_a_spline_over_geometric_offsets_and_another_keeps_its_centre(source, target):
    table = table_of(source)
    resized, offsets = as_map(expand_bias(table, source, target), target), as_map(table, source)
    expected = resize_axis(offsets, source[0], target[0]).swapaxes(0, 1)
    expected = resize_axis(expected, source[1], target[1]).swapaxes(0, 1)
    # The release bisects the ratio to 1e-6 only, which moves the outermost offsets by up to 2e-4.
    assert np.abs(resized - expected).max() <= (0 if (source, target) in SHRUNK else 5e-4)
    if target[0] == 8:  # the offsets -7 to -4 repeat the last of the source, which lies at 1 + 1.5
        np.testing.assert_allclose(resized[0], resized[3], atol=1e-12)


def test_rows_of_the_class_token_are_kept_and_a_gradient_passes():
    table = table_of((4, 5))
    for target in ((7, 9), (2, 3), (3, 7), (1, 1), (4, 5)):
        assert torch.equal(expand_bias(table, (4, 5), target)[-3:], table[-3:])
    assert torch.equal(expand_bias(table, (4, 5), (4, 5)), table)
    table = table_of((3, 2), heads=1).requires_grad_()
    for target in ((4, 3), (2, 3), (1, 1)):
        assert torch.autograd.gradcheck(lambda t: expand_bias(t, (3, 2), target), table)


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_the_dtype_of_the_table_is_kept(dtype):
    table = table_of((4, 4)).to(dtype)
    resized, exact = expand_bias(table, (4, 4), (6, 6)), expand_bias(table.double(), (4, 4), (6, 6))
    assert resized.dtype == dtype
    assert (resized.double() - exact).abs().max() < 4 * torch.finfo(dtype).eps * exact.abs().max()


@pytest.mark.parametrize('source', [1, 2])
@pytest.mark.parametrize('target', [1, 2, 3, 5])
def test_grids_of_one_and_two_patches_are_defined(source, target):
    table = table_of((source, 3))
    resized = expand_bias(table, (source, 3), (target, 3))
    assert resized.shape == (num_table_rows((target, 3)), 2) and resized.isfinite().all()
    rows, source_rows = as_map(resized, (target, 3)), as_map(table, (source, 3))
    np.testing.assert_allclose(rows[target - 1], source_rows[source - 1], atol=1e-12)  # the centre stays
    if source == 1:
        np.testing.assert_allclose(rows, np.broadcast_to(source_rows, rows.shape), atol=1e-12)
    elif target > 2:  # three offsets carry a parabola, constant beyond the last, which lies at -1 or where 1.5 ends
        np.testing.assert_allclose(rows[target - 2], source_rows[0], atol=1e-12)
        np.testing.assert_allclose(rows[0], source_rows[0], atol=1e-12)


@pytest.mark.parametrize(
    'grid, target, expected',
    [
        ((14, 14), (14, 14), (14, 14)),
        ((14, 14), (8, 30), (14, 14)),  # a square before any other
        ((4, 6), (4, 6), (4, 6)),
        ((4, 6), (8, 12), (4, 6)),  # no square has 7 x 11 offsets: nearest in aspect
        ((6, 4), (8, 12), (4, 6)),
        ((6, 4), (12, 8), (6, 4)),
        ((1, 1), (5, 5), (1, 1)),
    ],
)
def test_the_grid_of_a_table_is_the_targets_else_square_else_nearest_in_aspect(grid, target, expected):
    assert infer_grid(num_table_rows(grid), target) == expected


@pytest.mark.parametrize('num_rows', [0, 2, 3, 7, 3 + 26])
def test_a_table_that_no_grid_or_another_grid_has_is_refused(num_rows):
    with pytest.raises(ValueError, match=f'got {num_rows}$'):
        infer_grid(num_rows, (4, 4))
    with pytest.raises(ValueError, match=f'4 x 4 patches must have 52 rows, got {num_rows}'):
        expand_bias(torch.zeros(num_rows, 2), (4, 4), (6, 6))


@pytest.mark.parametrize('grid, dtype', [((2, 3), torch.float32), ((4, 4), torch.float32), ((5, 3), torch.bfloat16)])
def test_the_bias_is_float32_and_its_rows_are_aligned_to_eight(grid, dtype):
    bias = RelativePositionBias((4, 4), 4).to(dtype)
    torch.nn.init.normal_(bias.relative_position_bias_table)
    num_tokens = 1 + grid[0] * grid[1]
    value = bias(locate((4, 4), grid, dtype, torch.device('cpu')))
    assert value.dtype == torch.float32 and value.shape[:3] == (1, 4, num_tokens)
    assert value.is_contiguous() and value.shape[3] % 8 == 0
    value[..., :num_tokens].sum().backward()
    assert bias.relative_position_bias_table.grad[-1].tolist() == [1.0] * 4
    assert bias.relative_position_bias_table.grad[-3].tolist() == [float(num_tokens - 1)] * 4
