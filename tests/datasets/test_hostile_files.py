"""Damaged and hostile files are read or refused by name: no crash, no hang, no untyped error."""

from support.reading_hostile_files import check_cases, NUM_CASES


def test_hostile_files(tmp_path):
    check_cases(range(NUM_CASES), tmp_path)
