"""The CPU tables of docs/performance.md, and what both kinds share: figures in a JSON, put between markers."""

import os
import subprocess
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
VERSIONS = ('torch', 'beit_mm', 'timm', 'mmengine', 'mmpretrain', 'mmseg', 'triton')


def put(text: str, kind: str, page: Path) -> None:
    """Put Markdown between the markers of its kind, in place of what stands there."""
    begin, end = (f'<!-- {kind} tables: {word} -->' for word in ('begin', 'end'))
    whole = page.read_text()
    if whole.count(begin) != 1 or whole.count(end) != 1:
        raise SystemExit(f'{page} must have one line {begin} and one {end}')
    before, after = whole.split(begin)[0], whole.split(end)[1]
    page.write_text(f'{before}{begin}\n\n{text}\n\n{end}{after}')


def tables(figures: dict[str, Any]) -> str:
    """Markdown: a table for each section of a benchmark, under its machine, versions and date."""
    return '\n'.join(_lines(figures))


def _lines(figures: dict[str, Any]) -> Iterator[str]:
    from measuring import as_table, Row  # they import torch

    facts, rows = figures['facts'], [Row(**row) for row in figures['rows']]
    yield from describe(figures, facts)
    kind = f'{facts["instructions"]}, {"with" if facts["bfloat16"] else "without"} bfloat16'
    sizes = f'{facts["threads"]} threads, {facts["memory"] / 2**30:.0f} GiB'
    yield f'{kind}, {sizes}. Medians of {figures["rounds"]} rounds.'
    for section in dict.fromkeys(row.section for row in rows):
        yield from ('', f'**{section[0].upper()}{section[1:]}**', '')
        yield as_table([row for row in rows if row.section == section])


def describe(figures: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
    """Lines of the machine, date and versions."""
    versions = [f'{name} {facts[name]}' for name in VERSIONS if facts.get(name)]
    driver = [f'driver {facts["driver"]}'] if 'driver' in facts else []
    yield f'Measured on {facts.get("device", "an unknown device")}, {figures["date"]}, commit {figures["commit"]}:'
    yield ', '.join([f'Python {facts.get("python")}', *versions, *driver]) + '.'


def origin() -> dict[str, str]:
    """When and by which code figures are measured; where git does not know it, the variable COMMIT says it."""
    command = ['git', '-C', ROOT, 'describe', '--always', '--abbrev=12', '--dirty', '--exclude=*']
    result = subprocess.run(command, capture_output=True, text=True)
    commit = os.environ.get('COMMIT') or result.stdout.strip() or 'unknown'
    return dict(date=f'{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC', commit=commit)
