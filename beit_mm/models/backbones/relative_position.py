"""Relative position bias: the index of offsets, the bias of a grid, and resizing of tables.

A table has (2h-1)(2w-1)+3 rows for a grid of h x w patches: one per offset between two patches, then class-to-patch,
patch-to-class and class-to-class (arXiv 2106.08254, section 2.2, and the released code).
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from scipy.interpolate import make_interp_spline
from torch import nn, Tensor
from torch.nn import functional as F

from beit_mm.errors import UserError

Grid = tuple[int, int]
# Where to read a bias table for a grid of h x w patches, which have N = 1 + h * w tokens:
# - the table row of every pair of tokens, int64 (N, N'). N' is N rounded up to a multiple of 8, because the
#   memory-efficient attention kernel needs aligned rows;
# - the two matrices that resize the rows and columns of the table to this grid; None if the table has this grid.
Positions = tuple[Tensor, list[Tensor] | None]
NUM_CLASS_ROWS = 3


def num_table_rows(grid: Grid) -> int:
    """Rows of a bias table for a patch grid (rows, columns)."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + NUM_CLASS_ROWS


def relative_position_index(grid: Grid, device: torch.device | str = 'cpu') -> Tensor:
    """Table row of every (query, key) pair of tokens, int64 (1 + h * w, 1 + h * w); index 0 is the class token."""
    height, width = grid
    row_length = 2 * width - 1  # offsets of one row of the table
    positions = torch.arange(height, device=device)[:, None] * row_length + torch.arange(width, device=device)
    positions = positions.flatten()
    index = positions[:, None] - positions + positions[-1]  # from 0
    class_row = num_table_rows(grid) - NUM_CLASS_ROWS
    index = F.pad(index, (0, 0, 1, 0), value=class_row)
    index = F.pad(index, (1, 0, 0, 0), value=class_row + 1)
    index[:1, :1].fill_(class_row + 2)
    return index


