"""Ten thousand damaged and hostile files."""

import pytest
from support.reading_hostile_files import check_cases, NUM_CASES

NUM_LONG_CASES = 10_000


@pytest.mark.long
def test_many_hostile_files(tmp_path):
    """Those of the short test among them."""
    assert NUM_LONG_CASES > NUM_CASES
    check_cases(range(NUM_LONG_CASES), tmp_path)
