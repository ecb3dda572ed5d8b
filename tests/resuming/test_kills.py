"""A training that is killed again and again resumes every time, and ends as if it had not been."""

import pytest
from support.resuming import kill_and_resume, KINDS

NUM_KILLS = 2


@pytest.mark.parametrize('kind', KINDS)
def test_killed_training_ends_as_one_never_killed(kind, in_data, tmp_path):
    kills = kill_and_resume(kind, NUM_KILLS, tmp_path)
    assert kills.count == NUM_KILLS and kills.step >= 2 * NUM_KILLS
