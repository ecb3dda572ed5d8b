import pytest
from support.tools import import_tool


@pytest.fixture(autouse=True)
def small_products(monkeypatch):
    """Of matrices that take no seconds: how fast they are is not asserted."""
    monkeypatch.setattr(import_tool('benchmark', 'limits'), 'SIDES', (64, 256))
