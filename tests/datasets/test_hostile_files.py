"""Damaged and hostile files are read or refused by name: no crash, no hang, no untyped error."""

from support.reading_hostile_files import run_cases

NUM_CASES = 300
MAX_MEMORY = 4096  # MiB; images of 100 million pixels are let pass, and take 300 MB more than once


def check_cases(numbers: range, folder) -> None:
    report = run_cases(numbers, folder)
    assert report.failures == []
    assert sum(report.counts.values()) == len(numbers) and report.memory < MAX_MEMORY
    outcomes = {outcome for _, outcome in report.counts}
    assert {'read', 'refused'} <= outcomes  # the cases are neither all whole nor all hopeless


def test_hostile_files(tmp_path):
    check_cases(range(NUM_CASES), tmp_path)
