"""The images that files, folders, arrays and Pillow images stand for, and where their results go."""

import os
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from beit_mm.datasets.class_folders import IMAGE_SUFFIXES
from beit_mm.datasets.images import Source
from beit_mm.errors import UserError

Images = Source | Sequence[Source]


class NamedImage(NamedTuple):
    """An image of a list.

    Attributes:
        name: its name in results and messages: its path, or `image_3` for the fourth of a list.
        source: what read_image takes.
        result_path: where its results go in a folder of results: its path below the folder that all images share.
        pixels: uint8 (H, W, 3) in BGR, where an inferencer keeps them.
    """

    name: str
    source: Source
    result_path: str
    pixels: np.ndarray | None = None


def find_images(images: Images) -> list[NamedImage]:
    """List images in the order of the argument.

    Args:
        images: a file, a folder, an array uint8 (H, W, 3) in BGR or (H, W) in gray, a Pillow image, or a list of these.
            Folders are searched to the bottom for IMAGE_SUFFIXES, sorted, along links, without hidden files.

    Raises:
        FileNotFoundError: If a file or folder does not exist.
        OSError: If a folder cannot be read.
        UserError: If there is no image at all, a folder has none, or an item is something else.
    """
    items = list(images) if isinstance(images, (list, tuple)) else [images]
    if not items:
        raise UserError('there must be at least one image, got an empty list')
    paths = [Path(item) for item in items if isinstance(item, (str, Path))]
    folders = [os.path.abspath(path if path.is_dir() else path.parent) for path in paths]
    shared = os.path.commonpath(folders) if folders else ''
    named = []
    for index, item in enumerate(items):
        if isinstance(item, (str, Path)):
            named += _find_files(Path(item), shared)
        elif isinstance(item, (np.ndarray, Image.Image)):
            named.append(NamedImage(f'image_{index}', item, f'image_{index}.png'))
        else:
            raise UserError(f'an image must be a file, a folder, an array or a Pillow image, got {type(item).__name__}')
    return named


def _find_files(path: Path, shared: str) -> list[NamedImage]:
    """A file, or all images below a folder."""
    below_shared = Path(os.path.relpath(path.absolute(), shared))
    if path.is_file():
        return [NamedImage(str(path), str(path), below_shared.as_posix())]
    if not path.is_dir():
        raise FileNotFoundError(f'an image must be a file or folder that exists, got {path}')
    names = [(str(path / name), (below_shared / name).as_posix()) for name in _walk(str(path))]
    if not names:
        raise UserError(f'{path} must hold images ({", ".join(IMAGE_SUFFIXES)}), got none')
    return [NamedImage(name, name, result_path) for name, result_path in names]


def _walk(folder: str, prefix: str = '', above: frozenset = frozenset()) -> Iterator[str]:
    """Paths of the images below a folder, relative to it. A link to a folder above is not followed."""
    above |= {identify(folder)}
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith('.'):
            continue
        if entry.is_dir():
            if identify(entry.path) not in above:
                yield from _walk(entry.path, f'{prefix}{entry.name}/', above)
        elif entry.name.lower().endswith(IMAGE_SUFFIXES):
            yield prefix + entry.name


def identify(path: str | Path) -> tuple[int, int]:
    """Device and inode, which are the same for all paths and links to one file or folder."""
    state = os.stat(path)
    return state.st_dev, state.st_ino


def result_files(images: Sequence[NamedImage], folder: Path, suffix: str) -> dict[str, Path]:
    """The file for the result of every image, by its result_path.

    The suffix replaces the image's own, or follows it where two images differ in nothing else (`a.jpg`, `a.png`).
    """
    stems = {image.result_path: posixpath.splitext(image.result_path)[0] for image in images}
    counts = Counter(stems.values())
    return {
        path: folder / ((stem if counts[stem] == 1 and stem not in stems else path) + suffix)
        for path, stem in stems.items()
    }
