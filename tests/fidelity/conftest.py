"""Prints what the comparisons with others' models found."""

import tempfile
from pathlib import Path

import pytest
from support.fidelity import COMPARISONS


@pytest.fixture
def folder():
    """An empty folder that does not outlive the test: models at full size fill gigabytes."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


def pytest_terminal_summary(terminalreporter) -> None:
    """One row per model, with -vv one per comparison; relative to the largest magnitude."""
    if not COMPARISONS:
        return
    groups = {}
    for row in sorted(COMPARISONS):
        groups.setdefault(row[:3] if terminalreporter.verbosity > 0 else row[:2], []).append(row)
    terminalreporter.section('largest differences of outputs, absolute and relative')
    for (layout, model, *how), rows in groups.items():
        difference, relative = max(row.difference for row in rows), max(row.relative for row in rows)
        terminalreporter.write_line(
            f'{layout:<14} {model:<38} {difference:7.1e} {relative:7.1e}  {how[0] if how else f"of {len(rows)}"}'
        )
