"""Mask generators: transforms that add `mask`, bool (h, w), True where masked, with an exact number of patches."""

import math
import random
from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from mmcv.transforms import BaseTransform

from beit_mm.errors import UserError
from beit_mm.registry import TRANSFORMS

# The generator of arXiv 2106.08254 falls short in one mask of three at 75 of 196 patches. 30 short masks in a row
# mean that blocks alone do not reach the number.
MAX_REDRAWS = 30
ATTEMPTS_PER_BLOCK = 10  # as in the release


class MaskGenerator(BaseTransform):
    """Base of the mask generators.

    Args:
        grid: patches (h, w).
        num_masked: number of patches to mask, 1 to h * w; ValueError otherwise.
    """

    def __init__(self, grid: Sequence[int], num_masked: int):
        self.grid = rows, columns = (grid[0], grid[1])
        self.num_patches = rows * columns
        self.num_masked = num_masked
        if not 1 <= num_masked <= self.num_patches:
            raise UserError(
                f'num_masked must be 1 to {self.num_patches}, the patches of a grid of {rows} x {columns}, '
                f'got {num_masked}'
            )

    @abstractmethod
    def generate(self) -> np.ndarray:
        """A new mask, bool (h, w), from Python's random numbers."""

    def transform(self, results: dict) -> dict:
        results['mask'] = self.generate()
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(grid={self.grid}, num_masked={self.num_masked})'


@TRANSFORMS.register_module()
class RandomMaskGenerator(MaskGenerator):
    """Single patches, drawn without replacement (ablation of the paper)."""

    def generate(self) -> np.ndarray:
        mask = np.zeros(self.num_patches, dtype=bool)
        mask[random.sample(range(self.num_patches), self.num_masked)] = True
        return mask.reshape(self.grid)


@TRANSFORMS.register_module()
class BlockwiseMaskGenerator(MaskGenerator):
    """Random rectangles until the number is reached exactly (arXiv 2106.08254, algorithm 1).

    The released generator stops early in one mask of three; here such a mask is drawn again. If 30 masks in a row fall
    short, single patches complete the last.

    Args:
        grid, num_masked: see MaskGenerator.
        min_block_size: patches of the smallest block, before its sides are rounded.
        min_aspect: smallest ratio of height to width, in (0, 1]; the largest is its inverse.
    """

    def __init__(
        self, grid: Sequence[int] = (14, 14), num_masked: int = 75, min_block_size: int = 16, min_aspect: float = 0.3
    ):
        super().__init__(grid, num_masked)
        if not 0 < min_aspect <= 1:
            raise UserError(f'min_aspect must lie in (0, 1], got {min_aspect}')
        if min_block_size < 1:
            raise UserError(f'min_block_size must be at least 1, got {min_block_size}')
        self.min_block_size = min_block_size
        self.log_aspect = -math.log(min_aspect)

    def generate(self) -> np.ndarray:
        for _ in range(MAX_REDRAWS):
            bits, count = self._draw()
            if count == self.num_masked:
                break
        packed = np.frombuffer(bits.to_bytes(-(-self.num_patches // 8), 'little'), np.uint8)
        mask = np.unpackbits(packed, count=self.num_patches, bitorder='little').view(bool)
        if count < self.num_masked:
            mask[random.sample(np.flatnonzero(~mask).tolist(), self.num_masked - count)] = True
        return mask.reshape(self.grid)

    def _draw(self) -> tuple[int, int]:
        """Add blocks until the number is reached or none fits; the mask as the bits of an integer, and its count.

        Operations on a Python integer are much faster than NumPy's on an array of this size.
        """
        rows, columns = self.grid
        uniform = random.random
        bits = count = 0
        while count < self.num_masked:
            room = self.num_masked - count
            for _ in range(ATTEMPTS_PER_BLOCK):
                area = self.min_block_size + (room - self.min_block_size) * uniform()
                aspect = math.exp(self.log_aspect * (2 * uniform() - 1))
                height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
                if height >= rows or width >= columns:  # strictly smaller, as in the release
                    continue
                top, left = int((rows - height + 1) * uniform()), int((columns - width + 1) * uniform())
                grown = bits | _rectangle(height, width, columns) << (top * columns + left)
                added = grown.bit_count() - count
                if 0 < added <= room:
                    bits, count = grown, count + added
                    break
            else:
                break
        return bits, count


@lru_cache(maxsize=4096)
def _rectangle(height: int, width: int, columns: int) -> int:
    """A height x width rectangle in the corner of a grid with that many columns, as bits in row-major order."""
    row = (1 << width) - 1
    return sum(row << (index * columns) for index in range(height))
