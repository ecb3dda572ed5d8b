"""tools/benchmark as docs/performance.md calls it."""

import json

import pytest
from support import ROOT
from support.tools import tool


@pytest.mark.parametrize('section, num_rows', [('limits', 4), pytest.param('loading', 7, marks=pytest.mark.long)])
def test_the_benchmark_prints_a_table_and_writes_json(tmp_path, section, num_rows):
    assert 'tools/benchmark loading --rounds 5 --json figures.json' in (ROOT / 'docs/performance.md').read_text()
    output = tool('benchmark', section, '--rounds', '1', '--json', tmp_path / 'figures.json')
    figures = json.loads((tmp_path / 'figures.json').read_text())
    assert {'machine', 'threads', 'torch', 'rounds', 'batch', 'width', 'depth', 'size'} < set(figures)
    assert f'rounds 1, batch {figures["batch"]}, width {figures["width"]}' in output
    assert len(figures['rows']) >= num_rows and all(f'| {row["name"]} |' in output for row in figures['rows'])


@pytest.mark.long
def test_sizes_are_taken_by_every_section(tmp_path):
    sizes = '--rounds 1 --batch 2 --width 64 --depth 6 --size 48'.split()
    tool('benchmark', 'trunks', 'segmentation', *sizes, '--json', tmp_path / 'figures.json')
    sections = {row['section'] for row in json.loads((tmp_path / 'figures.json').read_text())['rows']}
    what = 'width 64, depth 6'
    assert sections == {
        f'fine-tuning step, 48 x 48, {what}, 2 images', f'inference, 48 x 48, {what}, 2 images',
        f'UperNet test, window 48, {what}', f'UperNet training step, 48 x 48, {what}, 2 images'}  # yapf: disable


def test_an_unknown_section_is_named():
    output = ' '.join(tool('benchmark', 'cooking', ok=False).split())
    assert 'sections are limits, loading, pretraining, trunks, segmentation, scaling, got cooking' in output
