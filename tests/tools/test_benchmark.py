"""tools/benchmark: what it measures and how, that it compares like with like, and its command."""

import json
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from mmengine.optim import OptimWrapper
from support import ROOT
from support.tools import import_tool, run_here
from torch.multiprocessing import start_processes

from beit_mm.doctor import speed

limits, loading, measuring, cpu_tables, photographs, pretraining, scaling, segmentation, steps, trunks = (
    import_tool('benchmark', name)
    for name in 'limits loading measuring cpu_tables photographs pretraining scaling segmentation steps trunks'.split()
)
MIB = 2**20
TINY = measuring.Sizes(rounds=1, batch=2, width=64, depth=2, size=32)
SCENES = replace(TINY, depth=6, size=48)
FLOAT32 = ['ours, float32'] * (steps.computing_dtype() != torch.float32)  # then ours is timed in float32 as well


@pytest.fixture(autouse=True)
def small_products(monkeypatch):
    """Of matrices that take no seconds: how fast they are is not asserted."""
    monkeypatch.setattr(limits, 'SIDES', (64, 256))


# Measuring: candidates in turn, memory, and shares of the limit


def test_candidates_are_warmed_up_and_then_timed_in_turn():
    calls = []
    measuring.compare('section', dict(ours=lambda: calls.append('a'), peer=lambda: calls.append('b')), rounds=3)
    assert ''.join(calls) == 'aabb' + 'ababab'  # once to warm up, once for its memory


def test_times_are_per_item_and_ratios_to_the_first(monkeypatch):
    clock = iter([0, 2, 10, 14, 20, 23, 30, 36, 40, 47, 50, 58])  # ours 2, 3, 7 seconds, the peer 4, 6, 8
    monkeypatch.setattr(time, 'perf_counter', clock.__next__)
    rows = measuring.compare('section', dict(ours=int, peer=int), rounds=3, items=2)
    assert [(row.fastest, row.seconds, row.slowest) for row in rows] == [(1, 1.5, 3.5), (2, 3, 4)]
    assert [row.ratio for row in rows] == [1, 2]


def test_the_table_shows_what_is_known():
    figures = {'share of 2 times the first': 0.9}
    full = measuring.Row('section', 'ours', 0.5, 0.4, 0.6, 1.0, 3 * MIB, 'bfloat16', 0.251, figures)
    bare = measuring.Row('section', 'peer', 1.0, 1.0, 1.0, 2.0)
    first, second = measuring.as_table([full, bare]).splitlines()[2:]
    assert first.endswith('| bfloat16 | 2 | 500 (400 to 600) | 1.00 | 25% | 3 MiB | share of 2 times the first 0.9 |')
    assert second == '| peer |  | 1 | 1000 (1000 to 1000) | 2.00 |  |  |  |'
    assert measuring.as_table([bare]).splitlines()[2] == '| peer | 1 | 1000 (1000 to 1000) | 2.00 |'


