"""Text from files and arguments, made safe to show, and names that are nearly right."""

import os
import unicodedata
import warnings
from collections.abc import Iterable
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

from beit_mm.errors import UnreadOption

USUAL_FORMAT = warnings.formatwarning


def show(text: object) -> str:
    """Text for a terminal or a table: in one line, with control characters and what is no Unicode as escapes."""
    return ''.join(
        char if char.isprintable() or unicodedata.category(char) == 'Zs' else char.encode('unicode_escape').decode()
        for char in str(text)
    )


def show_start(text: object, length: int = 200) -> str:
    """Like `show`, cut to a number of characters."""
    start = str(text)[: length + 1]
    return show(start[:length]) + '...' * (len(start) > length)


def show_cell(value: object) -> str:
    """Like `show`, for a cell of a table that a spreadsheet may open: with a `'` before what would be a formula."""
    text = show(value)
    return f"'{text}" if text.lstrip().startswith(tuple('=+-@＝＋－＠')) else text


def format_warning(message: Warning | str, category: type[Warning], *place) -> str:
    """A warning for a terminal: ours as one sentence, others with file and line; a `warnings.formatwarning`."""
    return f'warning: {show(message)}\n' if category is UnreadOption else USUAL_FORMAT(message, category, *place)


def closest(name: str, pool: Iterable[str], cutoff: float = 0.7) -> str:
    """The name of the pool that is most like another one, in upper or lower case; empty if none is."""
    by_lower = {other.lower(): other for other in sorted(pool)}
    return next((by_lower[match] for match in get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)), '')


def hint_at_path(path: str | Path) -> str:
    """What may be meant by a path that does not exist, as `; did you mean X?`, or from where it is looked for."""
    path = Path(path)
    if path.exists():
        return ''
    if path.is_symlink():
        return f'; it is a link to {os.readlink(path)}'
    folder = next((parent for parent in path.parents if parent.is_dir()), Path())
    with suppress(OSError, IndexError):
        meant = closest(path.parts[len(folder.parts)], (entry.name for entry in folder.iterdir()))
        if meant:
            return f'; did you mean {folder / meant}?'
    return '' if path.is_absolute() else f'; it was looked for in {Path.cwd()}'
