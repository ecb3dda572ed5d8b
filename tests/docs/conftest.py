from pathlib import Path

import pytest
from support.clone import train_demonstration, write_clone
from support.data import enter


@pytest.fixture(scope='session')
def clone_folder(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('clone')
    write_clone(folder, data / 'data')
    return folder


@pytest.fixture
def clone(clone_folder, monkeypatch) -> Path:
    """A clone with small data as the working directory; what tests write stays there for the next."""
    enter(clone_folder, monkeypatch)
    monkeypatch.syspath_prepend(str(clone_folder))
    return clone_folder


@pytest.fixture
def demonstration(clone) -> Path:
    """The clone with the checkpoints of the demonstration, after two steps each."""
    if not (clone / 'work_dirs' / 'demo').exists():
        train_demonstration()
    return clone
