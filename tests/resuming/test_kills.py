"""A training that is killed again and again resumes every time, and ends as if it had not been."""

import pytest
from support.resuming import kill_and_resume, KINDS


@pytest.mark.parametrize(
    'kind, num_kills', [('finetune', 3), *(pytest.param(kind, 60, marks=pytest.mark.long) for kind in KINDS)]
)
def test_killed_training_ends_as_one_never_killed(kind, num_kills, in_data, tmp_path):
    kills = kill_and_resume(kind, num_kills, tmp_path)
    print(kind, kills)
    # Every second kill waits for a save; a kill just after its last byte finds no file half written. A step whose save
    # was killed is done again, so fewer than two steps stay of some kills.
    assert kills.count == num_kills and kills.while_saving >= num_kills // 4 and kills.step > num_kills
