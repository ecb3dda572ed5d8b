"""Augmentation in training draws what the host draws and gives its pixels."""

import numpy as np
import pytest
from mmpretrain.datasets import transforms as host
from mmpretrain.datasets.transforms.auto_augment import RANDAUG_POLICIES
from mmpretrain.registry import TRANSFORMS

from beit_mm.datasets import RandAugment, RandomErasing
from beit_mm.datasets.transforms.augmentation import TABLES

SETTINGS = dict(
    num_policies=2,
    magnitude_level=9,
    magnitude_std=0.5,
    total_level=10,
    hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic'),
)


def pictures() -> list:
    """Smooth, noisy, dark, of two values and of one."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:33, :45]
    smooth = np.stack([2 * rows + 90, 3 * columns + 20, rows + columns + 7], axis=2).astype(np.uint8)
    noise = rng.integers(0, 256, (33, 45, 3), dtype=np.uint8)
    two = np.where(noise > 40, 200, 3).astype(np.uint8)
    return [smooth, noise, noise // 4 + 5, two, np.full((33, 45, 3), 17, np.uint8)]


def applied(transform, image: np.ndarray, seed: int):
    """The image afterwards, and a draw that follows."""
    np.random.seed(seed)
    return transform(dict(img=image.copy()))['img'], np.random.random()


def assert_same(ours, hosts, seeds: int) -> None:
    changed = 0
    for seed in range(seeds):
        for image in pictures():
            (found, after), (expected, expected_after) = (applied(each, image, seed) for each in (ours, hosts))
            assert found.dtype == np.uint8 and np.array_equal(found, expected)
            assert after == expected_after, 'another number of draws'
            changed += not np.array_equal(found, image)
    assert changed


@pytest.mark.parametrize(
    'policy', [p for p in RANDAUG_POLICIES['timm_increasing'] if p['type'] in TABLES], ids=lambda policy: policy['type']
)
def test_an_operation_by_a_table_is_the_hosts(policy):
    policy = dict(policy)
    levels = dict(magnitude_level=9, magnitude_std=0.5) if 'magnitude_range' in policy else {}
    hosts = TRANSFORMS.build(dict(policy, **levels))
    ours = TRANSFORMS.build(dict(policy, **levels, type=f'beit_mm.{policy["type"]}'))
    assert type(ours).__module__.startswith('beit_mm')
    assert_same(ours, hosts, seeds=20)


def test_rand_augment_is_the_hosts():
    ours, hosts = (cls('timm_increasing', **SETTINGS) for cls in (RandAugment, host.RandAugment))
    assert sum(type(each).__module__.startswith('beit_mm') for each in ours) == len(TABLES) == 8
    assert_same(ours, hosts, seeds=60)


def test_policies_of_ones_own():
    policies = [dict(type='Equalize'), dict(type='Rotate', magnitude_range=(0, 30))]
    assert [type(each).__module__.partition('.')[0] for each in RandAugment(policies, **SETTINGS)] == [
        'beit_mm',
        'mmpretrain',
    ]
    with pytest.raises(AssertionError, match='Invalid policies'):
        RandAugment('timm_decreasing', **SETTINGS)


@pytest.mark.parametrize(
    'fill',
    [
        dict(mode='rand', fill_color=[103.53, 116.28, 123.675], fill_std=[57.375, 57.12, 58.395]),
        dict(mode='rand'),
        dict(mode='const', fill_color=[1, 2, 3]),
    ],
)
def test_erasing_is_the_hosts(fill):
    ours, hosts = (
        cls(erase_prob=0.5, min_area_ratio=0.02, max_area_ratio=1 / 3, **fill)
        for cls in (RandomErasing, host.RandomErasing)
    )
    assert_same(ours, hosts, seeds=20)
