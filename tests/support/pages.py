"""The code blocks of the README and docs, and what each of them needs that a clone lacks."""

import re
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

from support import ROOT

# Without the list of pages of the documentation site, which is for Sphinx.
PAGES = ['README.md', *sorted(f'docs/{path.name}' for path in (ROOT / 'docs').glob('*.md') if path.stem != 'index')]

# Data sets: the tests put small ones of the same layout instead.
DATA_SETS = {'ImageNet', 'ImageNet-22k', 'CIFAR-100', 'ADE20K'}
# What no test has.
OUTSIDE = {'archives', 'whole data sets', 'released weights', "OpenAI's tokenizer", 'several machines', 'Slurm'}
OUTSIDE |= {'another project', 'network', 'minutes', 'a browser', 'images of four bands'}
SHELL, PYTHON, LISTING = 'shell', 'python', 'listing'
MARKER = re.compile(r'^<!-- needs: (.+) -->$')
COMMAND = re.compile(
    r'#|[A-Z]+=\$\(|([A-Z_]+=\S+ )*'
    r'((beit-mm|eval|python|pip|make|tar|mkdir|for|source|git|tensorboard)\b|tools/[\w/]+\.sh)'
)


class Block(NamedTuple):
    """A code block.

    Attributes:
        page, line: where it begins, from 1 on.
        kind: SHELL, LISTING (lines of paths with what they contain, or of a log) or PYTHON.
        text: without its indentation.
        needs: words of the comment before it.
    """

    page: str
    line: int
    kind: str
    text: str
    needs: set[str]

    @property
    def commands(self) -> list[str]:
        return [line.split('  #')[0].strip() for line in self.text.splitlines() if line.strip()]

    @property
    def file(self) -> str:
        """The file name in the first line of a Python block; empty if there is none."""
        name = re.match(r'# (\S+\.py)$', self.text.splitlines()[0])
        return name[1] if name else ''


def blocks(page: str) -> list[Block]:
    """All code blocks of a page, fenced or indented."""
    return [_block(page, *found) for found in _find((ROOT / page).read_text().splitlines())]


def commands(page: str) -> list[str]:
    """All commands of a page."""
    return [command for block in blocks(page) if block.kind == SHELL for command in block.commands]


def _find(lines: list[str]) -> Iterator[tuple[int, str, list[str], set[str]]]:
    """Line, language, lines and needs of each block."""
    position, needs = 0, set()
    while position < len(lines):
        fence, marker = re.match(r'^ *```(\w*)$', lines[position]), MARKER.match(lines[position].strip())
        start, before = position, lines[position - 1].strip()
        if fence:
            position = next(end for end in range(position + 1, len(lines)) if lines[end].strip() == '```')
            yield start + 1, fence[1], lines[start + 1 : position], needs
        elif lines[position].startswith('    ') and (not before or MARKER.match(before)):
            while position < len(lines) and (lines[position].startswith('    ') or not lines[position].strip()):
                position += 1
            yield start + 1, '', lines[start:position], needs
            position -= 1
        if marker:
            needs = {word.strip() for word in marker[1].split(',')}
        elif lines[start].strip():
            needs = set()
        position += 1


def _block(page: str, line: int, language: str, lines: list[str], needs: set[str]) -> Block:
    text = textwrap.dedent('\n'.join(lines)).strip('\n')
    lines = [line for line in text.splitlines() if line.strip()]
    if language not in ('python', 'text') and all(map(COMMAND.match, lines)):
        return Block(page, line, SHELL, text, needs)
    is_listing = language == 'text' or all(line.startswith('data/') for line in lines)
    return Block(page, line, LISTING if is_listing else PYTHON, text, needs)
