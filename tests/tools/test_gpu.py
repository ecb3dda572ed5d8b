"""tools/benchmark/gpu.sh: the whole script with tiny sizes on the CPU, and parts that fail or hang."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from support import ROOT
from support.tools import import_tool

gpu, gpu_comparison, gpu_tables = (import_tool('benchmark', name) for name in ('gpu', 'gpu_comparison', 'gpu_tables'))
PARTS = """
import os, subprocess, time
def Run(*values):
    return values
def good(run):
    yield dict(is_small=run[0])
def raises(run):
    yield dict(first=1)
    raise ValueError('no such\\n  kernel')
def hangs(run):
    child = subprocess.Popen(['sleep', '600'])
    yield dict(first=2, sleeper=child.pid)
    time.sleep(600)
def dies(run):
    os._exit(7)
    yield
"""
SCRIPT = f"""
import sys
sys.path.insert(0, {str(ROOT / 'tools' / 'benchmark')!r})
import gpu
gpu.MODULE = 'planted'
gpu.PARTS = dict(raises=60, hangs=3, dies=60, good=60)
gpu.main()
"""


@pytest.mark.long
def test_the_whole_script_with_tiny_sizes(tmp_path):
    variables = dict(PYTHON=sys.executable, OUT=str(tmp_path), CUDA_VISIBLE_DEVICES='')
    command = [ROOT / 'tools/benchmark/gpu.sh', '--small', '--seconds', '1200']
    result = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=1300)
    figures = json.loads((tmp_path / 'figures.json').read_text())
    parts = figures['parts']
    assert list(parts) == list(gpu.PARTS)
    assert [part['problem'] for part in parts.values() if 'problem' in part] == []
    assert result.returncode == 0, result.stderr[-3000:]
    assert parts['machine']['facts']['torch'] and figures['date'] and figures['commit'] != 'unknown'
    released = parts['trajectory']['float32']
    assert released['loss_error'] < 1e-4 and released['norm_error'] < 1e-4 and len(released['losses']) == 20
    (resumed,) = (part for part in parts['resume'].values() if isinstance(part, dict))
    assert resumed['resumed_equal'] and resumed['two_runs_equal'] and 0 < resumed['killed_after'] < resumed['of']
    for part in ('pretraining', 'finetuning', 'large', 'segmentation'):
        rows = parts[part]['rows']
        assert {'ours', 'MMSegmentation' if part == 'segmentation' else 'MMPretrain'} <= {row['name'] for row in rows}
        assert all(row['seconds'] > 0 and row['share_of_limit'] > 0 for row in rows)
    names = [row['name'] for row in parts['pretraining']['rows']]
    assert "the release's steps" in names and 'ours, bfloat16 tokenizer, all compiled' in names
    assert len({row['section'] for row in parts['attention']['rows']}) == 4
    assert parts['doctor']['diagnosis']['step']['rate'] > 0 and (tmp_path / 'machine.py').is_file()
    assert parts['profile']['operators'] and parts['profile']['peak_memory'] > 0
    assert {path.name for path in tmp_path.iterdir()} == {'figures.json', 'tables.md', 'log.txt', 'machine.py'}

    # The tables are of the JSON alone, and a page takes them.
    tables = result.stdout.strip()
    assert tables == gpu_tables.tables(figures) and 'equal bit for bit' in tables and 'What failed' not in tables
    assert all(f'| {row["name"]} | {row["dtype"]} | {1 / row["seconds"]:.4g} |' in tables
               for part in gpu_tables.TITLES for row in parts[part]['rows'])  # yapf: disable
    page = Path(shutil.copy(ROOT / 'docs/performance.md', tmp_path))
    for _ in range(2):  # in place of those that are there
        subprocess.run([sys.executable, ROOT / 'tools/benchmark/gpu.py', '--table', tmp_path / 'figures.json',
                        '--page', page], check=True)  # yapf: disable
    assert page.read_text().count(tables) == 1 and page.read_text().endswith('0.3 % of the time.\n')


def test_a_part_that_fails_or_hangs_is_recorded_and_the_others_end(tmp_path):
    (tmp_path / 'planted.py').write_text(PARTS)
    script = tmp_path / 'script.py'
    script.write_text(SCRIPT)
    command = [sys.executable, script, '--out', tmp_path / 'out', '--seconds', '180']
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    parts = json.loads((tmp_path / 'out' / 'figures.json').read_text())['parts']
    where = {name: f'; see "== {name} ==" in log.txt' for name in parts}
    # Of its share, 3 of 123 s, of the time that is left.
    assert {name: re.sub(r'\d s', 'N s', part.get('problem', '')) for name, part in parts.items()} == {
        'raises': f'ValueError: no such kernel{where["raises"]}',
        'hangs': f'took more than N s and was ended{where["hangs"]}',
        'dies': f'ended with exit code 7{where["dies"]}',
        'good': '',
    }
    assert (
        parts['raises']['first'] == 1
        and parts['hangs']['first'] == 2
        and parts['good'] == dict(is_small=False, seconds=parts['good']['seconds'])
    )
    log = (tmp_path / 'out' / 'log.txt').read_text()
    assert log.index('== raises ==') < log.index("raise ValueError('no such") < log.index('== hangs ==')
    assert '- raises: ValueError: no such kernel' in result.stdout
    assert has_ended(parts['hangs']['sleeper'])  # with what it had started


def has_ended(pid: int) -> bool:
    for _ in range(100):
        try:
            with open(f'/proc/{pid}/stat') as file:
                if file.read().rpartition(')')[2].split()[0] == 'Z':
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_parts_for_which_no_time_is_left_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, 'PARTS', dict(machine=60, trajectory=40))
    figures = gpu.run_parts(tmp_path, small=True, seconds=1)
    assert {part['problem'] for part in figures['parts'].values()} == {'not begun: the 1 s were over'}
    assert json.loads((tmp_path / 'figures.json').read_text()) == figures
    assert '- trajectory: not begun' in gpu_tables.tables(figures)


def test_a_candidate_that_takes_too_long_or_fails_is_left_out_and_the_others_are_compared(tmp_path, monkeypatch):
    for module in (gpu_comparison, gpu_comparison.limits):
        monkeypatch.setattr(module, 'matrix_peak', lambda dtype: 1e9)
    run = gpu_comparison.Run(True, tmp_path, time.monotonic() + 600)
    comparison = gpu_comparison.Comparison(run, run.sizes())
    matrix = torch.ones(9, 9)
    makers = dict(
        slow=partial(signal.raise_signal, signal.SIGALRM),  # as when its time is over
        compiled=lambda: 1 / 0,
        ours=lambda: gpu_comparison.Step(lambda: matrix @ matrix, torch.float32),
        last=lambda: gpu_comparison.Step(lambda: matrix + matrix, torch.float32),
    )
    list(comparison.add_all(dict(title=makers)))
    found = comparison.found
    assert [row['name'] for row in found['rows']] == ['ours', 'last']
    assert found['left_out'] == [
        dict(section='title', name='slow', reason='no time was left'),
        dict(section='title, with torch.compile', name='compiled', reason='ZeroDivisionError: division by zero'),
    ]
    tables = gpu_tables.tables(dict(parts=dict(pretraining=found), date='', commit='', small=True))
    assert 'Title, with torch.compile:\n\nLeft out: compiled (ZeroDivisionError: division by zero).' in tables


def test_without_a_gpu_only_small_sizes_are_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, 'start', lambda *_: subprocess.Popen(['true'], start_new_session=True))
    monkeypatch.setattr(gpu, 'finish', lambda *_: dict(facts=dict(kind='cpu')))
    with pytest.raises(SystemExit, match='torch finds no GPU here; --small tries everything on a CPU'):
        gpu.run_parts(tmp_path, small=False, seconds=100)
    assert list(gpu.run_parts(tmp_path, small=True, seconds=100)['parts']) == list(gpu.PARTS)


def test_a_page_without_markers_is_left_as_it_is(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text('text')
    with pytest.raises(SystemExit, match='must have one line <!-- GPU tables: begin --> and one'):
        gpu.put('tables', 'GPU', page)
    assert page.read_text() == 'text'


def test_without_wheels_the_missing_modules_are_named(tmp_path):
    python = tmp_path / 'python'
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # without site-packages
    python.chmod(0o755)
    variables = {**os.environ, 'PYTHON': str(python), 'WHEELS': str(tmp_path), 'PYTHONPATH': ''}
    command = ROOT / 'tools/benchmark/gpu.sh'
    result = subprocess.run([command], env=variables, capture_output=True, text=True)
    assert result.returncode == 1 and 'no wheels of mmengine mmcv mmpretrain' in result.stderr
