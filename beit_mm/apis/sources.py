"""What stands for images: files, folders, arrays, pictures of Pillow's, or a list of these, each with a name."""
import os
from pathlib import Path, PurePosixPath
from typing import Iterator, List, NamedTuple, Sequence, Union
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from ..datasets.images import Source

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.webp', '.tif', '.tiff', '.ppm', '.pgm', '.jp2')
Images = Union[Source, Sequence[Source]]


class NamedImage(NamedTuple):
    """An image before it is read.

    Attributes:
        name: what it is called in results and messages: its path as given, or `image_3` for the fourth of a list.
        source: what read_image takes.
        place: where results of it belong in a folder of results: its path below the folder that all images share.
    """
    name: str
    source: Source
    place: PurePosixPath


def find_images(images: Images) -> List[NamedImage]:
    """The images that files, folders, arrays and pictures stand for, in the order given.

    Args:
        images: a file or address, a folder, which is searched to the bottom for SUFFIXES, sorted, without hidden
            files; an array uint8 (H, W, 3) in BGR or (H, W) in grey; a picture of Pillow's; or a list of any of these.

    Raises:
        FileNotFoundError: If a file or folder does not exist.
        ValueError: If there is no image at all, a folder has none, or something else is given.
    """
    given = list(images) if isinstance(images, (list, tuple)) else [images]
    if not given:
        raise ValueError('there must be at least one image, got an empty list')
    local = [Path(one) for one in given if _is_path(one) and not _is_address(one)]
    shared = _shared_folder(local)
    found = []
    for number, one in enumerate(given):
        if isinstance(one, (np.ndarray, Image.Image)):
            found.append(NamedImage(f'image_{number}', one, PurePosixPath(f'image_{number}.png')))
        elif not _is_path(one):
            raise ValueError(f'an image must be a file, a folder, an array or a picture of Pillow\'s, got '
                             f'{type(one).__name__}')
        elif _is_address(one):
            parts = urlsplit(str(one))
            found.append(NamedImage(str(one), str(one), PurePosixPath(parts.netloc + parts.path)))
        else:
            found += [NamedImage(str(path), path, _below(path, shared)) for path in _files(Path(one))]
    return found


def _is_path(one: object) -> bool:
    return isinstance(one, (str, Path))


def _is_address(one: Union[str, Path]) -> bool:
    return '://' in str(one)


def _files(path: Path) -> List[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f'an image must be a file or folder that exists, got {path}')
    files = sorted(_walk(path))
    if not files:
        raise ValueError(f'{path} must hold images ({", ".join(SUFFIXES)}), got none')
    return files


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith('.')]
        yield from (Path(parent, name) for name in names
                    if name.lower().endswith(SUFFIXES) and not name.startswith('.'))


def _shared_folder(paths: List[Path]) -> str:
    folders = [os.path.abspath(path if path.is_dir() else path.parent) for path in paths]
    return os.path.commonpath(folders) if folders else ''


def _below(path: Path, folder: str) -> PurePosixPath:
    return PurePosixPath(Path(os.path.relpath(os.path.abspath(path), folder)).as_posix())


def result_names(images: Sequence[NamedImage], suffix: str) -> List[PurePosixPath]:
    """Where the result of every image goes in a folder: its place with another suffix; behind its own one where two
    images differ in that alone (`a.jpg.png` and `a.png.png`)."""
    stems: dict = {}
    for image in images:
        stems.setdefault(image.place.with_suffix(''), set()).add(image.place)
    return [image.place.with_suffix(suffix) if len(stems[image.place.with_suffix('')]) == 1
            else image.place.with_name(image.place.name + suffix) for image in images]
