"""The benchmark times candidates in turn and compares like with like."""
import json
import time

import pytest
import torch
from mmengine.registry import DefaultScope
from PIL import Image

from beit_mm.benchmark import as_table, compare, compare_loading
from beit_mm.benchmark.models import segmentors
from beit_mm.benchmark.peers import ReleasesModel


def test_candidates_are_warmed_up_and_then_timed_in_turn():
    calls = []
    rows = compare('section', dict(ours=lambda: calls.append('a'), peer=lambda: calls.append('b')), rounds=3)
    assert ''.join(calls) == 'ab' + 'ababab'
    assert [row.name for row in rows] == ['ours', 'peer'] and rows[0].ratio == 1.0


def test_times_are_per_item_and_ratios_over_ours():
    rows = compare('section', dict(ours=lambda: time.sleep(0.01), peer=lambda: time.sleep(0.1)), rounds=3, items=2)
    assert rows[0].seconds >= 0.005 and rows[1].seconds >= 0.05
    assert rows[1].ratio == pytest.approx(rows[1].seconds / rows[0].seconds)
    assert rows[0].fastest <= rows[0].seconds <= rows[0].slowest
    table = as_table(rows).splitlines()
    assert len(table) == 4 and '| section | peer |' in table[3]
    assert json.loads(json.dumps([row.as_dict() for row in rows]))[1]['name'] == 'peer'


def test_the_same_photographs_are_read_by_all(tmp_path):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        rows = compare_loading(tmp_path, rounds=1, count=2)
    assert [row.name for row in rows] == ['ours', "ours, in the release's order", "the release's steps", 'MMPretrain']
    pictures = [Image.open(path) for path in tmp_path.glob('*.jpg')]
    assert len(pictures) == 16 and {picture.size for picture in pictures} == {(500, 375)}


def test_segmentors_have_the_same_sizes():
    models = segmentors(size=64, depth=6, width=64)
    counts = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    assert counts['ours'] == counts['MMSegmentation']
    with torch.inference_mode():
        shapes = {model.inference(torch.randn(1, 3, 64, 80), [dict(ori_shape=(64, 80))]).shape
                  for model in models.values()}
    assert shapes == {(1, 150, 64, 80)}


def test_the_releases_model_trains_on_masked_tokens():
    model = ReleasesModel(width=64, depth=2, heads=1, n_hid=8)
    mask = torch.zeros(2, 14, 14, dtype=torch.bool)
    mask[:, :5] = True
    loss = model(torch.randn(2, 3, 224, 224), torch.rand(2, 3, 112, 112), mask)
    loss.backward()
    assert loss.item() == pytest.approx(9.0, abs=0.5)  # ln 8192
    assert model.mask_token.grad.abs().sum() > 0
    assert model.trunk.rel_pos_bias.relative_position_bias_table.grad.abs().sum() > 0
