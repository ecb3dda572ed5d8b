"""The embedded demonstration data: real handwritten digits over photographs, made from files scikit-learn carries.

Two folders in the hosts' layouts: ImageNet's for pre-training and classification, ADE20K's for segmentation.
Training and validation share no digit and no photograph region.
"""
import colorsys
import hashlib
import json
import os
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import cv2
import numpy as np
from mmseg.datasets import ADE20KDataset
from PIL import Image

from ..registry import DATASETS

CLASSES = tuple(f'digit_{digit}' for digit in range(10))
SCENE_CLASSES = ('background', *(f'digit {digit}' for digit in range(10)))
STAMP = '.digits.json'

# How hard the pictures are. A pair is the range of a uniform draw. The stamp holds every constant of this file, so that
# a folder made with other ones is not taken for a current one.
BACKGROUND_BRIGHTNESS = (0.2, 0.55)  # the photograph is multiplied by it
BACKGROUND_CROP = (100, 200)  # side of the crop in photograph pixels; smaller is smoother
DIGIT_SATURATION = (0.0, 0.5)
DIGIT_BRIGHTNESS = (0.85, 1.0)
DIGIT_OPACITY = (0.85, 1.0)
MIN_CONTRAST = 0.4  # digit luminance minus mean luminance behind it, in [0, 1]; the photograph is dimmed until it holds
DIGIT_SHARE = (0.75, 0.9)  # longer side of the digit, as a share of the image side
MAX_SHIFT = 0.05  # of a lone digit's centre from the picture's, as a share of the image side
SCENE_DIGIT_SHARE = (0.5, 0.8)
SECOND_DIGIT_CHANCE = 0.6  # of a scene to hold two digits
MAX_OVERLAP = 0.05  # of the first digit's area, hidden by the second; the best of PLACEMENTS where none is below
PLACEMENTS = 20

STROKE_SHARPENING = 1.5  # share of (ink - mean of its 3 x 3 cells) added: keeps thin strokes closed and loops open
INK_EDGE = (0.3, 0.6)  # sharpened ink that becomes transparent and opaque; between them is the soft edge
BORDER = 1  # unlabelled pixels on either side of a digit's edge
TRAIN_COLUMNS = 480  # of 640: what is right of it is the background of validation pictures
FOLD = 5  # one digit of every FOLD of its class goes to validation


@DATASETS.register_module()
class DigitScenes(ADE20KDataset):
    """What ``write_segmentation`` writes, read as ADE20K is: ``.jpg``, ``.png``, label 0 unlabelled, 11 classes."""
    METAINFO = dict(
        classes=SCENE_CLASSES,
        palette=[[60, 60, 60]] + [[round(255 * part) for part in colorsys.hsv_to_rgb(digit / 10, 0.8, 1.0)]
                                  for digit in range(10)])


class Sources(NamedTuple):
    """Digits (1797, 8, 8) float32 in [0, 1], labels (1797,) int64, RGB photos (427 x 640), sha256 of them all."""
    digits: np.ndarray
    labels: np.ndarray
    photos: Tuple[Image.Image, ...]
    sha256: str


@lru_cache(maxsize=1)
def load_sources() -> Sources:
    """Load scikit-learn's digits and its two photographs."""
    from sklearn.datasets import load_digits, load_sample_image  # only needed where the data is made
    digits, labels = load_digits().images, load_digits().target
    photos = [load_sample_image(name) for name in ('china.jpg', 'flower.jpg')]
    content = hashlib.sha256()
    for array in (digits, labels, *photos):
        content.update(np.ascontiguousarray(array).tobytes())
    return Sources((digits / 16).astype(np.float32), labels, tuple(map(Image.fromarray, photos)), content.hexdigest())


def split_digits(labels: np.ndarray, limit: Optional[int] = None) -> Dict[str, List[List[int]]]:
    """Split the digits of every class, the third of every five to validation.

    Args:
        labels: (num_digits,) classes 0 to 9.
        limit: Use only the first so many digits of every class.

    Returns:
        'train' and 'val': for every class the indices into ``labels``, ascending.

    Raises:
        ValueError: If ``limit`` leaves nothing for validation.
    """
    first = FOLD // 2
    if limit is not None and limit <= first:
        raise ValueError(f'limit must be at least {first + 1} digits per class, one for validation, got {limit}')
    classes = [np.flatnonzero(labels == digit)[:limit].tolist() for digit in range(10)]
    return dict(
        train=[[index for place, index in enumerate(own) if place % FOLD != first] for own in classes],
        val=[own[first::FOLD] for own in classes])


