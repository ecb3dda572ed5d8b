"""Folders searched to the bottom."""

import os
from collections.abc import Iterator
from pathlib import Path

Identity = tuple[int, int]


def identify(path: str | Path) -> Identity:
    """What two paths of one file or folder share, by whatever links they lead there; OSError if there is none."""
    state = os.stat(path)
    return state.st_dev, state.st_ino


def walk_folders(folder: str | Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """os.walk along links, but not by one that leads back to a folder it lies in.

    Raises:
        OSError: If a folder cannot be read, which os.walk would leave out silently.
    """
    above: dict[str, tuple[Identity, ...]] = {os.fspath(folder): (identify(folder),)}
    for parent, folders, names in os.walk(folder, onerror=_fail, followlinks=True):
        chain = above.pop(parent)
        inner = {name: identify(os.path.join(parent, name)) for name in folders}
        folders[:] = [name for name in folders if inner[name] not in chain]
        above.update({os.path.join(parent, name): (*chain, inner[name]) for name in folders})
        yield parent, folders, names


def _fail(error: OSError) -> None:
    raise error