@pytest.mark.parametrize('pieces', [1, 64])
def test_memory_is_the_highest_point_over_what_was_held(pieces):
    held = torch.ones(32 * MIB)  # 128 MiB, which do not count

    def run():
        temporary = [torch.ones(16 * MIB // pieces) for _ in range(pieces)]  # 64 MiB
        return sum(part[0] for part in temporary) + held[0]

    assert [round(measuring.working_memory(run) / MIB / 8) for _ in range(2)] == [8, 8]


def test_operations_of_products_convolutions_and_attention():
    linear, convolution = torch.nn.Linear(8, 16), torch.nn.Conv2d(3, 5, 3)
    q = torch.randn(1, 2, 10, 4)
    assert speed.count_operations(lambda: linear(torch.randn(4, 8))) == 2 * 4 * 8 * 16
    assert speed.count_operations(lambda: convolution(torch.randn(1, 3, 8, 8))) == 2 * 6 * 6 * 5 * 3 * 9
    with torch.inference_mode():
        attention = speed.count_operations(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q))
    assert attention == 2 * 2 * 2 * 10 * 10 * 4


@pytest.mark.parametrize('same_work, factor', [(True, 1), (False, 2)])
def test_the_share_of_the_limit_is_of_the_work_that_the_first_needs(same_work, factor):
    first, second = torch.randn(2, 64, 64)
    once = steps.Step(lambda: first @ second, torch.float32)
    twice = steps.Step(lambda: (first @ second, first @ second), torch.float32)
    ours, peer = limits.compare_steps('section', dict(ours=once, peer=twice), 1, 2, same_work)
    work = 2 * 64**3 / 2  # of one image
    assert ours.dtype == 'float32'
    assert ours.share_of_limit == pytest.approx(work / ours.seconds / limits.matrix_peak(torch.float32))
    assert peer.share_of_limit == pytest.approx(factor * work / peer.seconds / limits.matrix_peak(torch.float32))


# What it reads with, ours and the hosts': the same from the same draws


@pytest.fixture(scope='module')
def candidates() -> dict:
    return loading.candidates()


@pytest.mark.long
def test_all_read_the_same_photographs():
    rows = loading.compare_loading(measuring.Sizes(rounds=1, batch=1, width=64, depth=1, size=224), images=1)
    found = {}
    for row in rows:
        found.setdefault(row.section, []).append(row.name)
    assert list(found.values()) == [
        ['ours', "ours, in the release's order", "the release's steps", 'MMPretrain'],
        ['ours', 'MMPretrain'],
        ['ours', 'MMPretrain'],
        ['ours', 'MMSegmentation'],
    ]


def outcomes(section: dict, sample: dict):
    """Results of ours and of the host's pipeline from the same draws, by draw."""
    for seed in range(12):
        found = []
        for candidate in section.values():
            np.random.seed(seed)
            found.append(candidate(dict(sample, seg_fields=[])))
        yield found, (found[0]['inputs'].int() - found[1]['inputs'].int()).abs().float().mean().item()


def test_classification_draws_and_pixels(tmp_path, candidates):
    sample = dict(img_path=str(photographs.write_photographs(tmp_path, 1)[0]), gt_label=4)
    for (ours, hosts), difference in outcomes(candidates['classification, one core'], sample):
        assert ours['inputs'].shape == hosts['inputs'].shape == (3, 224, 224)
        assert ours['data_samples'].gt_label == hosts['data_samples'].gt_label == 4
        assert difference < 0.5  # resizing differs by 0.02 on average; contrast and solarising enlarge it


def test_segmentation_draws_and_pixels(tmp_path, candidates):
    sample = loading.scene(photographs.write_scenes(tmp_path, 1)[0])
    differences = []
    for (ours, hosts), difference in outcomes(candidates['segmentation, one core'], sample):
        assert torch.equal(ours['data_samples'].gt_sem_seg.data, hosts['data_samples'].gt_sem_seg.data)
        assert ours['data_samples'].metainfo == hosts['data_samples'].metainfo
        differences.append(difference)
    assert max(differences) < 1 and differences.count(0.0) >= 6


# Its sections on models


def check(rows, names) -> None:
    assert [row.name for row in rows] == names
    assert all(row.seconds > 0 and row.share_of_limit > 0 and row.dtype for row in rows)


def count(model: torch.nn.Module) -> int:
    """Of parameters; MMPretrain hands its tokenizer to the optimizer, where it has no gradient."""
    named = model.named_parameters()
    return sum(value.numel() for name, value in named if not name.startswith(('target.', 'target_generator.')))


def test_pretraining():
    rows = pretraining.compare_pretraining(TINY)
    check(rows, ['ours', *FLOAT32, 'ours, BEiT v2', "the release's steps", 'MMPretrain'])
    assert {row.dtype for row in rows[1:] if 'v2' not in row.name} == {'float32'}


def test_pretraining_models_have_the_same_sizes_and_the_optimizers_of_their_recipes():
    (ours, our_config), (host, host_config) = pretraining.our_model(TINY), pretraining.hosts_model(TINY)
    assert count(ours) == count(host)
    wrapper = steps.build_hosts_wrapper(host, host_config)
    trained = [name for name, parameter in host.named_parameters() if parameter.requires_grad]
    groups = wrapper.optimizer.param_groups
    assert type(wrapper) is OptimWrapper and len(groups) == len(trained)
    assert {group['weight_decay'] for group in groups} == {0.0, 0.05} and not any(g['fused'] for g in groups)
    groups = steps.build_wrapper(ours, our_config).optimizer.param_groups
    assert len(groups) == 2 and all(group['fused'] for group in groups)


@pytest.mark.long
def test_trunks():
    rows = trunks.compare_trunks(TINY)
    timm = ['timm', *(name.replace('ours', 'timm') for name in FLOAT32)]
    names = ['ours', *FLOAT32, 'ours, no bias', 'ours, activation checkpointing', *timm, 'MMPretrain']
    check(rows[: len(names)], names)
    assert {'ours', 'ours, no bias', 'timm', 'MMPretrain'} <= {row.name for row in rows[len(names) :]}


def test_classifiers_have_the_same_sizes():
    bare = trunks.our_classifier(TINY, use_rel_pos_bias=False)[0]
    ours, host = (build(TINY)[0] for build in (trunks.our_classifier, trunks.hosts_classifier))
    assert count(ours) == count(host) == count(bare) + 2 * (3 * 3 + 3)  # two tables of a 2 x 2 grid


def test_segmentation():
    rows = segmentation.compare_segmentation(SCENES)
    check(rows, ['ours', 'MMSegmentation', 'ours', *FLOAT32, 'MMSegmentation'])
    assert rows[0].figures['differing pixels'] == 0
    assert 0 < rows[0].figures['largest difference of logits'] < 1e-4


def test_segmentors_with_different_results_are_not_compared():
    ours, host = (model.eval() for model, _ in segmentation.segmentors(SCENES).values())
    images = segmentation.draw_images(48)
    assert [tuple(pixels.shape[2:]) for pixels, _ in images] == [(48, 64), (48, 48)]
    with torch.no_grad():
        host.decode_head.conv_seg.bias[7] += 10
    with pytest.raises(ValueError, match=r'the class maps .* must agree .* more than 0.0001 apart, \d+ pixels differ'):
        segmentation.differences(ours, host, images)


@pytest.mark.parametrize('processes', [(1,), pytest.param((1, 2), marks=pytest.mark.long)])
def test_scaling(processes, monkeypatch):
    monkeypatch.setattr(scaling.multiprocessing, 'spawn', partial(start_processes, start_method='forkserver'))
    rows = scaling.compare_scaling(replace(TINY, batch=1), sides=(32, 48), processes=processes)
    names = ['32 x 32', '48 x 48', *(f'{images} images' for images in (1, 2, 4, 8))]
    check(rows[:9], [*names, '1 blocks', '2 blocks', '4 blocks'])
    first, *others = rows[9:]
    assert [row.name for row in rows[9:]] == ['1 process', '2 processes'][: len(processes)] and first.seconds > 0
    for row in others:
        assert row.figures == {'share of 2 times the first': pytest.approx(1 / 2 / row.ratio)}


# The command, as docs/performance.md calls it


@pytest.mark.parametrize('section, num_rows', [('limits', 4), pytest.param('loading', 7, marks=pytest.mark.long)])
def test_the_benchmark_prints_a_table_and_writes_json(tmp_path, section, num_rows, monkeypatch, capsys):
    assert 'tools/benchmark loading --rounds 5 --json figures.json' in (ROOT / 'docs/performance.md').read_text()
    monkeypatch.setattr(limits, 'MEGABYTES', 1)
    run_here([ROOT / 'tools' / 'benchmark', section, '--rounds', 1, '--json', tmp_path / 'figures.json'])
    output = capsys.readouterr().out
    figures = json.loads((tmp_path / 'figures.json').read_text())
    assert set(figures) == {'date', 'commit', 'rounds', 'facts', 'rows'} and f'torch {torch.__version__}' in output
    assert len(figures['rows']) >= num_rows and all(f'| {row["name"]} |' in output for row in figures['rows'])
    assert cpu_tables.tables(figures).strip() == output.strip()


def test_the_page_shows_the_figures_that_are_kept(tmp_path):
    source, copy = ROOT / 'docs/performance.md', tmp_path / 'page.md'
    copy.write_text(source.read_text())
    run_here([ROOT / 'tools/benchmark', '--table', ROOT / 'docs/performance.json', '--page', copy])
    assert copy.read_text() == source.read_text() and '| MMPretrain |' in copy.read_text()


@pytest.mark.long
def test_sizes_are_taken_by_every_section(tmp_path):
    sizes = '--rounds 1 --batch 2 --width 64 --depth 6 --size 48'.split()
    run_here([ROOT / 'tools' / 'benchmark', 'trunks', 'segmentation', *sizes, '--json', tmp_path / 'figures.json'])
    sections = {row['section'] for row in json.loads((tmp_path / 'figures.json').read_text())['rows']}
    what = 'width 64, depth 6'
    assert sections == {
        f'fine-tuning step, 48 x 48, {what}, 2 images', f'inference, 48 x 48, {what}, 2 images',
        f'UperNet test, window 48, {what}', f'UperNet training step, 48 x 48, {what}, 2 images'}  # yapf: disable


def test_an_unknown_section_is_named(capsys):
    with pytest.raises(SystemExit):
        run_here([ROOT / 'tools' / 'benchmark', 'cooking'])
    expected = 'sections are limits, loading, pretraining, trunks, segmentation, scaling, got cooking'
    assert expected in ' '.join(capsys.readouterr().err.split())
