"""Finding images in folders."""

import os
from collections.abc import Iterator
from pathlib import Path

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.webp', '.tif', '.tiff', '.ppm', '.pgm', '.jp2')
Identity = tuple[int, int]


def identify(path: str | Path) -> Identity:
    """Device and inode, which are the same for all paths and links to one file or folder.

    Raises:
        OSError: If there is no such file.
    """
    state = os.stat(path)
    return state.st_dev, state.st_ino


def walk_folders(folder: str | Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Like os.walk, following links, except those that lead back to a folder above.

    Raises:
        OSError: If a folder cannot be read, which os.walk would skip silently.
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
