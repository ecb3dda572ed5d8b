"""What a folder of images holds, as far as a pre-training must know: files, sizes, bands, depth, colours."""

import math
import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import cv2
import numpy as np

from beit_mm.datasets.bad_images import BadImage
from beit_mm.datasets.listing import IMAGE_SUFFIXES, LeftOut, list_files, name_suffixes
from beit_mm.datasets.transforms.decoding import MAX_BYTES
from beit_mm.datasets.transforms.loading import LoadAsStored, LoadImage
from beit_mm.errors import UserError
from beit_mm.text import show

MIN_IMAGES = 8  # different ones; fewer are a mistake of the path
SAMPLE = 400  # images that are decoded
MAX_BAD_SHARE = 0.5  # of the sample
MAX_DIFFERENT = 2  # places of 56 in which patterns of images that look alike differ
GRID = 32  # pixels of an image that count for the mean colours, on either axis
ARRAYS = ('.npy',)
OTHER = 0  # bits of numbers that are not of 8 or 16 bits, such as float32


@dataclass
class Folder:
    """A folder of images.

    Attributes:
        path: as the user wrote it.
        num_images: files with a suffix of images.
        formats: their suffixes with the numbers of files, in words.
        extensions: suffixes that are not those of pictures, None for pictures.
        left_out: other files, in words.
        num_equal: files with the content of another one, and of how many this is known.
        num_alike: images of the sample that look like another one of it.
        num_seen: images of the sample, with those in `bad`: names and reasons.
        sizes: smallest, median and largest (height, width) of the sample, in pixels.
        bands, bits: 1, 3, 4, ... bands of 8 or 16 bits, as they are loaded.
        color_type, value_range: of LoadImage, with which they are loaded.
        is_mixed: whether files of several bands or bits are read as pictures of 8 bits.
        mean, std: of the pixels, a number per band, three bands in RGB.
    """

    path: str
    num_images: int
    formats: str = ''
    extensions: list[str] | None = None
    left_out: str = ''
    num_equal: tuple[int, int] = (0, 0)
    num_alike: int = 0
    num_seen: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    bands: int = 3
    bits: int = 8
    color_type: str = 'color'
    value_range: tuple[float, float] | None = None
    is_mixed: bool = False
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)

    @property
    def side(self) -> float:
        """The shorter side of the median size, in pixels."""
        return min(self.sizes[1])

    def describe(self) -> dict[str, str]:
        """What there is, by names."""
        low, median, high = (f'{width} x {height}' for height, width in self.sizes)
        kind = f'{self.bits} bits' + ('; files of several kinds are read as these' if self.is_mixed else '')
        if self.value_range:
            kind = 'numbers from {:.5g} to {:.5g}, as 16 bits; those beyond are cut off'.format(*self.value_range)
        colors = ', '.join(f'{mean:.0f} ({std:.0f})' for mean, std in zip(self.mean[:4], self.std))
        lines = dict(
            images=f'{self.num_images:,} ({self.formats})' + (f'; left out: {self.left_out}' if self.left_out else ''),
            sizes=median if low == high else f'{median} in the median, {low} to {high}',
            bands=f'{self.bands} of {kind}',
            mean=f'{colors}{", ..." if self.bands > 4 else ""} of {self.num_seen} images, (standard deviation)',
        )
        equal, compared = self.num_equal
        if equal:
            lines['equal'] = f'{equal:,} of {compared:,} files have the content of another one'
        if self.num_alike:
            lines['alike'] = f'{self.num_alike} of {self.num_seen} images look like another one, or nearly'
        if self.bad:
            name, reason = next(iter(self.bad.items()))
            lines['unreadable'] = f'{len(self.bad)} of {self.num_seen}, such as {name}: {reason}'
        return {name: show(text) for name, text in lines.items()}