def grid_of_index(index: Tensor) -> Tensor | None:
    """The grid of a relative position index, int64 (2,); None if the tensor is no such index."""
    if index.ndim != 2 or index.shape[0] != index.shape[1] or index.shape[0] < 2:
        return None
    if index.layout != torch.strided or index.is_meta or index.untyped_storage().nbytes() < index.nbytes:
        return None  # such as one number expanded to any size
    offsets = index[1, 1:].long()  # of the first patch to all: falls by one within a row
    breaks = (offsets.diff() != -1).nonzero().flatten()
    columns = int(breaks[0]) + 1 if len(breaks) else len(offsets)
    grid = (len(offsets) // columns, columns)
    if grid[0] * grid[1] != len(offsets) or not torch.equal(relative_position_index(grid), index.long().cpu()):
        return None
    return torch.tensor(grid)


def _geometric_positions(source: int, target: int) -> np.ndarray:
    """Positions of a source axis' offsets, in patches of the target: steps 1, q, q^2 ... away from the centre."""
    powers = np.arange(source - 1)
    # As in the release's fine-tuning script. Where even 1.5 does not reach the target's last offset, the offsets beyond
    # take the value of the last source offset.
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (ratio**powers).sum() > target - 1:
            high = ratio
        else:
            low = ratio
    steps = (ratio**powers).cumsum()
    return np.concatenate([-steps[::-1], [0.0], steps])


@lru_cache(maxsize=64)
def axis_matrix(source: int, target: int) -> np.ndarray:
    """Matrix that resizes one axis of a bias table, float64 (2 * target - 1, 2 * source - 1).

    A larger axis is read with a cubic spline over geometrically spaced source offsets. An axis that does not grow keeps
    the centre of the table, whose offsets were trained as they are (the release squeezes the table).
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


@torch.compiler.assume_constant_result  # SciPy cannot be traced
def _axis_tensor(source: int, target: int) -> Tensor:
    return torch.from_numpy(axis_matrix(source, target))


def locate(source: Grid, target: Grid, dtype: torch.dtype, device: torch.device) -> Positions:
    """Positions of the tokens of a target grid, for bias tables of a source grid.

    Nothing is cached: a cached tensor would have the mode (inference, fake) and the device of the first caller.
    """
    index = relative_position_index(target, device)
    index = F.pad(index, (0, -index.shape[1] % 8))
    return index, _resize_matrices(source, target, dtype, device)


def _resize_matrices(source: Grid, target: Grid, dtype: torch.dtype, device: torch.device) -> list[Tensor] | None:
    if source == target:
        return None
    matrices = [_axis_tensor(*sides).to(torch.promote_types(dtype, torch.float32)) for sides in zip(source, target)]
    return [matrix.to(device, non_blocking=True) for matrix in matrices]


def read_bias(table: Tensor, positions: Positions) -> Tensor:
    """Attention bias (1, num_heads, N, N') of a table; float32 or wider, since the backward pass sums many entries."""
    index, resize = positions
    if resize is not None:
        table = _resize(table, *resize)
    rows = table.t().to(torch.promote_types(table.dtype, torch.float32)).contiguous()  # (num_heads, offsets + 3)
    # index_select is several times as fast as indexing, especially in the backward pass.
    return rows.index_select(1, index.flatten()).view(1, -1, *index.shape)


def _resize(table: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    offsets, class_rows = table[:-NUM_CLASS_ROWS], table[-NUM_CLASS_ROWS:]
    offsets = offsets.to(rows.dtype).reshape(rows.shape[1], columns.shape[1], -1)
    with torch.autocast(table.device.type, enabled=False):  # the same at run time as at load time
        offsets = torch.einsum('yr,rch,xc->yxh', rows, offsets, columns).flatten(0, 1)
    return torch.cat([offsets.to(table.dtype), class_rows])


def expand_bias(table: Tensor, source: Grid, target: Grid) -> Tensor:
    """Resize a bias table (num_table_rows(source), num_heads) to another patch grid, see `axis_matrix`; differentiable.

    The last three rows, of the class token, are kept, and the dtype. ValueError if the table is not of the source grid.
    """
    if len(table) != num_table_rows(source):
        raise UserError(
            f'a relative position bias table for a grid of {source[0]} x {source[1]} patches must have '
            f'{num_table_rows(source)} rows, got {len(table)}'
        )
    resize = _resize_matrices(source, target, table.dtype, table.device)
    return table if resize is None else _resize(table, *resize)


def infer_grid(num_rows: int, target: Grid) -> Grid:
    """The grid of a table with num_rows rows, see `nearest_grid`; ValueError if there is none."""
    offsets = num_rows - NUM_CLASS_ROWS
    sides = [side for side in range(1, offsets + 1, 2) if offsets % side == 0 and offsets // side % 2]
    if not sides:
        raise UserError(f'a relative position bias table must have (2h-1)(2w-1)+3 rows, got {num_rows}')
    return nearest_grid([((side + 1) // 2, (offsets // side + 1) // 2) for side in sides], target)


def nearest_grid(grids: Sequence[Grid], target: Grid) -> Grid:
    """The target if it is among the possible grids, else a square, else the aspect ratio nearest to the target's."""
    aspect = np.log(target[0] / target[1])
    return min(grids, key=lambda grid: (grid != target, grid[0] != grid[1], abs(np.log(grid[0] / grid[1]) - aspect)))


class RelativePositionBias(nn.Module):
    """A bias table that all blocks share (pre-training), for a grid (h, w) of patches."""

    def __init__(self, grid: Grid, num_heads: int):
        super().__init__()
        self.relative_position_bias_table = nn.Parameter(torch.zeros(num_table_rows(grid), num_heads))

    def forward(self, positions: Positions) -> Tensor:
        return read_bias(self.relative_position_bias_table, positions)
