"""The benchmark times candidates in turn, and measures memory and shares of the limit."""

import time

import pytest
import torch
from support.tools import import_tool

measuring = import_tool('benchmark', 'measuring')
limits = import_tool('benchmark', 'limits')
steps = import_tool('benchmark', 'steps')

MIB = 2**20


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


def test_the_table_shows_what_is_known_and_leaves_the_rest_empty():
    figures = {'share of 2 times the first': 0.9}
    full = measuring.Row('section', 'ours', 0.5, 0.4, 0.6, 1.0, 3 * MIB, 'bfloat16', 0.251, figures)
    bare = measuring.Row('section', 'peer', 1.0, 1.0, 1.0, 2.0)
    first, second = measuring.as_table([full, bare]).splitlines()[2:]
    assert first.endswith('| bfloat16 | 2 | 500 (400 to 600) | 1.00 | 25% | 3 MiB | share of 2 times the first 0.9 |')
    assert second == '| section | peer |  | 1 | 1000 (1000 to 1000) | 2.00 |  |  |  |'


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
    assert limits.operations(lambda: linear(torch.randn(4, 8))) == 2 * 4 * 8 * 16
    assert limits.operations(lambda: convolution(torch.randn(1, 3, 8, 8))) == 2 * 6 * 6 * 5 * 3 * 9
    with torch.inference_mode():
        attention = limits.operations(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q))
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
