"""Fixtures of the tests in this folder and in tests/long."""

from pathlib import Path

import pytest

from support.runners import leave_text_as_it_is
from support.stand_ins import write_all


@pytest.fixture(scope='session')
def data(tmp_path_factory) -> Path:
    """A folder whose `data` holds stand-ins of all data sets."""
    folder = tmp_path_factory.mktemp('resuming')
    write_all(folder)
    return folder


@pytest.fixture
def in_data(data, monkeypatch) -> Path:
    monkeypatch.chdir(data)
    leave_text_as_it_is(monkeypatch.setattr)
    return data
