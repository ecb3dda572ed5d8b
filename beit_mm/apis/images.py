"""The images that files, folders, arrays and Pillow images stand for."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from beit_mm.datasets.images import Source
from beit_mm.datasets.listing import IMAGE_SUFFIXES, LeftOut, list_files
from beit_mm.errors import UserError
from beit_mm.text import hint_at_path

Images = Source | Sequence[Source]


class NamedImage(NamedTuple):
    """An image of a list.

    Attributes:
        name: its name in results and messages: its path, or `image_3` for the fourth of a list.
        source: what read_image takes.
        result_path: where its results go in a folder of results: its path below the folder that all images share.
        pixels: as read_image returns them; None unless the inferencer keeps them.
    """

    name: str
    source: Source
    result_path: str
    pixels: np.ndarray | None = None


def find_images(
    images: Images, left_out: LeftOut | None = None, suffixes: Sequence[str] = IMAGE_SUFFIXES
) -> list[NamedImage]:
    """List images in the order of the argument.

    Args:
        images: a file, a folder, an array uint8 (H, W, 3) in BGR or (H, W) in gray, a Pillow image, or a list of these.
            Folders are searched with all their subfolders, see list_files.
        left_out: counts what else the folders hold.
        suffixes: of the images in folders.

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
            for path in _find_files(Path(item), LeftOut() if left_out is None else left_out, suffixes):
                result_path = Path(os.path.relpath(path.absolute(), shared)).as_posix()
                named.append(NamedImage(str(path), str(path), result_path))
        elif isinstance(item, (np.ndarray, Image.Image)):
            named.append(NamedImage(f'image_{index}', item, f'image_{index}.png'))
        else:
            raise UserError(f'an image must be a file, a folder, an array or a Pillow image, got {type(item).__name__}')
    return named


def _find_files(path: Path, left_out: LeftOut, suffixes: Sequence[str]) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f'an image must be a file or folder that exists, got {path}{hint_at_path(path)}')
    names = list_files(str(path), suffixes, left_out)
    if not names:
        others = f'; left out: {left_out}' if left_out else ''
        raise UserError(f'{path} must hold images ({", ".join(suffixes)}), got none{others}')
    return [path / name for name in sorted(names, key=lambda name: name.split('/'))]


def identify(path: str | Path) -> tuple[int, int]:
    """Device and inode, which are the same for all paths and links to one file or folder."""
    state = os.stat(path)
    return state.st_dev, state.st_ino
