"""Pictures of real handwritten digits over photographs, made from files that scikit-learn carries."""

import colorsys
import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

# How hard the pictures are. A pair is the range of a uniform draw. The stamp holds every constant of this file, so that
# a folder made with other ones is not taken for a current one.
BACKGROUND_BRIGHTNESS = (0.2, 0.5)  # the photograph is multiplied by it
BACKGROUND_CROP = (100, 200)  # side of the crop in photograph pixels; smaller is smoother
DIGIT_SATURATION = (0.0, 0.4)
DIGIT_BRIGHTNESS = (0.85, 1.0)
DIGIT_OPACITY = (0.9, 1.0)
MIN_CONTRAST = 0.45  # digit luminance minus mean luminance behind it, in [0, 1]; photographs are dimmed until it holds
DIGIT_SHARE = (0.78, 0.92)  # longer side of the digit, as a share of the image side
MAX_SHIFT = 0.04  # of a lone digit's centre from the picture's, as a share of the image side
SCENE_DIGIT_SHARE = (0.5, 0.8)
SECOND_DIGIT_CHANCE = 0.6  # of a scene to hold two digits
MAX_OVERLAP = 0.05  # of the first digit's area, hidden by the second; the best of PLACEMENTS where none is below
PLACEMENTS = 20

STROKE_SHARPENING = 1.5  # share of (ink - mean of its 3 x 3 cells) added: keeps thin strokes closed and loops open
INK_EDGE = (0.3, 0.6)  # sharpened ink that becomes transparent and opaque; between them is the soft edge
BORDER = 1  # unlabelled pixels on either side of a digit's edge
FOLD = 5  # one digit of every FOLD of its class goes to validation
TRAIN_COLUMNS = 480  # of 640: what is right of it is the background of validation pictures


class Sources(NamedTuple):
    """Digits (1797, 8, 8) float32 in [0, 1], labels (1797,) int64, RGB photos (427 x 640), sha256 of them all."""

    digits: np.ndarray
    labels: np.ndarray
    photos: tuple[Image.Image, ...]
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


def render(
    rng: np.random.Generator,
    split: str,
    digits: Sequence[int],
    size: int,
    share: tuple[float, float],
    max_shift: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw digits over a random crop of a photograph.

    Args:
        rng: the only source of chance.
        split: 'train' or 'val', which decides the photographs' region.
        digits: indices into the sources; a later one is drawn over an earlier one.
        size: side of the picture in pixels.
        share: range of a digit's longer side, as a share of `size`.
        max_shift: how far a digit's centre may lie from the picture's on either axis, as a share of `size`.

    Returns:
        image (size, size, 3) uint8 RGB; labels (size, size) uint8: 0 unlabelled, 1 background, 2 to 11 digits 0 to 9.
    """
    sources = load_sources()
    image = _background(rng, sources.photos, split, size) * np.float32(rng.uniform(*BACKGROUND_BRIGHTNESS))
    colours = [_bright_colour(rng) for _ in digits]
    alphas: list[np.ndarray] = []
    for index in digits:
        opacity = _enlarge(sources.digits[index], size * rng.uniform(*share))
        alphas.append(_position(rng, opacity, size, alphas, max_shift))

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
    return values[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def _position(
    rng: np.random.Generator, opacity: np.ndarray, size: int, earlier: Sequence[np.ndarray], max_shift: float
) -> np.ndarray:
    """Put (h, w) opacity somewhere on a (size, size) canvas that hides little of the earlier canvases."""
    best, least = None, np.inf
    for _ in range(PLACEMENTS):
        slack = ((size - side) / 2 for side in opacity.shape)
        y, x = (round(free + min(free, max_shift * size) * rng.uniform(-1, 1)) for free in slack)
        canvas = np.zeros((size, size), dtype=np.float32)
        canvas[y : y + opacity.shape[0], x : x + opacity.shape[1]] = opacity
        overlap = max(((canvas * other).sum() / other.sum() for other in earlier), default=0)
        if overlap < least:
            best, least = canvas, overlap
        if least <= MAX_OVERLAP:
            break
    return best
