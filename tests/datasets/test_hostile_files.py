"""Damaged and hostile files are read or refused by name: no crash, no hang, no untyped error."""

import pytest
from support.hostile_files import check_cases


@pytest.mark.parametrize('count', [300, pytest.param(10_000, marks=pytest.mark.long)])
def test_hostile_files(count, tmp_path):
    check_cases(range(count), tmp_path)