def render(rng: np.random.Generator, split: str, digits: Sequence[int], size: int,
           share: Tuple[float, float], max_shift: float = 1.0) -> Tuple[np.ndarray, np.ndarray]:
    """Draw digits over a random crop of a photograph.

    Args:
        rng: The only source of chance.
        split: 'train' or 'val', which decides the photographs' region.
        digits: Indices into the sources; a later one is drawn over an earlier one.
        size: Side of the picture in pixels.
        share: Range of a digit's longer side, as a share of ``size``.
        max_shift: How far a digit's centre may lie from the picture's on either axis, as a share of ``size``.

    Returns:
        image (size, size, 3) uint8 RGB; labels (size, size) uint8: 0 unlabelled, 1 background, 2 to 11 digits 0 to 9.
    """
    sources = load_sources()
    image = _background(rng, sources.photos, split, size) * np.float32(rng.uniform(*BACKGROUND_BRIGHTNESS))
    colours = [_bright_colour(rng) for _ in digits]
    alphas: List[np.ndarray] = []
    for index in digits:
        alphas.append(_place(rng, _enlarge(sources.digits[index], size * rng.uniform(*share)), size, alphas,
                             max_shift))

    behind = [np.average(_luminance(image), weights=alpha) for alpha in alphas]
    dim = min((_luminance(colour) - MIN_CONTRAST) / max(level, 1e-6) for colour, level in zip(colours, behind))
    image = image * np.float32(np.clip(dim, 0, 1))

    labels = np.ones((size, size), dtype=np.uint8)
    kernel = np.ones((2 * BORDER + 1, 2 * BORDER + 1), dtype=np.uint8)
    for index, alpha, colour in zip(digits, alphas, colours):
        opacity = alpha[..., None] * np.float32(rng.uniform(*DIGIT_OPACITY))
        image = image + opacity * (colour - image)
        inside = (alpha >= 0.5).astype(np.uint8)
        labels[cv2.dilate(inside, kernel) > 0] = 0
        labels[cv2.erode(inside, kernel) > 0] = 2 + sources.labels[index]
    return np.rint(image * 255).astype(np.uint8), labels


def _background(rng: np.random.Generator, photos: Sequence[Image.Image], split: str, size: int) -> np.ndarray:
    """(size, size, 3) float32 in [0, 1]."""
    photo = photos[rng.integers(len(photos))]
    left, right = (0, TRAIN_COLUMNS) if split == 'train' else (TRAIN_COLUMNS, photo.width)
    side = int(rng.integers(BACKGROUND_CROP[0], min(BACKGROUND_CROP[1], right - left, photo.height) + 1))
    x, y = (int(rng.integers(start, end - side + 1)) for start, end in ((left, right), (0, photo.height)))
    # Crop before resizing: the resampling filter must not reach into the other split's region.
    crop = photo.crop((x, y, x + side, y + side)).resize((size, size), Image.BICUBIC)
    pixels = np.asarray(crop, dtype=np.float32) / 255
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels


def _luminance(rgb: np.ndarray) -> np.ndarray:
    """(..., 3) RGB to (...) luminance (ITU-R BT.601), both in [0, 1]."""
    return 0.299 * rgb[..., 0] + 0.587 * rgb[..., 1] + 0.114 * rgb[..., 2]


def _bright_colour(rng: np.random.Generator) -> np.ndarray:
    """(3,) float32 RGB in [0, 1]."""
    hsv = rng.random(), rng.uniform(*DIGIT_SATURATION), rng.uniform(*DIGIT_BRIGHTNESS)
    return np.array(colorsys.hsv_to_rgb(*hsv), dtype=np.float32)


def _enlarge(ink: np.ndarray, longer_side: float) -> np.ndarray:
    """Enlarge (8, 8) ink in [0, 1] smoothly to an opacity (h, w) float32 in [0, 1] without empty margins."""
    # One empty cell around the ink lets the stroke's edge fade instead of being cut.
    ink = np.pad(_trim(ink), 1)
    ink = ink + np.float32(STROKE_SHARPENING) * (ink - cv2.blur(ink, (3, 3), borderType=cv2.BORDER_CONSTANT))
    scale = longer_side / (max(ink.shape) - 2)
    height, width = (round(side * scale) for side in ink.shape)
    large = np.asarray(Image.fromarray(ink).resize((width, height), Image.BICUBIC))
    return _trim(np.clip((large - INK_EDGE[0]) / (INK_EDGE[1] - INK_EDGE[0]), 0, 1))


