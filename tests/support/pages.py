"""The code blocks of the README and docs, and what each needs that a clone does not hold."""

import ast
import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

from support import ROOT

PAGES = ['README.md', *sorted(f'docs/{path.name}' for path in (ROOT / 'docs').glob('*.md'))]

# Data sets: the tests put small ones of the same layout in their place.
DATA_SETS = ('ImageNet', 'ImageNet-22k', 'CIFAR-100', 'ADE20K')
# What no test has.
OUTSIDE = (
    'archives',
    'released weights',
    "OpenAI's tokenizer",
    'several machines',
    'Slurm',
    'another project',
    'network',
    'minutes',
    'a browser',
)
SHELL, PYTHON, LISTING = 'shell', 'python', 'listing'
PROGRAMS = ('python', 'pip', 'make', 'tar', 'mkdir', 'for', 'source', 'git', 'tensorboard')
MARKER = re.compile(r'^<!-- needs: (.+) -->$')


class Block(NamedTuple):
    """A code block.

    Attributes:
        page, line: where it begins, from 1 on.
        kind: SHELL, PYTHON or LISTING, lines of paths and what they hold.
        text: without its indentation.
        needs: words of the comment before it.
    """

    page: str
    line: int
    kind: str
    text: str
    needs: tuple[str, ...]

    @property
    def commands(self) -> list[str]:
        return [line.split('  #')[0].strip() for line in self.text.splitlines() if line.strip()]

    @property
    def file(self) -> str:
        """The file that a Python block is, by the comment in its first line; empty if it is none."""
        found = re.match(r'# (\S+\.py)$', self.text.splitlines()[0])
        return found[1] if found else ''


def blocks(page: str) -> list[Block]:
    """All code blocks of a page, fenced or indented.

    Raises:
        ValueError: If one is neither commands nor Python nor a listing, or needs something unheard of.
    """
    return [_block(page, *found) for found in _find(_content(page).splitlines())]


def commands(page: str) -> list[str]:
    """All commands of a page."""
    return [command for block in blocks(page) if block.kind == SHELL for command in block.commands]


def _content(page: str) -> str:
    return (ROOT / page).read_text()


def _find(lines: list[str]) -> Iterator[tuple[int, str, list[str], tuple[str, ...]]]:
    """Line, language, lines and needs of each block."""
    place, needs = 0, ()
    while place < len(lines):
        fence, marker = re.match(r'^ *```(\w*)$', lines[place]), MARKER.match(lines[place].strip())
        start, before = place, lines[place - 1].strip()
        if fence:
            place = next(end for end in range(place + 1, len(lines)) if lines[end].strip() == '```')
            yield start + 1, fence[1], lines[start + 1 : place], needs
        elif lines[place].startswith('    ') and (not before or MARKER.match(before)):
            while place < len(lines) and (lines[place].startswith('    ') or not lines[place].strip()):
                place += 1
            yield start + 1, '', lines[start:place], needs
            place -= 1
        if marker:
            needs = tuple(word.strip() for word in marker[1].split(','))
        elif lines[start].strip():
            needs = ()
        place += 1


def _block(page: str, line: int, language: str, lines: list[str], needs: tuple[str, ...]) -> Block:
    width = min(len(text) - len(text.lstrip()) for text in lines if text.strip())
    text = '\n'.join(text[width:] for text in lines).strip('\n')
    unknown = set(needs) - {*DATA_SETS, *OUTSIDE}
    if unknown:
        raise ValueError(f'{page}:{line} needs {", ".join(unknown)}; known are {", ".join((*DATA_SETS, *OUTSIDE))}')
    return Block(page, line, _kind(page, line, language, text), text, needs)


def _kind(page: str, line: int, language: str, text: str) -> str:
    if language == 'python':
        return PYTHON
    lines = [line for line in text.splitlines() if line.strip()]
    if not language and all(map(_is_command, lines)):
        return SHELL
    if not language and all(line.startswith('data/') for line in lines):
        return LISTING
    try:
        ast.parse(text)
    except SyntaxError:
        raise ValueError(
            f'{page}:{line} must be commands ({", ".join(PROGRAMS)}, tools/...), Python or a listing of '
            f'data/..., got:\n{text}'
        ) from None
    return PYTHON


def _is_command(line: str) -> bool:
    if re.match(r'^[A-Z]+=\$\(', line):
        return True
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return False
    while words and re.match(r'^[A-Z_]+=', words[0]):
        words = words[1:]
    return not words or words[0] in PROGRAMS or re.match(r'^tools/\w+\.sh$', words[0]) is not None
