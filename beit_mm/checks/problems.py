"""A mistake in a config."""

from collections.abc import Iterable
from typing import NamedTuple

from beit_mm.text import closest, show


class Problem(NamedTuple):
    """A mistake in a config.

    Attributes:
        key: dotted key of the config, or an argument of the command line.
        sentence: what is wrong and how to mend it.
        is_error: whether a training would fail or compute something else than was meant; else a warning.
        cause: the exception behind it, if its message is not for users; its traceback goes to a file.
    """

    key: str
    sentence: str
    is_error: bool = True
    cause: Exception | None = None

    def __str__(self) -> str:
        # `load_from names a checkpoint ...`: the key is the sentence's subject
        is_subject = self.sentence.startswith(('names ', 'is used by'))
        return show(f'{self.key}{" " if is_subject else ": "}{self.sentence}')


def warn(key: str, sentence: str) -> Problem:
    """A problem that may be meant."""
    return Problem(key, sentence, is_error=False)


def suggest(name: str, pool: Iterable[str], otherwise: str) -> str:
    """`did you mean x?` for the closest name of a pool, or another mend where none is close."""
    meant = closest(name, pool)
    return f'did you mean {meant}?' if meant else otherwise
