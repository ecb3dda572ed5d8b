"""A folder of labelled images that says how good the features are: which images are neighbours, which are asked for."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

from beit_mm.datasets.listing import IMAGE_SUFFIXES, LeftOut, list_files
from beit_mm.datasets.transforms.loading import LoadImage
from beit_mm.errors import UserError
from beit_mm.files import atomic_write

from .folder import Folder

FOLD = 5  # without a val folder one image of every FOLD of its class is for validation
SPLITS = ('train', 'val')


@dataclass
class Labels:
    """Labelled images in two parts.

    Attributes:
        path: the folder, as the user wrote it.
        classes: names of the class folders, in order.
        counts: images of both parts.
        sources: arguments of ClassFolders for both.
        left_out: other files, in words.
    """

    path: str
    classes: list[str]
    counts: list[int]
    sources: list[dict[str, str]]
    left_out: str = ''

    @property
    def neighbours(self) -> int:
        """Neighbours that vote: 20 as in KNNHook, fewer of few images."""
        return max(1, min(20, self.counts[0] // len(self.classes) // 2))

    def describe(self) -> str:
        text = f'{self.path}: {len(self.classes)} classes, {self.counts[0]:,} images and {self.counts[1]:,} to ask for'
        return text + (f'; left out: {self.left_out}' if self.left_out else '')


def read_labels(path: str, images: Folder, out: Path) -> Labels:
    """Labels of a folder with a subfolder for each class, or with such folders in `train` and `val`.

    Without `train` and `val`, the images of each class are dealt out. Lists of both parts are written into `out`.

    Raises:
        UserError: If there are not two classes with two images each, the two parts have different classes, or the first
            image of a class has other bands than the images for pre-training.
    """
    suffixes, left_out = images.extensions or IMAGE_SUFFIXES, LeftOut()
    is_split = all(os.path.isdir(os.path.join(path, split)) for split in SPLITS)
    folders = [os.path.join(path, split) for split in SPLITS] if is_split else [path]
    found: list[dict[str, list[str]]] = []
    for folder in folders:
        by_class: dict[str, list[str]] = {}
        for name in list_files(folder, suffixes, left_out):
            label, slash, _ = name.partition('/')
            if not slash:
                left_out.note('in no class folder', name)
            elif not name.isprintable() or name.startswith(' '):  # lists have a name in a line
                left_out.note('with a name that no list can hold', name)
            else:
                by_class.setdefault(label, []).append(name)
        found.append(by_class)
    classes = sorted(found[0])
    few = [name for name in classes if len(found[0][name]) < 2]
    if len(classes) < 2 or few:
        got = f'{len(classes)} such folders' + (f', one image in {few[0]}' if few else '')
        what = f'{folders[0]} must hold a folder for each of two or more classes, with two or more images'
        raise UserError(f'{what}, got {got}' + (f'; left out: {left_out}' if left_out else ''))
    for name in classes:
        _check_bands(images, os.path.join(folders[0], found[0][name][0]))
    if is_split:
        if unknown := sorted(set(found[1]) - set(classes)):
            raise UserError(f'folders in {folders[1]} must be named as those in {folders[0]}, got {unknown[0]}')
        if not found[1]:
            raise UserError(f'{folders[1]} must hold a folder of images for each class, got none')
    parts: list[dict[str, list[str]]] = found if is_split else [{}, {}]
    for name in () if is_split else classes:
        for index, image in enumerate(found[0][name]):
            is_asked = index % FOLD == FOLD // 2 or len(found[0][name]) <= FOLD // 2 and index == 1
            parts[is_asked].setdefault(name, []).append(image)
    sources, counts = [], []
    for split, folder, part in zip(SPLITS, (folders[0], folders[-1]), parts):
        lines = [f'{image} {label}\n' for label, name in enumerate(classes) for image in part.get(name, ())]
        sources.append(write_list(out / f'labels_{split}.txt', folder, lines))
        counts.append(len(lines))
    return Labels(path, classes, counts, sources, str(left_out))


def write_list(file: Path, folder: str, lines: list[str]) -> dict[str, str]:
    """Write lines of a path in a folder and the number of a class; returns arguments of ClassFolders."""
    with atomic_write(file) as temporary:
        temporary.write_text(''.join(lines), encoding='utf-8')
    return dict(data_prefix=folder, ann_file=str(file))


def _check_bands(images: Folder, file: str) -> None:
    pixels = LoadImage(color_type=images.color_type, value_range=images.value_range)(dict(img_path=file))['img']
    got = math.prod(pixels.shape[2:]), 8 * pixels.dtype.itemsize
    if got != (images.bands, images.bits):
        expected = f'{images.bands} bands of {images.bits} bits as the images in {images.path}'
        raise UserError(f'{file} must have {expected}, got {got[0]} of {got[1]} bits')
