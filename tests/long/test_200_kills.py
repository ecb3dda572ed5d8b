"""200 kills of every kind of training."""

import pytest
from support.resuming import kill_and_resume, KINDS

NUM_KILLS = 200


@pytest.mark.long
@pytest.mark.parametrize('kind', KINDS)
def test_200_kills(kind, in_data, tmp_path):
    kills = kill_and_resume(kind, NUM_KILLS, tmp_path)
    print(kind, kills)
    # A kill in the moment after the last byte finds no file half written.
    assert kills.count == NUM_KILLS and kills.while_saving > NUM_KILLS // 4 and kills.step >= 2 * NUM_KILLS
