"""The images that files, folders, arrays and Pillow images stand for, and where their results go."""

import os
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from beit_mm.datasets.folders import IMAGE_SUFFIXES, walk_folders
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
            Folders are searched to the bottom for IMAGE_SUFFIXES, sorted, without hidden files.

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
            named += _files(Path(item), shared)
        elif isinstance(item, (np.ndarray, Image.Image)):
            named.append(NamedImage(f'image_{index}', item, f'image_{index}.png'))
        else:
            raise UserError(f'an image must be a file, a folder, an array or a Pillow image, got {type(item).__name__}')
    return named


def _files(path: Path, shared: str) -> list[NamedImage]:
    """A file, or all images below a folder."""
    below_shared = Path(os.path.relpath(os.path.abspath(path), shared)).as_posix()
    if path.is_file():
        return [NamedImage(str(path), str(path), below_shared)]
    if not path.is_dir():
        raise FileNotFoundError(f'an image must be a file or folder that exists, got {path}')
    inner = sorted(_walk(path), key=lambda name: name.replace('/', '\0'))  # folder by folder
    if not inner:
        raise UserError(f'{path} must hold images ({", ".join(IMAGE_SUFFIXES)}), got none')
    # Strings, because a folder may hold millions.
    names = inner if path == Path() else [os.path.join(path, name) for name in inner]
    prefix = '' if below_shared == '.' else f'{below_shared}/'
    return [NamedImage(name, name, prefix + inner_name) for name, inner_name in zip(names, inner)]


def _walk(folder: Path) -> Iterator[str]:
    """Paths of the images below a folder, relative to it."""
    for parent, folders, names in walk_folders(folder):
        folders[:] = [name for name in folders if not name.startswith('.')]
        inner = Path(parent).relative_to(folder).as_posix()
        prefix = '' if inner == '.' else f'{inner}/'
        names = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith('.')]
        yield from (prefix + name for name in names)


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
