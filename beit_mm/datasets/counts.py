"""What a data set holds, in a line: images, how many of each class, and what is left out."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from mmpretrain.datasets import BaseDataset as ClassificationDataset
from mmpretrain.datasets import CustomDataset
from mmseg.datasets import BaseSegDataset

from beit_mm.errors import UserError
from beit_mm.text import show

from .listing import check_lines, LeftOut, list_files
from .stored_images import StoredImages
from .transforms.decoding import read_labels
from .transforms.loading import map_labels

MAX_LABEL_MAPS = 100  # that are looked at, from the whole length of a data set
MAX_LISTED = 2_000_000  # images of a host's data set, up to which classes are counted and folders listed once more
MAX_NAMED = 20  # classes in a line


def describe(dataset: Any) -> str:
    """Images of a data set, or of those in a wrapper, how many of each class, and files that are left out.

    Images with a class are counted in the labels, for segmentation in MAX_LABEL_MAPS label maps.

    Raises:
        UserError: If a line of an annotation file does not fit, see check_lines.
    """
    return '; '.join(map(_describe, _leaves(dataset)))


def _leaves(dataset: Any) -> Iterator[Any]:
    """The data sets inside of all wrappers."""
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    if inner[0] is None:
        yield dataset
    for part in inner if inner[0] is not None else ():
        yield from _leaves(part)


def _describe(dataset: Any) -> str:
    text = f'{len(dataset):,} images'
    if folder := _image_folder(dataset):
        text += f' in {show(folder.rstrip("/"))}'
    counts, source = _count_classes(dataset)
    names = [show(name) for name in (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()]
    if names and source:
        numbers = [counts[label] for label in range(len(names))]
        if len(names) <= MAX_NAMED:
            text += f' ({source}{", ".join(f"{name} {number:,}" for name, number in zip(names, numbers))})'
        else:
            text += f' ({source}{len(names):,} classes, {min(numbers):,} to {max(numbers):,} each)'
        missing = [name for name, number in zip(names, numbers) if not number]
        if missing:
            others = f' and {len(missing) - MAX_NAMED:,} more' if len(missing) > MAX_NAMED else ''
            text += f', none of {", ".join(missing[:MAX_NAMED])}{others}'
    left_out = _left_out(dataset)
    return f'{text}; left out: {show(left_out)}' if left_out else text


def _image_folder(dataset: Any) -> str:
    if isinstance(dataset, StoredImages):
        return ''
    prefix = getattr(dataset, 'data_prefix', None)
    return (prefix.get('img_path') if isinstance(prefix, dict) else prefix) or getattr(dataset, 'data_root', None) or ''


def _count_classes(dataset: Any) -> tuple[Counter, str]:
    """Images by label, and the words before them; '' if there are no labels, or too many to read them one by one."""
    counts: Counter = Counter()
    if isinstance(dataset, BaseSegDataset):
        indices = range(0, len(dataset), -(-len(dataset) // MAX_LABEL_MAPS) or 1)
        for info in map(dataset.get_data_info, indices):
            if 'seg_map_path' not in info:
                return counts, ''
            try:
                labels = read_labels(info['seg_map_path'])
            except UserError:  # the training names it when it reads it
                continue
            options = bool(info.get('reduce_zero_label')), info.get('label_map'), dataset.ignore_index
            counts.update(np.unique(map_labels(labels, *options)).tolist())
        return counts, f'in {len(indices):,} label maps ' if len(indices) < len(dataset) else 'label maps: '
    is_labelled = isinstance(dataset, ClassificationDataset) and getattr(dataset, 'with_label', True)
    if not is_labelled or len(dataset) > MAX_LISTED and not isinstance(dataset, StoredImages):
        return counts, ''
    if isinstance(dataset, StoredImages):
        counts.update(dataset.get_gt_labels().tolist())
        return counts, 'labels: '
    for index in range(len(dataset)):
        counts.update(np.atleast_1d(dataset.get_cat_ids(index)).tolist())
    return counts, 'labels: '


def _left_out(dataset: Any) -> LeftOut | None:
    """What our data sets have noted; of the hosts' folders, what they pass over without a word."""
    if isinstance(dataset, (CustomDataset, BaseSegDataset)):
        check_lines(dataset)
        folder = _image_folder(dataset)
        if not hasattr(dataset, 'left_out') and not dataset.ann_file and folder and len(dataset) <= MAX_LISTED:
            left_out = LeftOut()
            is_custom = isinstance(dataset, CustomDataset)
            list_files(folder, dataset.extensions if is_custom else [dataset.img_suffix], left_out)
            return left_out
    return getattr(dataset, 'left_out', None)
