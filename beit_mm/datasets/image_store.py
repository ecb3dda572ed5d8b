"""Data sets of encoded images in a large store, with a few bytes of memory per image.

MMEngine's own data sets keep a dict of several hundred bytes per sample.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmpretrain.datasets import BaseDataset

from beit_mm.errors import UserError


class ImageStore(ABC):
    """Rows of encoded images that can be read in any order; it replaces the list of dicts of MMEngine's data sets.

    Labels and rows are tensors because torch passes those to spawned workers through shared memory.

    Args:
        num_rows: number of images in the store.
        labels: int (num_rows,), or None without labels.
    """

    def __init__(self, num_rows: int, labels: np.ndarray | None = None):
        self._num_rows = num_rows
        self._labels = None if labels is None else torch.from_numpy(np.array(labels, dtype=np.int32))
        self._rows: torch.Tensor | None = None  # the selected rows; None for all, in the store's order

    @abstractmethod
    def read(self, row: int) -> tuple[bytes, str]:
        """The encoded image of a row of the store, and a name that says where it lies.

        Raises:
            BadImage: If the bytes are incomplete; names the file.
        """

    @property
    def labels(self) -> np.ndarray | None:
        """int32, one for each selected image; None without labels."""
        if self._labels is None:
            return None
        return (self._labels if self._rows is None else self._labels[self._rows]).numpy()

    def select(self, positions: np.ndarray) -> 'ImageStore':
        """A store of the images at some positions, int (n,). It shares the rest and takes 8 bytes per image."""
        selected = copy.copy(self)
        rows = torch.from_numpy(np.asarray(positions, dtype=np.int64))
        selected._rows = rows if self._rows is None else self._rows[rows]
        return selected

    def copy(self) -> 'ImageStore':
        """A shallow copy; MMEngine calls it."""
        return copy.copy(self)

    def __len__(self) -> int:
        return self._num_rows if self._rows is None else len(self._rows)

    def __getitem__(self, position: int) -> dict:
        """`img_bytes`, `img_path` (a name for messages, not always a file) and, with labels, `gt_label`."""
        content, name = self.read(self._row(position))
        info: dict = dict(img_bytes=content, img_path=name)
        if self._labels is not None:
            info['gt_label'] = self.label(position)
        return info

    def label(self, position: int) -> int:
        assert self._labels is not None
        return int(self._labels[self._row(position)])

    def _row(self, position: int) -> int:
        row = range(len(self))[position]
        return row if self._rows is None else int(self._rows[row])


class StoredImages(BaseDataset):
    """MMPretrain's BaseDataset over an ImageStore: works with its samplers, wrappers and pipelines.

    A pipeline starts with `beit_mm.LoadImage`. A subclass opens its store in `_open_store`.

    Args:
        with_label: whether samples have a `gt_label`; False for pre-training.
        **kwargs: `metainfo`, `classes`, `pipeline`, `test_mode`, `indices`, `lazy_init`, ..., see MMPretrain's
            BaseDataset.

    Raises:
        UserError: If the store is empty, or a label is negative or beyond the class names; names the image.
    """

    def __init__(self, with_label: bool = True, **kwargs):
        self.with_label = with_label
        super().__init__(ann_file='', serialize_data=False, **kwargs)

    @abstractmethod
    def _open_store(self) -> ImageStore:
        """All images; called once, when the data set is first used."""

    def load_data_list(self) -> ImageStore:
        store = self._open_store()
        if not len(store):
            raise UserError(f'{type(self).__name__} must hold at least one image, got none')
        if self.with_label:
            self._check_labels(store, store.labels)
        return store

    def get_gt_labels(self) -> np.ndarray | None:
        """int32 (n,). Raises ValueError without labels."""
        return self._labelled_store().labels

    def get_cat_ids(self, idx: int) -> list[int]:
        """The label of a sample in a list. Raises ValueError without labels."""
        return [self._labelled_store().label(idx)]

    def _labelled_store(self) -> ImageStore:
        if not self.with_label:
            raise ValueError(f'{type(self).__name__} has no labels: it was built with with_label=False')
        self.full_init()
        return self.data_list

    def extra_repr(self) -> list[str]:
        return [f'With label: \t{self.with_label}']

    def _check_labels(self, store: ImageStore, labels: Any) -> None:
        num_classes = len(self.CLASSES) if self.CLASSES is not None else None
        last = labels.max() if num_classes is None else num_classes - 1
        wrong = np.flatnonzero((labels < 0) | (labels > last))
        if len(wrong):
            row = int(wrong[0])
            label = 'none' if labels[row] < 0 else labels[row]
            limit = '0 or more' if num_classes is None else f'0 to {last} to fit {num_classes} class names'
            raise UserError(
                f'{store.read(row)[1]}: the label must be {limit}, got {label} (as in {len(wrong)} of '
                f'{len(labels)} images); with_label=False reads images alone'
            )

    def _get_unserialized_subset(self, indices: int | Sequence[int]) -> ImageStore:
        positions = np.arange(len(self.data_list))
        if isinstance(indices, int):
            positions = positions[:indices] if indices >= 0 else positions[indices:]
        else:
            positions = positions[np.asarray(indices, dtype=np.int64)]
        return self.data_list.select(positions)
