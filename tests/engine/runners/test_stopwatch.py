"""Times of the parts of a run."""

from types import SimpleNamespace

import pytest

from beit_mm.engine.runners.stopwatch import Stopwatch, timed


def test_parts_add_up_to_the_time_since_the_start(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0])
    monkeypatch.setattr('time.monotonic', lambda: next(clock))
    watch = Stopwatch('set-up')
    assert watch.switch('steps') == 'set-up'
    assert watch.switch('loading') == 'steps'
    assert watch.switch('steps') == 'loading'
    assert watch.seconds() == {'set-up': 1, 'steps': 2 + 4, 'loading': 3}


def test_a_timed_part_ends_with_an_error_too(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 6.0])
    monkeypatch.setattr('time.monotonic', lambda: next(clock))
    watch = Stopwatch('steps')
    with pytest.raises(KeyError), timed(SimpleNamespace(hooks=[object(), SimpleNamespace(watch=watch)]), 'pictures'):
        raise KeyError
    assert watch.seconds() == {'steps': 1 + 3, 'pictures': 2}


def test_hooks_of_a_user_with_such_names_are_left_alone():
    hook = SimpleNamespace(watch='mine', begin_part=lambda *_, **__: pytest.fail('called'))
    with timed(SimpleNamespace(hooks=[hook]), 'pictures'):
        pass
    assert hook.watch == 'mine'
