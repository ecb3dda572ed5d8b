"""Mask generators: transforms that add `mask`, bool (h, w), True where masked, with exactly the count asked for."""

import math
import random
from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from mmcv.transforms import BaseTransform

from beit_mm.registry import TRANSFORMS

# One mask in three falls short (arXiv 2106.08254's generator at 75 of 196 patches), so 30 short ones in a row are
# a sign of a count that blocks alone do not reach.
MAX_REDRAWS = 30
ATTEMPTS_PER_BLOCK = 10  # as in the release


class MaskGenerator(BaseTransform):
    """What all mask generators share.

    Args:
        grid: patches (h, w).
        num_masked: patches to mask, 1 to h * w.

    Raises:
        ValueError: If num_masked lies outside.
    """

    def __init__(self, grid: Sequence[int], num_masked: int):
        self.grid: tuple[int, int] = tuple(grid)
        self.num_patches = self.grid[0] * self.grid[1]
        self.num_masked = num_masked
        if not 1 <= num_masked <= self.num_patches:
            raise ValueError(
                f'num_masked must be 1 to {self.num_patches}, the patches of a grid of '
                f'{self.grid[0]} x {self.grid[1]}, got {num_masked}'
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
    """Patches drawn one by one, without replacement (the paper's ablation)."""

    def generate(self) -> np.ndarray:
        mask = np.zeros(self.num_patches, dtype=bool)
        mask[random.sample(range(self.num_patches), self.num_masked)] = True
        return mask.reshape(self.grid)


@TRANSFORMS.register_module()
class BlockwiseMaskGenerator(MaskGenerator):
    """Rectangles placed uniformly until the count is reached exactly (arXiv 2106.08254, algorithm 1).

    The released generator stops early at one mask in three; here such a mask is drawn anew. A count that blocks
    rarely hit is completed with single patches after 30 redraws, so every count finishes.

    Args:
        grid, num_masked: as in MaskGenerator.
        min_block_size: patches of the smallest block, before rounding of its sides.
        min_aspect: smallest ratio of height to width; the largest is its inverse.
    """

    def __init__(
        self, grid: Sequence[int] = (14, 14), num_masked: int = 75, min_block_size: int = 16, min_aspect: float = 0.3
    ):
        super().__init__(grid, num_masked)
        if not 0 < min_aspect <= 1:
            raise ValueError(f'min_aspect must lie in (0, 1], got {min_aspect}')
        if min_block_size < 1:
            raise ValueError(f'min_block_size must be at least 1, got {min_block_size}')
        self.min_block_size = min_block_size
        self.log_aspect = -math.log(min_aspect)

    def generate(self) -> np.ndarray:
        for _ in range(MAX_REDRAWS):
            bits, count = self._draw()
            if count == self.num_masked:
                break
        mask = np.unpackbits(
            np.frombuffer(bits.to_bytes(-(-self.num_patches // 8), 'little'), np.uint8),
            count=self.num_patches,
            bitorder='little',
        ).view(bool)
        if count < self.num_masked:
            mask[random.sample(np.flatnonzero(~mask).tolist(), self.num_masked - count)] = True
        return mask.reshape(self.grid)

    def _draw(self) -> tuple[int, int]:
        """Blocks until the count is reached or none fits: the mask as the bits of one number, and its count.

        Whole-mask operations on a Python integer beat NumPy's by far at this size.
        """
        rows, columns = self.grid
        uniform, sqrt = random.random, math.sqrt
        bits = count = 0
        while count < self.num_masked:
            room = self.num_masked - count
            for _ in range(ATTEMPTS_PER_BLOCK):
                area = self.min_block_size + (room - self.min_block_size) * uniform()
                aspect = math.exp(self.log_aspect * (2 * uniform() - 1))
                height, width = round(sqrt(area * aspect)), round(sqrt(area / aspect))
                if height >= rows or width >= columns:  # strictly smaller, as in the release
                    continue
                top = int((rows - height + 1) * uniform())
                left = int((columns - width + 1) * uniform())
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