def _trim(values: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(values)
    return values[rows.min():rows.max() + 1, columns.min():columns.max() + 1]


def _place(rng: np.random.Generator, opacity: np.ndarray, size: int, earlier: Sequence[np.ndarray],
           max_shift: float) -> np.ndarray:
    """Put (h, w) opacity at a random place of a (size, size) canvas that hides little of the earlier canvases."""
    best, least = None, np.inf
    for _ in range(PLACEMENTS):
        slack = ((size - side) / 2 for side in opacity.shape)
        y, x = (round(free + min(free, max_shift * size) * rng.uniform(-1, 1)) for free in slack)
        canvas = np.zeros((size, size), dtype=np.float32)
        canvas[y:y + opacity.shape[0], x:x + opacity.shape[1]] = opacity
        overlap = max(((canvas * other).sum() / other.sum() for other in earlier), default=0)
        if overlap < least:
            best, least = canvas, overlap
        if least <= MAX_OVERLAP:
            break
    return best


def write_classification(root: Union[str, Path], seed: int = 0, size: int = 96, renders: int = 2,
                         limit: Optional[int] = None) -> Dict[str, int]:
    """Write one digit per picture in ImageNet's layout, for ``mmpretrain.datasets.ImageNet``.

    ``train/digit_3/00012_0.jpg`` is render 0 of digit 12 of scikit-learn's set. ``meta/train.txt`` and ``meta/val.txt``
    list all files with their class, ``meta/train_10.txt`` the first ten training digits of every class.

    Args:
        root: A new or empty folder, or one this function has filled with the same arguments, which is left as it is.
        seed: Not negative; the same seed gives the same bytes with one version of Pillow.
        size: Side of the pictures in pixels, at least 32.
        renders: Pictures per training digit, differing in background, colour and place; a validation digit has one.
        limit: Use only the first so many digits of every class (for tests).

    Returns:
        Counts: 'train' and 'val' pictures, 'train_10' lines, 'classes'.

    Raises:
        ValueError: If ``root`` holds anything else, or an argument is out of range.
    """
    _check_at_least(1, renders=renders)

    def write(folder: Path) -> Dict[str, int]:
        lists: Dict[str, List[str]] = dict(train=[], val=[], train_10=[])
        for split, pools in split_digits(load_sources().labels, limit).items():
            for label, pool in enumerate(pools):
                (folder / split / CLASSES[label]).mkdir(parents=True)
                for place, index in enumerate(pool):
                    for copy in range(renders if split == 'train' else 1):
                        name = f'{CLASSES[label]}/{index:05d}_{copy}.jpg'
                        image, _ = render(_generator(seed, 0, split, index, copy), split, [index], size, DIGIT_SHARE,
                                          MAX_SHIFT)
                        _save_jpeg(image, folder / split / name)
                        lists[split].append(f'{name} {label}\n')
                        if split == 'train' and place < 10 and copy == 0:
                            lists['train_10'].append(f'{name} {label}\n')
        (folder / 'meta').mkdir()
        for name, lines in lists.items():
            (folder / 'meta' / f'{name}.txt').write_text(''.join(sorted(lines)))
        return dict({name: len(lines) for name, lines in lists.items()}, classes=len(CLASSES))

    return _write_once(root, dict(kind='classification', seed=seed, size=size, renders=renders, limit=limit), write)


def write_segmentation(root: Union[str, Path], seed: int = 0, size: int = 96, num_train: int = 1200, num_val: int = 200,
                       limit: Optional[int] = None) -> Dict[str, int]:
    """Write scenes of one or two digits in ADE20K's layout, for ``DigitScenes``.

    ``annotations/training/00012.png`` labels ``images/training/00012.jpg``: 0 unlabelled (a thin border around digits),
    1 background, 2 to 11 the digits 0 to 9. Scene i holds a digit i % 10, so that classes are about equally frequent.

    Args:
        root, seed, size, limit: As in ``write_classification``.
        num_train, num_val: Scenes in training and validation.

    Returns:
        Counts: 'training' and 'validation' scenes, 'classes'.

    Raises:
        ValueError: If ``root`` holds anything else, or an argument is out of range.
    """
    _check_at_least(1, num_train=num_train, num_val=num_val)

    def write(folder: Path) -> Dict[str, int]:
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


def _write_once(root: Union[str, Path], arguments: dict, write: Callable[[Path], Dict[str, int]]) -> Dict[str, int]:
    """Fill ``root`` and stamp it, or return the summary of an equal stamp.

    The files are made beside ``root`` and moved there whole, so that an interrupted run leaves no half-filled folder.
    """
    _check_at_least(32, size=arguments['size'])
    _check_at_least(0, seed=arguments['seed'])
    root = Path(root).resolve()
    constants = {name: value for name, value in globals().items()
                 if name.isupper() and isinstance(value, (int, float, tuple))}
    # Through JSON, so that tuples compare equal to the lists read back.
    recipe = json.loads(json.dumps(dict(arguments, **constants, sources=load_sources().sha256)))
    if root.exists() and not root.is_dir():
        raise ValueError(f'{root} must be a folder, got a file')
    if root.is_dir() and any(root.iterdir()):
        if not (root / STAMP).is_file():
            raise ValueError(f'{root} must be new, empty or filled by an earlier call, got files without {STAMP}')
        stamp = json.loads((root / STAMP).read_text())
        summary = stamp.pop('summary', {})
        if stamp != recipe:
            differing = [key for key in sorted({*recipe, *stamp}) if recipe.get(key) != stamp.get(key)]
            expected, found = ({key: one.get(key) for key in differing} for one in (recipe, stamp))
            raise ValueError(f'{root} must have been made with {expected}, got {found}; remove it to make it anew')
        return summary

    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{root.name}-', dir=root.parent) as beside:
        folder = Path(beside) / root.name
        folder.mkdir()
        summary = write(folder)
        (folder / STAMP).write_text(json.dumps(dict(recipe, summary=summary), indent=1) + '\n')
        os.replace(folder, root)
    return summary
