"""Checks of label maps: every picture against its image and the decode head, as LoadAnnotations would read it."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from beit_mm.datasets.transforms.loading import describe_kind, IGNORED, MODES, ORIENTATION

from .model_sizes import argument
from .parts import Part
from .problems import Problem
from .run_plan import RunPlan

MAX_THREADS = 16
TURNED = range(5, 9)  # values of EXIF's orientation that swap height and width


class Pair(NamedTuple):
    """Paths of an image and its label map."""

    image: Path
    labels: Path


def compare_zeros(part: Part, zeros: dict[bool, str]) -> Iterator[Problem]:
    """Whether label 0 is a class in one data set and left out in another."""
    value = bool(argument(part, 'reduce_zero_label'))
    if value not in zeros and zeros:
        yield Problem(
            f'{part.key}.reduce_zero_label',
            f'is {value} here and {not value} in {zeros[not value]}, so the '
            'same label means another class; set both alike',
        )
    zeros.setdefault(value, part.key)


def check_label_maps(plan: RunPlan, part: Part, pairs: Sequence[Pair], num_classes: int) -> Iterator[Problem]:
    """Every label map of a data set: its kind, its size and its labels; the first that is wrong is told."""
    reduces, label_map = bool(argument(part, 'reduce_zero_label')), _label_map(part)
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:  # PIL decodes outside of Python's lock
        found = list(pool.map(partial(read_labels, is_training=part.key.startswith('train')), pairs))
    highest = -1
    for pair, (labels, fault) in zip(pairs, found):
        if fault:
            yield Problem(part.key, f'{pair.labels} {fault}')
            return
        wrong = [label for label in labels if not _fits(label, reduces, label_map, num_classes)]
        if wrong:
            yield _outside(part, pair.labels, max(wrong), reduces, num_classes)._replace(is_error=plan.has_own_parts)
            return
        highest = max([highest, *(label for label in labels if label != IGNORED)])
    if reduces and highest == num_classes - 1 and not label_map:
        yield Problem(
            f'{part.key}.reduce_zero_label',
            f'label 0 is left out and {num_classes} never occurs in '
            f'{len(pairs)} label maps; set reduce_zero_label=False if 0 is a class',
            is_error=False,
        )


def _outside(part: Part, path: Path, label: int, reduces: bool, num_classes: int) -> Problem:
    first = 1 if reduces else 0
    mend = f'set num_classes={label + 1 - first} here and in auxiliary_head, or mend the file'
    if not reduces and label == num_classes:  # what data looks like whose 0 means unlabelled
        mend = f'set reduce_zero_label=True if 0 means unlabelled, or num_classes={num_classes + 1}'
    return Problem(
        'model.decode_head.num_classes',
        f'label {label} in {path} ({part.key}) lies outside of '
        f'{num_classes} classes, {first} to {num_classes - 1 + first} with reduce_zero_label={reduces}; '
        f'{mend}',
    )


def _fits(label: int, reduces: bool, label_map: dict | None, num_classes: int) -> bool:
    if reduces:
        label = IGNORED if label in (0, IGNORED) else label - 1
    if label_map:
        label = label_map.get(label, label)
    return label < num_classes or label == IGNORED


def _label_map(part: Part) -> dict | None:
    try:
        return part.cls.get_label_map((part.cfg.get('metainfo') or {}).get('classes'))
    except ValueError:  # told when the data set is built
        return None


def label_pairs(part: Part) -> list[Pair]:
    """Images and label maps of a data set whose pipeline reads pictures of labels."""
    prefix, root = part.cfg.get('data_prefix') or {}, Path(part.cfg.get('data_root') or '')
    folders = [
        root / (prefix.get(name) or '') if isinstance(prefix, dict) else root for name in ('img_path', 'seg_map_path')
    ]
    suffixes = [argument(part, name) for name in ('img_suffix', 'seg_map_suffix')]
    loaders = [step for step in part.cfg.get('pipeline') or () if isinstance(step, dict)]
    reads_pictures = any(str(step.get('type')).rpartition('.')[2] == 'LoadAnnotations' for step in loaders)
    if not reads_pictures or None in suffixes or folders[1] == root or not folders[1].is_dir():
        return []
    annotations = root / (part.cfg.get('ann_file') or '')
    if annotations.is_file():
        names = [line.strip() for line in annotations.read_text('utf-8', 'replace').split('\n')]
        names = [name for name in names if name and '\0' not in name]
    else:
        names = sorted(
            str(path.relative_to(folders[0]))[: -len(suffixes[0])]
            for path in folders[0].rglob(f'*{suffixes[0]}')
            if path.is_file()
        )
    return [Pair(*(folder / f'{name}{suffix}' for folder, suffix in zip(folders, suffixes))) for name in names]


def read_labels(pair: Pair, is_training: bool) -> tuple[Sequence[int], str]:
    """Labels in a map and what is wrong with it, empty if nothing."""
    try:
        with Image.open(pair.labels) as labels:
            if labels.mode not in MODES:
                return (), (
                    f'must be a PNG with one label per pixel in 8 bits, got {describe_kind(labels.mode)}; '
                    'write it as a gray or palette PNG'
                )
            size = _image_size(pair.image)
            if not (size or is_training):
                return (), f'belongs to the image {pair.image}, which cannot be read; write it anew or leave it out'
            if size and size != labels.size:
                return (), (
                    f'must have the size of its image {pair.image.name}, {size[1]} x {size[0]}, got '
                    f'{labels.size[1]} x {labels.size[0]}; write it at that size'
                )
            counts = labels.convert('L').histogram() if labels.mode == '1' else labels.histogram()
    except FileNotFoundError:
        return (), f'is missing for the image {pair.image}; put it there or leave the image out'
    except Exception as error:  # PIL's decoders have many kinds
        return (), f'cannot be read as a picture: {error}; write it anew'
    if labels.mode == '1':
        counts = [counts[0], counts[255]]
    return [label for label, count in enumerate(counts) if count], ''


def _image_size(path: Path) -> tuple[int, int] | None:
    """Width and height as it is shown; None if it cannot be told: training replaces such images."""
    try:
        with Image.open(path) as image:
            return image.size[::-1] if image.getexif().get(ORIENTATION) in TURNED else image.size
    except Exception:  # PIL's decoders have many kinds
        return None
