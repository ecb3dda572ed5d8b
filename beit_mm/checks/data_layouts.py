"""Checks of the four data sets of the recipes before hours are lost on them: folders, counts, labels, pictures."""

import hashlib
import random
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from mmpretrain.datasets import CIFAR100

from .data_folders import (
    check_class_folders,
    check_listed,
    check_opening,
    ClassScan,
    compare,
    compare_classes,
    Finding,
    OK,
    scan_classes,
    WARNING,
    WRONG,
)
from .label_maps import Pair, read_labels

NUM_CLASSES_ADE20K = 150


class Layout(NamedTuple):
    """Where the recipes look for a data set, and what checks it: a function of that folder and how many images of each
    split to open.
    """

    root: str
    check: Callable[[Path, int], Iterator[Finding]]


def check_imagenet(root: Path, num_opened: int) -> Iterator[Finding]:
    """ImageNet-1k (ILSVRC 2012): `train` and `val`, each with a folder per class or listed in meta/SPLIT.txt."""
    scans: list[ClassScan] = []
    for split, num_images in dict(train=1_281_167, val=50_000).items():
        listing, folder = root / 'meta' / f'{split}.txt', root / split
        if not folder.is_dir():
            yield _missing(folder, root, 'train', 'the images of that split')
        elif listing.is_file():
            yield from check_listed(listing, folder, 1000, num_images, num_opened)
        else:
            scans.append(scan_classes(folder, num_opened))
            classes = compare(
                folder,
                'class folders',
                1000,
                len(scans[-1].counts),
                'labels are their places in the alphabet, so all must be there and no others',
                otherwise=WRONG,
            )
            yield from check_class_folders(folder, scans[-1], classes, num_images)
    if len(scans) == 2 and all(scan.counts for scan in scans):
        yield compare_classes(root / 'train', root / 'val', scans)


def check_imagenet22k(root: Path, num_opened: int) -> Iterator[Finding]:
    """ImageNet-22k (fall 2011): `train` with a folder per class; `val`, where there is one, with the same folders."""
    train, val = root / 'train', root / 'val'
    listing = root / 'meta' / 'train.txt'
    if not train.is_dir():
        yield _missing(train, root, 'train', 'a folder per class')
        return
    if listing.is_file():
        yield from check_listed(listing, train, 21_841, 14_197_087, num_opened)
        return
    scans = [scan_classes(train, num_opened)]
    classes = compare(
        train,
        'class folders',
        21_841,
        len(scans[0].counts),
        'to fine-tune, set num_classes of model.head and model.data_preprocessor to it',
    )
    yield from check_class_folders(train, scans[0], classes, 14_197_087)
    if not val.is_dir():
        yield Finding(OK, val, 'not there; only tools/test.py on ImageNet-22k needs it')
        return
    scans.append(scan_classes(val, num_opened))
    yield Finding(OK, val, f'{sum(scans[1].counts.values()):,} images')
    yield check_opening(val, scans[1].sample)
    yield compare_classes(train, val, scans)


def check_cifar100(root: Path, num_opened: int) -> Iterator[Finding]:
    """CIFAR-100: the files of its Python archive, by their checksums, which MMPretrain compares, too."""
    folder = root / CIFAR100.base_folder
    if not folder.is_dir():
        packed = root / CIFAR100.filename
        yield (
            Finding(
                WRONG, folder, f'expected a folder, got the archive {packed}; unpack it: tar -xf {packed} -C {root}'
            )
            if packed.is_file()
            else _missing(folder, root, CIFAR100.base_folder, 'the archive')
        )
        return
    for name, checksum in [*CIFAR100.train_list, *CIFAR100.test_list, list(CIFAR100.meta.values())[::2]]:
        path = folder / name
        if not path.is_file():
            yield Finding(WRONG, path, 'expected a file, got none; unpack the archive anew')
            continue
        got = hashlib.md5(path.read_bytes()).hexdigest()
        yield (
            Finding(OK, path, f'MD5 {got}')
            if got == checksum
            else Finding(WRONG, path, f'expected MD5 {checksum}, got {got}; download the archive anew')
        )


