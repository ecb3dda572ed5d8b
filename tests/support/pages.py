"""The code blocks of the README and docs, and what each of them needs that a clone lacks."""

import ast
import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

from support import ROOT

PAGES = ['README.md', *sorted(f'docs/{path.name}' for path in (ROOT / 'docs').glob('*.md'))]

# Data sets: the tests put small ones of the same layout instead.
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
        kind: SHELL, PYTHON or LISTING, lines of paths with what they contain.
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
        """The file name in the first line of a Python block; empty if there is none."""
        actual = re.match(r'# (\S+\.py)$', self.text.splitlines()[0])
        return actual[1] if actual else ''


def blocks(page: str) -> list[Block]:
    """All code blocks of a page, fenced or indented.

    Raises:
        ValueError: If one is neither commands nor Python nor a listing, or needs something unknown.
    """
    return [_block(page, *actual) for actual in _find(_content(page).splitlines())]


def commands(page: str) -> list[str]:
    """All commands of a page."""
    return [command for block in blocks(page) if block.kind == SHELL for command in block.commands]


def _content(page: str) -> str:
    return (ROOT / page).read_text()


def _find(lines: list[str]) -> Iterator[tuple[int, str, list[str], tuple[str, ...]]]:
    """Line, language, lines and needs of each block."""
    position, needs = 0, ()
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
            needs = tuple(word.strip() for word in marker[1].split(','))
        elif lines[start].strip():
            needs = ()
        position += 1


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
