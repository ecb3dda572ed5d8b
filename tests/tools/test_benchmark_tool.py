"""tools/benchmark.py as docs/performance.md calls it."""
import json

from running import ROOT, tool


def test_the_benchmark_prints_a_table_and_writes_json(tmp_path):
    assert 'tools/benchmark.py loading --rounds 5 --json figures.json' in (ROOT / 'docs/performance.md').read_text()
    output = tool('benchmark', 'loading', '--rounds', '1', '--json', tmp_path / 'figures.json')
    rows = json.loads((tmp_path / 'figures.json').read_text())['rows']
    assert len(rows) == 4 and all(f'| {row["name"]} |' in output for row in rows)
    output = tool('benchmark', 'cooking', ok=False)
    assert 'sections are loading, pretraining, trunks, segmentation, got cooking' in output
