"""Make the demonstration's data: handwritten digits over photographs, in the layouts of ImageNet and ADE20K.

One folder is for pre-training and classification, one for segmentation. Training and validation share no digit and no
photograph region.
"""

import argparse
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import digit_pictures
import numpy as np
from digit_pictures import DIGIT_SHARE, FOLD, load_sources, MAX_SHIFT, render, SCENE_DIGIT_SHARE, SECOND_DIGIT_CHANCE
from PIL import Image

CLASSES = tuple(f'digit_{digit}' for digit in range(10))
SCENE_CLASSES = ('background', *(f'digit {digit}' for digit in range(10)))
STAMP = '.digits.json'


def split_digits(labels: np.ndarray, limit: int | None = None) -> dict[str, list[list[int]]]:
    """Split the digits of every class, the third of every five to validation.

    Args:
        labels: (num_digits,) classes 0 to 9.
        limit: use only the first so many digits of every class.

    Returns:
        'train' and 'val': for every class the indices into `labels`, ascending.

    Raises:
        ValueError: If `limit` leaves nothing for validation.
    """
    first = FOLD // 2
    if limit is not None and limit <= first:
        raise ValueError(f'limit must be at least {first + 1} digits per class, one for validation, got {limit}')
    classes = [np.flatnonzero(labels == digit)[:limit].tolist() for digit in range(10)]
    val = [indices[first::FOLD] for indices in classes]
    return dict(train=[sorted({*indices} - {*held_out}) for indices, held_out in zip(classes, val)], val=val)


def write_classification(
    root: str | Path, seed: int = 0, size: int = 96, renders: int = 2, limit: int | None = None
) -> dict[str, int]:
    """Write one digit per picture in ImageNet's layout, for `mmpretrain.datasets.ImageNet`.

    `train/digit_3/00012_0.jpg` is render 0 of digit 12 of scikit-learn's set. `meta/train.txt` and `meta/val.txt`
    list all files with their class, `meta/train_10.txt` the first ten training digits of every class.

    Args:
        root: a new or empty folder, or one that this function has filled with the same arguments, which stays as it is.
        seed: not negative; the same seed gives the same bytes with one version of Pillow.
        size: side of the pictures in pixels, at least 32.
        renders: pictures per training digit, differing in background, colour and position; a validation digit has one.
        limit: use only the first so many digits of every class (for tests).

    Returns:
        Counts: 'train' and 'val' pictures, 'train_10' lines, 'classes'.

    Raises:
        ValueError: If `root` holds anything else, or an argument is out of range.
    """
    _check_at_least(1, renders=renders)

    def write(folder: Path) -> dict[str, int]:
        lists: dict[str, list[str]] = dict(train=[], val=[], train_10=[])
        for split, pools in split_digits(load_sources().labels, limit).items():
            for label, pool in enumerate(pools):
                (folder / split / CLASSES[label]).mkdir(parents=True)
                for index, copy in itertools.product(pool, range(renders if split == 'train' else 1)):
                    name = f'{CLASSES[label]}/{index:05d}_{copy}.jpg'
                    rng = _generator(seed, 0, split, index, copy)
                    image, _ = render(rng, split, [index], size, DIGIT_SHARE, MAX_SHIFT)
                    _save_jpeg(image, folder / split / name)
                    lists[split].append(f'{name} {label}\n')
                    if split == 'train' and index in pool[:10] and copy == 0:
                        lists['train_10'].append(f'{name} {label}\n')
        (folder / 'meta').mkdir()
        for name, lines in lists.items():
            (folder / 'meta' / f'{name}.txt').write_text(''.join(sorted(lines)))
        return dict({name: len(lines) for name, lines in lists.items()}, classes=len(CLASSES))

    return _write_once(root, dict(kind='classification', seed=seed, size=size, renders=renders, limit=limit), write)


