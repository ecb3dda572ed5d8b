"""Files that are whole or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Let a file appear under its name when it is complete, in place of one that was there; an error leaves no trace.

    The folder is made if missing.

    Args:
        path: the file.

    Yields:
        A hidden path beside it with the same suffix, or '.part' if it has none, to be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # torch.save wants a name before the last dot.
    beside = path.with_name(f'.{path.stem}_{os.getpid()}{path.suffix or ".part"}')
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
