"""Mask generators: exact counts of every size, everywhere on the grid, repeatable."""

import random

import numpy as np
import pytest
from mmengine.registry import TRANSFORMS as ROOT_TRANSFORMS
from mmpretrain.registry import TRANSFORMS as MMPRETRAIN_TRANSFORMS
from scipy.stats import chi2

from beit_mm.datasets import BlockwiseMaskGenerator, RandomMaskGenerator

GENERATORS = [BlockwiseMaskGenerator, RandomMaskGenerator]


def masks_of(generator, count, seed=0) -> np.ndarray:
    random.seed(seed)
    return np.stack([generator.generate() for _ in range(count)])


@pytest.mark.parametrize('cls', GENERATORS)
@pytest.mark.parametrize('grid', [(14, 14), (4, 9), (9, 4), (1, 7), (7, 1), (1, 1)])
def test_every_count_is_reached_exactly(cls, grid):
    random.seed(0)
    for num_masked in range(1, grid[0] * grid[1] + 1):
        mask = cls(grid=grid, num_masked=num_masked).generate()
        assert mask.shape == grid and mask.dtype == np.bool_ and mask.sum() == num_masked


@pytest.mark.parametrize(
    'name, values', [('num_masked', (1, 75, 170)), ('min_block_size', (1, 200)), ('min_aspect', (0.05, 1.0))]
)
def test_the_count_is_exact_at_every_draw(name, values):
    for generator in (BlockwiseMaskGenerator(**{name: value}) for value in values):
        assert (masks_of(generator, 300).sum(axis=(1, 2)) == generator.num_masked).all()


@pytest.mark.parametrize(
    'cls, grid, num_masked', [(BlockwiseMaskGenerator, (14, 14), 75), (BlockwiseMaskGenerator, (8, 12), 40)]
)
def test_the_last_row_and_column_are_masked_as_often_as_the_first(cls, grid, num_masked):
    mean = masks_of(cls(grid=grid, num_masked=num_masked), 4000).mean(axis=0)
    edges = [mean[0].mean(), mean[-1].mean(), mean[:, 0].mean(), mean[:, -1].mean()]
    assert min(edges) > 0.1
    assert abs(edges[0] - edges[1]) < 0.02 and abs(edges[2] - edges[3]) < 0.02


def test_blocks_are_rectangles_of_the_chosen_size_and_aspect():
    # The first block takes the whole count: 16 patches before its sides are rounded, so a square of four.
    for mask in masks_of(BlockwiseMaskGenerator((14, 14), 16, min_block_size=16, min_aspect=1.0), 50):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert np.ptp(rows) == np.ptp(columns) == 3 and mask.sum() == 16
    masks = masks_of(BlockwiseMaskGenerator((14, 14), 16, min_block_size=16, min_aspect=0.25), 300)
    assert {(2, 8), (4, 4), (8, 2)} <= {(int(mask.any(1).sum()), int(mask.any(0).sum())) for mask in masks}


def test_random_masks_are_uniform_over_the_patches():
    grid, num_masked, draws = (4, 5), 6, 6000
    counts = masks_of(RandomMaskGenerator(grid, num_masked), draws).sum(axis=0)
    share = num_masked / 20
    # Drawn without replacement the counts have the covariance share (1 - share) (20 I - 1) / 19 per mask.
    statistic = ((counts - draws * share) ** 2).sum() / (draws * share * (1 - share)) * 19 / 20
    assert chi2.ppf(0.001, 19) < statistic < chi2.ppf(0.999, 19)


@pytest.mark.parametrize('cls', GENERATORS)
def test_masks_follow_the_seed_of_python(cls):
    generator = cls(grid=(14, 14), num_masked=75)
    first, again, other = (masks_of(generator, 20, seed) for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert len({mask.tobytes() for mask in first}) == 20
    agreement = (first[:, :, 1:] == first[:, :, :-1]).mean()
    assert agreement > 0.8 if cls is BlockwiseMaskGenerator else agreement < 0.6, 'blocks are joined, patches are not'


@pytest.mark.parametrize(
    'cls, options, words',
    [(cls, dict(num_masked=n), f'a grid of 4 x 5, got {n}') for cls in GENERATORS for n in (0, 21)]
    + [(BlockwiseMaskGenerator, dict(num_masked=3, min_aspect=a), f'min_aspect .* got {a}') for a in (0, 1.5)]
    + [(BlockwiseMaskGenerator, dict(num_masked=3, min_block_size=0), 'min_block_size .* got 0')],
)
def test_numbers_out_of_range_are_refused(cls, options, words):
    with pytest.raises(ValueError, match=words):
        cls(grid=(4, 5), **options)


@pytest.mark.parametrize('registry', [ROOT_TRANSFORMS, MMPRETRAIN_TRANSFORMS], ids=['mmengine', 'mmpretrain'])
@pytest.mark.parametrize('cls', GENERATORS)
def test_every_registry_builds_them_under_their_scope_and_they_add_a_mask(registry, cls):
    transform = registry.build(dict(type=f'beit_mm.{cls.__name__}', grid=[4, 6], num_masked=9))
    image = np.zeros((2, 2, 3))
    results = transform(dict(img=image, other=1))
    assert set(results) == {'img', 'other', 'mask'} and results['img'] is image
    assert results['mask'].shape == (4, 6) and results['mask'].sum() == 9
    assert repr(transform) == f'{cls.__name__}(grid=(4, 6), num_masked=9)'
