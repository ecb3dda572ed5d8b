"""What stands for images: files, folders, arrays, pictures of Pillow's, or a list of these, each with a name."""

import os
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from beit_mm.datasets.folders import IMAGE_SUFFIXES, walk_folders
from beit_mm.datasets.images import Source

Images = Source | Sequence[Source]


class NamedImage(NamedTuple):
    """An image before it is read.

    Attributes:
        name: what it is called in results and messages: its path as given, or `image_3` for the fourth of a list.
        source: what read_image takes.
        place: where results of it belong in a folder of results: its path below the folder that all images share, with
            slashes; of an address host and path.
    """

    name: str
    source: Source
    place: str


def find_images(images: Images) -> list[NamedImage]:
    """The images that files, folders, arrays and pictures stand for, in the order given.

    Args:
        images: a file or address, a folder, which is searched to the bottom for IMAGE_SUFFIXES, sorted, without hidden
            files; an array uint8 (H, W, 3) in BGR or (H, W) in grey; a picture of Pillow's; or a list of any of these.

    Raises:
        FileNotFoundError: If a file or folder does not exist.
        OSError: If a folder cannot be read.
        ValueError: If there is no image at all, a folder has none, or something else is given.
    """
    given = list(images) if isinstance(images, (list, tuple)) else [images]
    if not given:
        raise ValueError('there must be at least one image, got an empty list')
    local = [Path(one) for one in given if is_local(one)]
    shared = _shared_folder(local)
    found = []
    for number, one in enumerate(given):
        if isinstance(one, (np.ndarray, Image.Image)):
            found.append(NamedImage(f'image_{number}', one, f'image_{number}.png'))
        elif not _is_path(one):
            raise ValueError(
                f"an image must be a file, a folder, an array or a picture of Pillow's, got {type(one).__name__}"
            )
        elif _is_address(one):
            found.append(NamedImage(str(one), str(one), _place_of_address(str(one))))
        else:
            found += _files(Path(one), shared)
    return found if len(local) == len(given) else _number_places(found)


def _is_path(one: object) -> bool:
    return isinstance(one, (str, Path))


def _is_address(one: str | Path) -> bool:
    return '://' in str(one)


def is_local(source: Source) -> bool:
    """Whether an image is a file of this machine, rather than an address, an array or a picture."""
    return _is_path(source) and not _is_address(source)


def _shared_folder(paths: list[Path]) -> str:
    folders = [os.path.abspath(path if path.is_dir() else path.parent) for path in paths]
    return os.path.commonpath(folders) if folders else ''


def _files(path: Path, shared: str) -> list[NamedImage]:
    """A file, or all images below a folder, with places below the shared folder."""
    below = Path(os.path.relpath(os.path.abspath(path), shared)).as_posix()
    if path.is_file():
        return [NamedImage(str(path), str(path), below)]
    if not path.is_dir():
        raise FileNotFoundError(f'an image must be a file or folder that exists, got {path}')
    places = sorted(_walk(path), key=lambda place: place.replace('/', '\0'))  # folder by folder
    if not places:
        raise ValueError(f'{path} must hold images ({", ".join(IMAGE_SUFFIXES)}), got none')
    # Strings, as folders may hold millions.
    names = places if path == Path() else [os.path.join(path, place) for place in places]
    prefix = '' if below == '.' else f'{below}/'
    return [NamedImage(name, name, prefix + place) for name, place in zip(names, places)]


def _walk(folder: Path) -> Iterator[str]:
    """Images below a folder, relative to it."""
    for parent, folders, names in walk_folders(folder):
        folders[:] = [name for name in folders if not name.startswith('.')]
        inner = Path(parent).relative_to(folder).as_posix()
        prefix = '' if inner == '.' else f'{inner}/'
        yield from (
            prefix + name for name in names if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith('.')
        )


def _place_of_address(address: str) -> str:
    """Host and path, without user, query and steps upwards."""
    parts = urlsplit(address)
    steps = f'{parts.netloc.rpartition("@")[2]}/{parts.path}'.split('/')
    return '/'.join(step for step in steps if step not in ('', '.', '..')) or 'image'


def _number_places(images: list[NamedImage]) -> list[NamedImage]:
    """Images with other places where an array, a picture or an address has one that is taken."""
    taken = {image.place for image in images if is_local(image.source)}
    numbered = []
    for image in images:
        if not is_local(image.source):
            stem, suffix = posixpath.splitext(image.place)
            places = chain([image.place], (f'{stem}_{number}{suffix}' for number in count(2)))
            image = image._replace(place=next(place for place in places if place not in taken))
            taken.add(image.place)
        numbered.append(image)
    return numbered


def result_names(images: Sequence[NamedImage], suffix: str) -> dict[str, str]:
    """Where the result of every image goes in a folder, by its place: there with another suffix; behind its own one
    where two images differ in that alone (`a.jpg.png` and `a.png.png`).
    """
    stems = {image.place: posixpath.splitext(image.place)[0] for image in images}
    counts = Counter(stems.values())
    return {
        place: (stem if counts[stem] == 1 and stem not in stems else place) + suffix for place, stem in stems.items()
    }
