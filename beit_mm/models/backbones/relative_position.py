"""Relative position bias: the index of offsets, the bias of a grid, and tables moved from one grid to another.

A table has (2h-1)(2w-1)+3 rows for a grid of h x w patches: one per offset between two patches, then class-to-patch,
patch-to-class and class-to-class (arXiv 2106.08254, section 2.2, and the released code).
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from scipy.interpolate import make_interp_spline
from torch import nn, Tensor

Grid = tuple[int, int]
NUM_CLASS_ROWS = 3


def num_offsets(grid: Grid) -> int:
    """Rows of a bias table for a patch grid (rows, columns), without the three of the class token."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1)


def relative_position_index(grid: Grid) -> np.ndarray:
    """Table row of every (query, key) pair.

    Args:
        grid: patches (h, w).

    Returns:
        int64 (1 + h * w, 1 + h * w); index 0 is the class token.
    """
    height, width = grid
    rows, columns = (axis.ravel() for axis in np.indices(grid))
    offset_rows = rows[:, None] - rows[None] + height - 1
    offset_columns = columns[:, None] - columns[None] + width - 1
    class_row = num_offsets(grid)
    index = np.full((1 + height * width,) * 2, class_row + 2)
    index[0, 1:] = class_row
    index[1:, 0] = class_row + 1
    index[1:, 1:] = offset_rows * (2 * width - 1) + offset_columns
    return index