def look_at(path: str, seconds: float) -> Folder:
    """Look at a folder of images: list it, decode a sample, compare files of equal length.

    Args:
        path: the folder.
        seconds: that the sample and the comparison may take each.

    Raises:
        UserError: If it has too few images, or they are unreadable or of bands that do not go together.
    """
    left_out, extensions = LeftOut(), None
    names = list_files(path, IMAGE_SUFFIXES, left_out)
    if not names and left_out['.npy']:
        left_out, extensions = LeftOut(), list(ARRAYS)
        names = list_files(path, ARRAYS, left_out)
    if not names:
        mend = f'; left out: {show(left_out)}' if left_out else ''
        raise UserError(f'{path} must hold images ({name_suffixes(IMAGE_SUFFIXES)}, or .npy), got none{mend}')
    num_equal = count_equal(path, names, seconds)
    num_different = len(names) - num_equal[0]
    if num_different < MIN_IMAGES:
        what = f'{len(names)}' + (f', {num_equal[0]} of them copies' if num_equal[0] else '')
        raise UserError(f'pre-training needs at least {MIN_IMAGES} different images, got {what} in {path}')
    suffixes = Counter(os.path.splitext(name)[1].lower() for name in names)
    formats = ', '.join(
        f'{count:,} {suffix}' if len(suffixes) > 1 else suffix for suffix, count in suffixes.most_common()
    )
    folder = Folder(path, len(names), formats, extensions, str(left_out), num_equal)
    _sample(folder, names, seconds)
    return folder


def count_equal(path: str, names: Sequence[str], seconds: float) -> tuple[int, int]:
    """Files with the content of another file, and how many files were compared until the time was over."""
    end = time.monotonic() + seconds
    by_length = defaultdict(list)
    num_compared = 0
    for name in names:
        if time.monotonic() > end:
            break
        try:
            by_length[os.path.getsize(os.path.join(path, name))].append(name)
        except OSError:  # the sample or the training names it
            continue
        num_compared += 1
    num_equal = 0
    for length, alike in by_length.items():
        digests = set()
        for name in alike if len(alike) > 1 and length <= MAX_BYTES else ():
            if time.monotonic() > end:
                num_compared -= 1
                continue
            try:
                digest = blake2b(Path(path, name).read_bytes()).digest()
            except OSError:
                continue
            num_equal += digest in digests
            digests.add(digest)
    return num_equal, num_compared


