"""A data set of encoded images in a large store, with a few bytes of memory per image."""

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmpretrain.datasets import BaseDataset

from beit_mm.errors import UserError


class StoredImages(BaseDataset):
    """MMPretrain's BaseDataset without its dict of several hundred bytes per image.

    Works with the hosts' samplers, wrappers and pipelines; a pipeline starts with `beit_mm.LoadImage`. A subclass opens
    its store in `open_store` and reads a row of it in `read`. What it holds per image are tensors, which torch passes
    to spawned workers through shared memory.

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
    def open_store(self) -> tuple[int, np.ndarray | None]:
        """Open the store, once: its number of rows and, if `with_label`, their labels, int (rows,), -1 for none."""

    @abstractmethod
    def read(self, row: int) -> tuple[bytes, str]:
        """The encoded image of a row of the store, and a name that says where it lies.

        Raises:
            BadImage: If there is no image or only a part of it.
        """

    def load_data_list(self) -> range:
        """The rows of the store; subsets hold fewer, in any order."""
        num_rows, labels = self.open_store()
        if not num_rows:
            raise UserError(f'{type(self).__name__} must hold at least one image, got none')
        if labels is not None:
            self._check_labels(labels)
            self.labels = torch.from_numpy(labels.astype(np.int32))
        return range(num_rows)

    def get_data_info(self, idx: int) -> dict:
        """`img_bytes`, `img_path` (a name for messages, not always a file), `sample_idx` and, if wanted, `gt_label`."""
        self.full_init()
        row = int(self.data_list[idx])
        content, name = self.read(row)
        info = dict(img_bytes=content, img_path=name, sample_idx=idx % len(self))
        return dict(info, gt_label=int(self.labels[row])) if self.with_label else info

    def get_gt_labels(self) -> np.ndarray:
        """int32 (n,). Raises ValueError without labels."""
        self._require_labels()
        return self.labels.numpy()[np.asarray(self.data_list)]

    def get_cat_ids(self, idx: int) -> list[int]:
        """The label of a sample in a list. Raises ValueError without labels."""
        self._require_labels()
        return [int(self.labels[self.data_list[idx]])]

    def get_subset(self, indices: int | Sequence[int]) -> 'StoredImages':
        """See MMEngine's BaseDataset. The subset shares the store and takes 8 bytes per image."""
        self.full_init()
        subset = copy.copy(self)
        subset.data_list = self._get_unserialized_subset(indices)
        return subset

    def extra_repr(self) -> list[str]:
        return [f'With label: \t{self.with_label}']

    def _get_unserialized_subset(self, indices: int | Sequence[int]) -> Any:  # a range or int64 (n,)
        if isinstance(indices, int):
            return self.data_list[:indices] if indices >= 0 else self.data_list[indices:]
        return torch.from_numpy(np.asarray(self.data_list)[np.asarray(indices)])

    def _require_labels(self) -> None:
        if not self.with_label:
            raise ValueError(f'{type(self).__name__} has no labels: it was built with with_label=False')
        self.full_init()

    def _check_labels(self, labels: np.ndarray) -> None:
        num_classes = len(self.CLASSES) if self.CLASSES else None
        wrong = np.flatnonzero((labels < 0) | (labels >= (num_classes or np.inf)))
        if len(wrong):
            row = int(wrong[0])
            label = 'none' if labels[row] < 0 else labels[row]
            limit = f'0 to {num_classes - 1} to fit {num_classes} class names' if num_classes else '0 or more'
            raise UserError(
                f'{self.read(row)[1]}: the label must be {limit}, got {label} (as in {len(wrong)} of '
                f'{len(labels)} images); with_label=False reads images alone'
            )
