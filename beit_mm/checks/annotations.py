"""Checks of annotation files: every line, as the hosts' data sets read it."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .problems import Problem

MAX_SHOWN = 80  # characters of a line


class Highest(NamedTuple):
    """The highest label and the first line with it, from 1 on."""

    label: int
    line: int


class AnnotationFile:
    """A text file with an image per line, `path` or `path label`, read by MMPretrain's or MMSegmentation's data sets.

    Args:
        key: the data set's, dotted.
        path: the file.
        root: the folder that no image may lie outside of; a link in it may lead anywhere.
        folder: where the paths start.
        has_labels: whether a line ends in a class number.
    """

    def __init__(self, key: str, path: Path, root: Path, folder: Path, has_labels: bool):
        self.key = f'{key}.ann_file'
        self.path = path
        self.root = root
        self.folder = folder
        self.has_labels = has_labels
        self.highest: Highest | None = None

    def problems(self) -> Iterator[Problem]:
        """What is wrong with the lines, one sentence per kind with its first line; sets `highest`.

        About a second per million lines.
        """
        content = self.path.read_bytes()
        try:
            text = content.decode('utf-8')
        except UnicodeDecodeError as error:
            line = content.count(b'\n', 0, error.start) + 1
            yield self._problem(line, f'must be text in UTF-8, got byte 0x{content[error.start]:02x}', 'write it anew')
            return
        lines = [line.strip() for line in text.removesuffix('\n').split('\n')]
        if not text.strip():
            yield Problem(self.key, f'names an empty file: {self.path}; list an image per line')
            return
        if text[0] == '\ufeff':
            yield self._problem(1, 'starts with a byte order mark, which the first path would get', 'write it without')
        yield from self._first(lines, lambda line: not line, '' in lines, 'must name an image, got an empty line')
        yield from self._first(lines, lambda line: '\0' in line, '\0' in text, 'must be text, got a NUL byte')
        names = lines
        if self.has_labels:
            yield from self._check_labels(lines)
            names = [line.rpartition(' ')[0].rstrip() for line in lines]
        yield from self._check_places(names, text)
        yield from self._check_repeats(names, lines)

    def _check_labels(self, lines: list[str]) -> Iterator[Problem]:
        words = [line.rpartition(' ')[2] for line in lines]
        numbers: dict[str, int | None] = {word: _number(word) for word in set(words)}
        wrong = {word for word, number in numbers.items() if number is None or number < 0}
        wanted = 'must be a path, a space and a class number from 0 on'
        # One word is no line without a label but one without a path, or both: `7`.
        yield from self._first(
            lines,
            lambda line: line and (' ' not in line or line.rpartition(' ')[2] in wrong),
            bool(wrong) or any(' ' not in line for line in lines),
            wanted,
        )
        highest = max((number for number in numbers.values() if number is not None), default=-1)
        if highest >= 0:
            self.highest = Highest(
                highest, next(place for place, word in enumerate(words, 1) if numbers[word] == highest)
            )

    def _check_places(self, names: list[str], text: str) -> Iterator[Problem]:
        """Paths that lead out of the data, which only `..` and a leading slash can."""
        root, folder = os.path.abspath(self.root), os.path.abspath(self.folder)

        def leaves(name: str) -> bool:
            if '..' not in name and name[:1] != '/':
                return False
            place = os.path.normpath(os.path.join(folder, name))
            return place != root and not place.startswith(os.path.join(root, ''))

        suspicious = '..' in text or any(name[:1] == '/' for name in names)
        yield from self._first(
            names, leaves, suspicious, f'must name an image in {self.root}', 'give a path from there on'
        )

    def _check_repeats(self, names: list[str], lines: list[str]) -> Iterator[Problem]:
        hashes = np.sort(np.fromiter(map(hash, names), np.int64, len(names)))  # a set would take 100 bytes per line
        if not (hashes[1:] == hashes[:-1]).any():
            return
        first: dict[str, int] = {}
        for place, name in enumerate(names):
            if not name:
                continue
            other = first.setdefault(name, place)
            if other != place:
                differ = lines[other] != lines[place]
                what = 'gives another label to' if differ else 'repeats'
                yield self._problem(place + 1, f'{what} {_shown(name)} of line {other + 1}', 'drop one of them', differ)
                return

    def _first(
        self,
        lines: Sequence[str],
        is_wrong: Callable[[str], bool],
        may_be: bool,
        sentence: str,
        mend: str = 'mend the line',
    ) -> Iterator[Problem]:
        """The first wrong line and how many there are; looked for only where there may be one."""
        wrong = [place for place, line in enumerate(lines) if is_wrong(line)] if may_be else []
        if wrong:
            got = '' if ', got' in sentence else f', got {_shown(lines[wrong[0]])}'
            others = f' (so do {len(wrong)} of {len(lines)} lines)' if len(wrong) > 1 else ''
            yield self._problem(wrong[0] + 1, f'{sentence}{got}{others}', mend)

    def _problem(self, line: int, fact: str, mend: str, is_error: bool = True) -> Problem:
        return Problem(self.key, f'{self.path}:{line} {fact}; {mend}', is_error)


def _number(word: str) -> int | None:
    try:
        return int(word)
    except ValueError:
        return None


def _shown(text: str) -> str:
    return repr(text if len(text) <= MAX_SHOWN else f'{text[:MAX_SHOWN]}...')