def _sample(folder: Folder, names: Sequence[str], seconds: float) -> None:
    """Decode images that are drawn at random, the same ones each time, until the time is over."""
    load, end = LoadAsStored(), time.monotonic() + seconds
    shapes, pixels, patterns, kinds = [], [], [], {}
    for name in random.Random(0).sample(names, min(SAMPLE, len(names))):
        if folder.num_seen >= MIN_IMAGES and time.monotonic() > end:
            break
        folder.num_seen += 1
        try:
            image = load(dict(img_path=os.path.join(folder.path, name)))['img']
        except BadImage as bad:
            folder.bad[name] = bad.reason
            continue
        height, width = image.shape[:2]
        shapes.append((height, width))
        rows, columns = (np.linspace(0, side - 1, min(GRID, side)).astype(int) for side in (height, width))
        pixels.append(image[rows][:, columns].reshape(len(rows) * len(columns), -1))
        patterns.append(_pattern(image))
        bits = 8 * image.dtype.itemsize if image.dtype in (np.uint8, np.uint16) else OTHER
        kinds.setdefault((pixels[-1].shape[1], bits), name)
    if len(folder.bad) > MAX_BAD_SHARE * folder.num_seen:
        name, reason = next(iter(folder.bad.items()))
        what = f'{len(folder.bad)} of {folder.num_seen} images in {folder.path} cannot be read'
        raise UserError(f'{what}, such as {name}: {reason}; mend or remove them')
    folder.num_alike = _count_alike(np.stack(patterns))
    by_area = sorted(shapes, key=lambda shape: shape[0] * shape[1])
    folder.sizes = [by_area[0], by_area[len(by_area) // 2], by_area[-1]]
    _choose_bands(folder, kinds, pixels)


@np.errstate(over='ignore', invalid='ignore')  # of infinite numbers
def _pattern(image: np.ndarray) -> np.ndarray:
    """Where an image becomes brighter from left to right, on a coarse grid: bool (56,). Copies of other sizes, formats
    and brightness have nearly the same one.
    """
    gray = image.reshape(*image.shape[:2], -1).mean(axis=2, dtype=np.float32)
    return np.diff(cv2.resize(gray, (8, 8), interpolation=cv2.INTER_AREA), axis=1).ravel() > 0


def _count_alike(patterns: np.ndarray) -> int:
    """Rows (N, 56) that differ from an earlier one in few places."""
    signs = np.where(patterns, 1, -1)
    num_different = (signs.shape[1] - signs @ signs.T) // 2
    return int((np.tril(num_different <= MAX_DIFFERENT, -1)).any(axis=1).sum())


def _choose_bands(folder: Folder, kinds: dict[tuple[int, int], str], pixels: list[np.ndarray]) -> None:
    """How the images are loaded, and the mean and standard deviation of what comes.

    Args:
        folder: gets them.
        kinds: bands and bits that occur, each with an image.
        pixels: of each image, (N, bands).
    """
    (bands, bits), *others = kinds
    is_picture = all(number in (1, 3, 4) and depth != OTHER for number, depth in kinds) and _are_pictures(
        os.path.join(folder.path, name) for name in kinds.values()
    )
    if others and not is_picture:
        texts = [f'{number} of {depth or "other"} bits ({name})' for (number, depth), name in kinds.items()]
        raise UserError(
            f'all images in {folder.path} must have the same bands, got {", ".join(texts)}; sort them into folders'
        )
    is_opaque = (bands, bits) == (4, 8) and all((image[:, 3] == 255).all() for image in pixels if image.shape[1] == 4)
    folder.is_mixed = bool(others)
    if bits == OTHER:
        folder.value_range = _find_range(folder.path, pixels)
        load = LoadImage(color_type='unchanged', value_range=folder.value_range)
        folder.color_type, bits, pixels = 'unchanged', 16, [load.fit_values(image) for image in pixels]
    elif {number for number, _ in kinds} == {1} and (others or bits == 8):
        folder.color_type, bits = 'grayscale', 8
        pixels = [_to_eight_bits(image) for image in pixels]
    elif others or is_opaque and is_picture or (bands, bits) == (3, 8):  # as LoadImage gives them for 'color'
        pixels = [_to_picture(_to_eight_bits(image)) for image in pixels]
        bands, bits = 3, 8
    else:
        folder.color_type = 'unchanged'
    folder.bands, folder.bits = bands, bits
    values = np.concatenate(pixels).astype(np.float64)
    if bands == 3:
        values = values[:, ::-1]  # BGR
    highest = 2.0**bits - 1
    folder.mean = [round(float(number), 3) for number in values.mean(axis=0)]
    # Of a band that never changes there is nothing to scale.
    folder.std = [round(float(number), 3) if number > highest / 1e5 else highest for number in values.std(axis=0)]


def _are_pictures(files: Iterable[str]) -> bool:
    """Whether LoadImage gives three bands of files of 1, 3 or 4; four of an .npy or TIFF file may be no colours."""
    try:
        for file in files:
            LoadImage()(dict(img_path=file))
    except BadImage:
        return False
    return True


def _find_range(path: str, pixels: list[np.ndarray]) -> tuple[float, float]:
    """Between which values nearly all pixels are; a few may mean that there is no measurement."""
    values = np.concatenate(pixels).astype(np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        raise UserError(f'images in {path} must have finite numbers, got none')
    low, high = (float(f'{number:.6g}') for number in np.percentile(values, (0.1, 99.9)))
    if not 0 < high - low < math.inf:
        raise UserError(f'pixels of images in {path} must differ, by a finite number, got {low:.5g} to {high:.5g}')
    return low, high


def _to_eight_bits(pixels: np.ndarray) -> np.ndarray:
    return (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels


def _to_picture(pixels: np.ndarray) -> np.ndarray:
    """Pixels (N, bands) of 1, 3 or 4 bands as (N, 3)."""
    return np.repeat(pixels, 3, axis=1) if pixels.shape[1] == 1 else pixels[:, :3]
