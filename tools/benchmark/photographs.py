"""Photographs of the data sets' sizes, made from two that scikit-learn carries, with label maps if wanted."""

from pathlib import Path

import numpy as np
from PIL import Image

NUM_REGIONS = 20
NUM_LABELS = 151  # ADE20K's classes, and 0 for what has none
COARSENESS = 4  # pixels per step of a region's edge


def write_photographs(folder: Path, count: int = 16, size: tuple[int, int] = (500, 375)) -> list[Path]:
    """JPEG files of (width, height), by default ImageNet's, about 50 KB each."""
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    paths = []
    for index in range(count):
        shift = 4 * index
        picture = photographs[index % 2].crop((shift, 0, shift + 567, 425)).resize(size, Image.BICUBIC)
        paths.append(folder / f'{index}.jpg')
        picture.save(paths[-1], quality=90)
    return paths


def write_scenes(folder: Path, count: int = 16, size: tuple[int, int] = (683, 512)) -> list[Path]:
    """Photographs, each with a PNG of the same name: large regions of 150 classes and of none, as ADE20K's."""
    paths = write_photographs(folder, count, size)
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[: size[1] : COARSENESS, : size[0] : COARSENESS]
    for path in paths:
        middles = rng.uniform((0, 0), size[::-1], (NUM_REGIONS, 2))
        distances = (rows[..., None] - middles[:, 0]) ** 2 + (columns[..., None] - middles[:, 1]) ** 2
        labels = rng.integers(0, NUM_LABELS, NUM_REGIONS)[distances.argmin(axis=-1)].astype(np.uint8)
        Image.fromarray(labels).resize(size, Image.NEAREST).save(path.with_suffix('.png'))
    return paths
