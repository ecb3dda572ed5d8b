"""Blockwise masks against 40,000 of the release: block_mask_statistics.json."""

import json
import random
from pathlib import Path

import numpy as np

from beit_mm.datasets import BlockwiseMaskGenerator

DATA = Path(__file__).parent / 'data'


def over_flips(table: np.ndarray) -> np.ndarray:
    return (table + table[::-1] + table[:, ::-1] + table[::-1, ::-1]) / 4


def test_block_mask_statistics():
    expected = json.loads((DATA / 'block_mask_statistics.json').read_text())
    generator = BlockwiseMaskGenerator(
        grid=expected['grid'], num_masked=expected['num_masking_patches'], min_block_size=expected['min_num_patches']
    )
    random.seed(0)
    masks = np.stack([generator.generate() for _ in range(100_000)])
    assert (masks.sum(axis=(1, 2)) == 75).all()
    probability = over_flips(masks.mean(axis=0))
    wanted = over_flips(np.array(expected['position_probability_full_count_only']))
    assert np.abs(probability - wanted).max() < 0.008
    agreement = (masks[:, :, 1:] == masks[:, :, :-1]).mean()
    assert abs(agreement - expected['horizontal_neighbour_agreement']) < 0.01