def grid_of_index(index: Tensor) -> Tensor | None:
    """The grid that a relative position index was made for, int64 (2,); None if it is no such index."""
    if index.ndim != 2 or index.shape[0] != index.shape[1] or index.shape[0] < 2:
        return None
    offsets = index[1, 1:].long()  # of the first patch to all: falls by one within a row
    breaks = (offsets.diff() != -1).nonzero().flatten()
    columns = int(breaks[0]) + 1 if len(breaks) else len(offsets)
    grid = (len(offsets) // columns, columns)
    if grid[0] * grid[1] != len(offsets) or not np.array_equal(relative_position_index(grid), index.long().cpu()):
        return None
    return torch.tensor(grid)


def _geometric_positions(source: int, target: int) -> np.ndarray:
    """Where the offsets of a source axis lie, in patches of the target: steps 1, q, q^2 ... away from the centre.

    q is bisected in [1.01, 1.5] as in the release's fine-tuning script. Where even 1.5 does not reach the target's
    last offset, the offsets beyond take the value of the last source offset, as there.
    """
    half, reach = source - 1, target - 1
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if sum(ratio**i for i in range(half)) > reach:
            high = ratio
        else:
            low = ratio
    steps = np.cumsum([ratio**i for i in range(half)])
    return np.concatenate([-steps[::-1], [0.0], steps])


@lru_cache(maxsize=64)
def axis_matrix(source: int, target: int) -> np.ndarray:
    """Matrix that resizes one axis of a bias table, float64 (2 * target - 1, 2 * source - 1).

    A larger axis is read with a cubic spline over geometrically spaced source offsets. An axis that does not grow
    keeps the centre of the table as it is: those offsets were trained as such (the release would squeeze the whole
    table into the smaller one).
    """
    num_source, num_target = 2 * source - 1, 2 * target - 1
    if target <= source:
        return np.eye(num_source)[source - target : source - target + num_target]
    if source == 1:
        return np.ones((num_target, 1))
    positions = _geometric_positions(source, target)
    wanted = np.arange(-(target - 1), target, dtype=np.float64).clip(positions[0], positions[-1])
    # Interpolation is linear in the values, so the splines of the unit vectors are the matrix. Not-a-knot ends make it
    # the spline of SciPy's RectBivariateSpline; three offsets (a grid of two) allow a parabola only.
    return make_interp_spline(positions, np.eye(num_source), k=min(3, num_source - 1))(wanted)


@lru_cache(maxsize=64)
def _axis_tensors(source: Grid, target: Grid, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    # Whoever fills the cache, in whatever mode, training must be able to use what is in it.
    with torch.inference_mode(False):
        return tuple(torch.as_tensor(axis_matrix(s, t), dtype=dtype, device=device) for s, t in zip(source, target))


def expand_bias(table: Tensor, source: Grid, target: Grid) -> Tensor:
    """Resize a relative position bias table to another patch grid; differentiable.

    Source offsets are laid out in a geometric progression so that the centre keeps its resolution, then read with a
    bicubic spline at the integer offsets of the target (BEiT release, fine-tuning script).

    Args:
        table: (num_offsets(source) + 3, num_heads); the last three rows belong to the class token and are kept.
        source, target: patch grids (rows, columns).

    Returns:
        (num_offsets(target) + 3, num_heads), in the table's dtype.

    Raises:
        ValueError: If the table does not fit the source grid; the message gives both sizes.
    """
    if table.shape[0] != num_offsets(source) + NUM_CLASS_ROWS:
        raise ValueError(
            f'a relative position bias table for a grid of {source[0]} x {source[1]} patches must have '
            f'{num_offsets(source) + NUM_CLASS_ROWS} rows, got {table.shape[0]}'
        )
    if tuple(source) == tuple(target):
        return table
    dtype = torch.promote_types(table.dtype, torch.float32)
    rows, columns = _axis_tensors(tuple(source), tuple(target), dtype, table.device)
    offsets, class_rows = table[:-NUM_CLASS_ROWS], table[-NUM_CLASS_ROWS:]
    offsets = offsets.to(dtype).reshape(2 * source[0] - 1, 2 * source[1] - 1, -1)
    with torch.autocast(table.device.type, enabled=False):  # the same at run time as at load time
        offsets = torch.einsum('yr,rch,xc->yxh', rows, offsets, columns).flatten(0, 1)
    return torch.cat([offsets.to(table.dtype), class_rows])


def infer_grid(num_rows: int, target: Grid) -> Grid:
    """The grid that a table of num_rows rows was trained on: the target's own, else a square, else nearest in aspect.

    Raises:
        ValueError: If no grid has that many rows.
    """
    offsets = num_rows - NUM_CLASS_ROWS
    if offsets == num_offsets(target):
        return tuple(target)
    grids = [
        ((side + 1) // 2, (offsets // side + 1) // 2)
        for side in range(1, max(offsets, 0) + 1, 2)
        if offsets % side == 0 and offsets // side % 2
    ]
    if not grids:
        raise ValueError(f'a relative position bias table must have (2h-1)(2w-1)+3 rows, got {num_rows}')
    return nearest_grid(grids, target)


def nearest_grid(grids: Sequence[Grid], target: Grid) -> Grid:
    """The square among possible grids, else that whose aspect ratio is nearest to the target's."""
    square = [grid for grid in grids if grid[0] == grid[1]]
    aspect = np.log(target[0] / target[1])
    return square[0] if square else min(grids, key=lambda grid: abs(np.log(grid[0] / grid[1]) - aspect))


class RelativePositionBias(nn.Module):
    """A learned bias table, read for any grid.

    Args:
        grid: patches (h, w) that the table is made for.
        num_heads: number of attention heads.
    """

    def __init__(self, grid: Grid, num_heads: int):
        super().__init__()
        self.grid = tuple(grid)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(num_offsets(grid) + NUM_CLASS_ROWS, num_heads))

    def forward(self, grid: Grid, dtype: torch.dtype) -> Tensor:
        """Bias (1, num_heads, N, N) with N = 1 + h * w for a grid (h, w), in the dtype of the queries."""
        return bias_of_grid(self.relative_position_bias_table, self.grid, grid, dtype)


@lru_cache(maxsize=16)
def _padded_index(grid: Grid, device: torch.device) -> Tensor:
    index = relative_position_index(grid)
    index = np.pad(index, ((0, 0), (0, -index.shape[1] % 8)))
    with torch.inference_mode(False):
        return torch.as_tensor(index, device=device)


def bias_of_grid(table: Tensor, source: Grid, target: Grid, dtype: torch.dtype) -> Tensor:
    """Attention bias (1, num_heads, N, N) of a target grid from a table of a source grid.

    The rows lie 8-aligned in memory and in the queries' dtype: the memory-efficient attention kernel wants the one,
    and a float32 bias beside bfloat16 queries is silently wrong in cuDNN's.
    """
    index = _padded_index(tuple(target), table.device)
    rows = expand_bias(table, source, target).t().contiguous()  # (num_heads, offsets + 3)
    if not torch.is_grad_enabled():
        rows = rows.to(dtype)
    # In training it is cast after: the backward sums many places into one offset, which wants the table's precision.
    # index_select is several times as fast as indexing, above all backward.
    bias = rows.index_select(1, index.flatten()).view(-1, *index.shape).to(dtype)
    return bias[None, :, :, : index.shape[0]]