def write_segmentation(
    root: str | Path, seed: int = 0, size: int = 96, num_train: int = 1200, num_val: int = 200, limit: int | None = None
) -> dict[str, int]:
    """Write scenes of one or two digits in ADE20K's layout.

    `annotations/training/00012.png` labels `images/training/00012.jpg`: 0 unlabelled (a thin border around digits),
    1 background, 2 to 11 the digits 0 to 9. Scene i holds a digit i % 10, so that classes are about equally frequent.

    Args:
        root, seed, size, limit: see `write_classification`.
        num_train, num_val: scenes in training and validation.

    Returns:
        Counts: 'training' and 'validation' scenes, 'classes'.

    Raises:
        ValueError: If `root` holds anything else, or an argument is out of range.
    """
    _check_at_least(1, num_train=num_train, num_val=num_val)

    def write(folder: Path) -> dict[str, int]:
        splits = split_digits(load_sources().labels, limit)
        for split, place, count in (('train', 'training', num_train), ('val', 'validation', num_val)):
            images, annotations = folder / 'images' / place, folder / 'annotations' / place
            images.mkdir(parents=True)
            annotations.mkdir(parents=True)
            for scene in range(count):
                rng = _generator(seed, 1, split, scene, 0)
                labels = [scene % 10] + ([int(rng.integers(10))] if rng.random() < SECOND_DIGIT_CHANCE else [])
                digits = [int(rng.choice(splits[split][label])) for label in labels]
                # The fixed class must not always be the one that is partly hidden.
                rng.shuffle(digits)
                image, annotation = render(rng, split, digits, size, SCENE_DIGIT_SHARE)
                _save_jpeg(image, images / f'{scene:05d}.jpg')
                Image.fromarray(annotation).save(annotations / f'{scene:05d}.png', compress_level=1)
        return dict(training=num_train, validation=num_val, classes=len(SCENE_CLASSES))

    arguments = dict(kind='segmentation', seed=seed, size=size, num_train=num_train, num_val=num_val, limit=limit)
    return _write_once(root, arguments, write)


def _save_jpeg(image: np.ndarray, path: Path) -> None:
    # Full chroma resolution keeps coloured edges where the labels have them.
    Image.fromarray(image).save(path, quality=95, subsampling=0)


def _generator(seed: int, kind: int, split: str, index: int, copy: int) -> np.random.Generator:
    """One generator per file, so that no file depends on the order or number of the others."""
    return np.random.default_rng([seed, kind, ('train', 'val').index(split), index, copy])


def _check_at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise ValueError(f'{name} must be at least {least}, got {value}')


def _write_once(root: str | Path, arguments: dict, write: Callable[[Path], dict[str, int]]) -> dict[str, int]:
    """Fill `root` and write the stamp, or return the summary of an equal stamp.

    The files are made in a folder next to `root` that is then renamed, so that an interrupted run leaves nothing.
    """
    _check_at_least(32, size=arguments['size'])
    _check_at_least(0, seed=arguments['seed'])
    root = Path(root).resolve()
    settings = {name: value for name, value in vars(digit_pictures).items() if name.isupper()}
    # Through JSON, so that tuples compare equal to the lists read back.
    expected = json.loads(json.dumps(dict(arguments, **settings, sources=load_sources().sha256)))
    if root.exists() and not root.is_dir():
        raise ValueError(f'{root} must be a folder, got a file')
    if root.is_dir() and any(root.iterdir()):
        if not (root / STAMP).is_file():
            raise ValueError(f'{root} must be new, empty or filled by an earlier call, got files without {STAMP}')
        stamp = json.loads((root / STAMP).read_text())
        summary = stamp.pop('summary', {})
        differing = [key for key in sorted({*expected, *stamp}) if expected.get(key) != stamp.get(key)]
        if differing:
            wanted, got = ({key: values.get(key) for key in differing} for values in (expected, stamp))
            raise ValueError(f'{root} must have been made with {wanted}, got {got}; remove it to make it anew')
        return summary
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{root.name}-', dir=root.parent) as temporary:
        folder = Path(temporary) / root.name
        folder.mkdir()
        summary = write(folder)
        (folder / STAMP).write_text(json.dumps(dict(expected, summary=summary), indent=1) + '\n')
        os.replace(folder, root)
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=Path('data/digits'), help='folder to fill (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--size', type=int, default=96, help='side of the pictures in pixels (default: %(default)s)')
    args = parser.parse_args()
    try:
        for name, write in (('imagenet', write_classification), ('ade20k', write_segmentation)):
            counts = write(args.out / name, seed=args.seed, size=args.size)
            print(f'{args.out / name}: ' + ', '.join(f'{count} {key}' for key, count in counts.items()))
    except ValueError as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
