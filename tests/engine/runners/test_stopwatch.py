"""Times of the parts of a run."""

from types import SimpleNamespace

import pytest

from beit_mm.engine.runners.stopwatch import Stopwatch, timed


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    times = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0])
    monkeypatch.setattr('time.monotonic', lambda: next(times))


def test_parts_add_up_to_the_time_since_the_start():
    watch = Stopwatch('set-up')
    assert [watch.switch(part) for part in ('steps', 'loading', 'steps')] == ['set-up', 'steps', 'loading']
    assert watch.seconds() == {'set-up': 1, 'steps': 2 + 4, 'loading': 3}


def test_a_timed_part_ends_with_an_error_too_and_other_hooks_are_left_alone():
    watch, other = Stopwatch('steps'), SimpleNamespace(watch='mine')
    with pytest.raises(KeyError), timed(SimpleNamespace(hooks=[other, SimpleNamespace(watch=watch)]), 'pictures'):
        raise KeyError
    assert watch.seconds() == {'steps': 1 + 3, 'pictures': 2} and other.watch == 'mine'