def check_ade20k(root: Path, num_opened: int) -> Iterator[Finding]:
    """ADE20K's scene parsing benchmark: `images` and `annotations`, each with `training` and `validation`."""
    for split, num_images in dict(training=20_210, validation=2_000).items():
        folders = Pair(root / 'images' / split, root / 'annotations' / split)
        missing = [folder for folder in folders if not folder.is_dir()]
        for folder in missing:
            yield _missing(folder, root, 'images', 'what ADEChallengeData2016.zip holds')
        if not missing:
            yield from _check_pairs(folders, num_images, num_opened)


def _check_pairs(folders: Pair, num_images: int, num_opened: int) -> Iterator[Finding]:
    images, labels = (
        {path.stem for path in folder.glob(f'*{suffix}')} for folder, suffix in zip(folders, ('.jpg', '.png'))
    )
    if not images:
        yield Finding(WRONG, folders.image, 'expected .jpg images, got none; unpack ADEChallengeData2016.zip anew')
        return
    yield compare(folders.image, 'images', num_images, len(images))
    lonely, unused = sorted(images - labels), sorted(labels - images)
    if lonely:
        yield Finding(
            WRONG,
            folders.labels,
            f'expected a label map for every image, got none for {len(lonely):,}, the '
            f'first {lonely[0]}.png; unpack the archive anew',
        )
    if unused:
        yield Finding(
            WARNING,
            folders.labels,
            f'expected an image for every label map, got none for {len(unused):,}, the first {unused[0]}.jpg',
        )
    common = sorted(images & labels)
    chosen = sorted(random.Random(0).sample(common, min(num_opened, len(common))))
    yield check_opening(folders.image, [folders.image / f'{name}.jpg' for name in chosen])
    yield _check_maps(folders, chosen)


def _check_maps(folders: Pair, names: list[str]) -> Finding:
    """Labels and sizes of some label maps; the first that is wrong is told."""
    for name in names:
        pair = Pair(folders.image / f'{name}.jpg', folders.labels / f'{name}.png')
        labels, fault = read_labels(pair, is_training=False)
        outside = [label for label in labels if label > NUM_CLASSES_ADE20K]
        if outside:
            fault = (
                f'expected labels 0 (unlabelled) to {NUM_CLASSES_ADE20K}, got {outside[-1]}; take the files of '
                'ADEChallengeData2016.zip as they are'
            )
        if fault:
            return Finding(WRONG, pair.labels, fault)
    return Finding(
        OK, folders.labels, f'{len(names)} label maps have the size of their image and labels 0 to {NUM_CLASSES_ADE20K}'
    )


def _missing(folder: Path, root: Path, child: str, content: str) -> Finding:
    """A folder that is not there; the mend names a folder below ROOT that would be right in its place."""
    inner = next((path.parent for path in sorted(root.glob(f'*/{child}')) if path.is_dir()), None)
    mend = f'give {inner} as ROOT, and to the recipes as data_root' if inner else f'put {content} there'
    return Finding(WRONG, folder, f'expected a folder, got none; {mend}')


LAYOUTS: dict[str, Layout] = dict(
    imagenet=Layout('data/imagenet', check_imagenet),
    imagenet22k=Layout('data/imagenet22k', check_imagenet22k),
    cifar100=Layout('data/cifar100', check_cifar100),
    ade20k=Layout('data/ade/ADEChallengeData2016', check_ade20k),
)


def check_data_command(args: Namespace) -> None:
    """Check as the arguments of tools/check_data.py say: print every finding, exit with 1 if something is wrong."""
    layout = LAYOUTS[args.layout]
    verdicts = []
    for finding in layout.check(Path(args.root or layout.root), args.open):
        print(finding, flush=True)  # at once: millions of files take minutes
        verdicts.append(finding.verdict)
    counts = {verdict: verdicts.count(verdict) for verdict in (WRONG, WARNING)}
    print(f'{args.layout}: {counts[WRONG]} wrong, {counts[WARNING]} warnings in {len(verdicts)} checks')
    if counts[WRONG]:
        sys.exit(1)
