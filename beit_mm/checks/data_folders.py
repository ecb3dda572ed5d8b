"""What lies in the folders of a classification data set: images by class folder, or listed in a file."""

import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mmpretrain.datasets import ImageNet

from beit_mm.datasets.bad_images import BadImage
from beit_mm.datasets.folders import walk_folders
from beit_mm.datasets.images import read_image

from .annotations import AnnotationFile

OK, WARNING, WRONG = 'ok', 'warning', 'wrong'
EXTENSIONS = ImageNet.IMG_EXTENSIONS


class Finding(NamedTuple):
    """What one check found.

    Attributes:
        verdict: OK, WARNING where a training would run and may compute something else than was meant, or WRONG.
        place: file or folder.
        fact: what is there; if it is not OK, what was expected, what is there, and the mend.
    """

    verdict: str
    place: Path
    fact: str

    def __str__(self) -> str:
        return f'{self.verdict:<8} {self.place}: {self.fact}'


class ClassScan(NamedTuple):
    """Images by class folder, names of files beside these folders, and some of the images, chosen by a fixed seed."""

    counts: dict[str, int]
    loose: list[str]
    sample: list[Path]


def compare(
    place: Path,
    what: str,
    expected: int,
    got: int,
    mend: str = 'a part is missing or doubled',
    otherwise: str = WARNING,
) -> Finding:
    """A number against the published one."""
    if got == expected:
        return Finding(OK, place, f'{got:,} {what}')
    return Finding(otherwise, place, f'expected {expected:,} {what}, got {got:,}; {mend}')


def scan_classes(folder: Path, num_sampled: int) -> ClassScan:
    """Count the images of every class folder, nested ones included, as MMPretrain's data sets find them."""
    counts: dict[str, int] = {}
    loose, sample, seen, generator = [], [], 0, random.Random(0)
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if not entry.is_dir():
            loose.append(entry.name)
            continue
        names = [
            os.path.join(parent, name)
            for parent, _, files in walk_folders(entry.path)
            for name in files
            if name.lower().endswith(EXTENSIONS)
        ]
        counts[entry.name] = len(names)
        for name in sorted(names):  # every image of the data set with the same chance, without a list of all
            seen += 1
            place = len(sample) if len(sample) < num_sampled else generator.randrange(seen)
            sample[place : place + 1] = [Path(name)] if place < num_sampled else []
    return ClassScan(counts, loose, sample)


def check_class_folders(folder: Path, scan: ClassScan, classes: Finding, num_images: int) -> Iterator[Finding]:
    """Class folders, images and what lies beside them, against the published numbers.

    Args:
        classes: what there is to say of the number of class folders.
    """
    found = sum(scan.counts.values())
    if not found:
        yield Finding(WRONG, folder, f'expected images in class folders, got {_describe_loose(scan.loose)}')
        return
    yield classes
    yield compare(folder, 'images', num_images, found)
    empty = [name for name, count in scan.counts.items() if not count]
    if empty:
        yield Finding(
            WARNING, folder, f'expected images in every class folder, got none in {len(empty):,}, the first {empty[0]}'
        )
    if any(name.lower().endswith(EXTENSIONS) for name in scan.loose):
        yield Finding(WARNING, folder, f'expected images in class folders alone, got {_describe_loose(scan.loose)}')
    yield check_opening(folder, scan.sample)


def _describe_loose(names: Sequence[str]) -> str:
    """What lies in a split without class folders, and what to do with it."""
    images = [name for name in names if name.lower().endswith(EXTENSIONS)]
    archives = [name for name in names if name.endswith(('.tar', '.tar.gz', '.tgz'))]
    if images:
        return (
            f'{len(images):,} images beside each other, the first {min(images)}, as the archive of the validation '
            'images gives them; move each into the folder of its class, or list them in meta/val.txt, a line '
            '`FILE CLASS_NUMBER` each (docs/data.md)'
        )
    if archives:
        return (
            f'{len(archives):,} archives, the first {min(archives)}; unpack each into a folder of its name '
            '(docs/data.md)'
        )
    return 'none'


def compare_classes(train: Path, val: Path, scans: Sequence[ClassScan]) -> Finding:
    """Labels count folders, so both splits must have the same."""
    ours, theirs = (set(scan.counts) for scan in scans)
    if ours == theirs:
        return Finding(OK, val, f'the same class folders as in {train}')
    odd = min(ours ^ theirs)
    place, other = (train, val) if odd in ours else (val, train)
    return Finding(
        WRONG,
        val,
        f'expected the class folders of {train}, got others: {odd} is in {place} and not in '
        f'{other} ({len(ours ^ theirs)} differ), so the same label means another class',
    )


def check_listed(path: Path, folder: Path, num_classes: int, num_images: int, num_opened: int) -> Iterator[Finding]:
    """Images listed in a file, a line `path label` each, which MMPretrain's ImageNet reads instead of class folders."""
    listing = AnnotationFile('', path, path.parents[1], folder, has_labels=True)
    problems = list(listing.problems())
    for problem in problems:
        yield Finding(WRONG if problem.is_error else WARNING, path, problem.sentence.removeprefix(f'{path}:'))
    if any(problem.is_error for problem in problems):
        return
    names = [line.rpartition(' ')[0].strip() for line in path.read_text('utf-8').splitlines() if line.strip()]
    yield compare(path, 'images listed', num_images, len(names))
    yield compare(path, 'classes', num_classes, listing.highest.label + 1, 'the highest label tells')
    chosen = sorted(random.Random(0).sample(range(len(names)), min(num_opened, len(names))))
    yield check_opening(folder, [folder / names[place] for place in chosen])


def check_opening(folder: Path, paths: Sequence[Path]) -> Finding:
    """Whether images can be read; the first that cannot is told."""
    bad = []
    for path in paths:
        try:
            read_image(path)
        except BadImage as error:
            bad.append(error)
    if bad:
        return Finding(
            WRONG, folder, f'expected to open {len(paths)} images, could not open {len(bad)}: {bad[0]}; write it anew'
        )
    return Finding(OK, folder, f'{len(paths)} images opened')
