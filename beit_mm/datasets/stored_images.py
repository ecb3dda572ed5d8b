"""Encoded images in a large store, with a few bytes of memory per image; and Hugging Face `datasets` as a store."""

import copy
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmpretrain.datasets import BaseDataset

from beit_mm.errors import UserError
from beit_mm.registry import DATASETS

from .bad_images import BadImage, is_bad_file


class StoredImages(BaseDataset):
    """MMPretrain's BaseDataset without its dict of several hundred bytes per image.

    Works with the hosts' samplers, wrappers and pipelines; a pipeline starts with `beit_mm.LoadImage`. What it holds
    per image are tensors, which torch passes to spawned workers through shared memory.

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
        """The encoded image of a row, and a name that says where it lies. BadImage if there is none or only a part."""

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

    def get_gt_labels(self, indices: int | slice = slice(None)) -> np.ndarray:
        """int32 (n,), or the label of one sample. Raises ValueError without labels."""
        if not self.with_label:
            raise UserError(f'{type(self).__name__} has no labels: it was built with with_label=False')
        self.full_init()
        return self.labels.numpy()[np.asarray(self.data_list[indices])]

    def get_cat_ids(self, idx: int) -> list[int]:
        """The label of a sample in a list. Raises ValueError without labels."""
        return [int(self.get_gt_labels(idx))]

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

    def _check_labels(self, labels: np.ndarray) -> None:
        num_classes = len(self.CLASSES or ())
        wrong = np.flatnonzero((labels < 0) | (labels >= (num_classes or np.inf)))
        if len(wrong):
            label = 'none' if labels[wrong[0]] < 0 else labels[wrong[0]]
            limit = f'0 to {num_classes - 1} to fit {num_classes} class names' if num_classes else '0 or more'
            raise UserError(
                f'{self.read(int(wrong[0]))[1]}: the label must be {limit}, got {label} (as in {len(wrong)} of '
                f'{len(labels)} images); with_label=False reads images alone'
            )


@DATASETS.register_module()
class HuggingFaceImages(StoredImages):
    """Images (and labels) of Hugging Face `datasets`, which map their table from disk.

    If the label column has class names, they are the class names of the data set, or, if the config names classes,
    labels follow the order in the config.

    Args:
        path: a folder that `save_to_disk` wrote, or an argument of `datasets.load_dataset`: a name on the hub, a
            folder of Parquet files.
        split: such as 'train'; may be None if the folder holds a single table.
        name: the configuration of a data set on the hub.
        image_column, label_column: names of the columns.
        with_label, kwargs: see StoredImages.

    Raises:
        UserError: If there is no such data set, split or column, the columns hold something else, or a class of the
            column is missing among the config's names.
    """

    def __init__(
        self,
        path: str,
        split: str | None = 'train',
        name: str | None = None,
        image_column: str = 'image',
        label_column: str = 'label',
        **kwargs,
    ):
        self.path, self.split, self.name = path, split, name
        self.image_column, self.label_column = image_column, label_column
        self.title = path if split is None else f'{path}[{split}]'  # in messages
        super().__init__(**kwargs)

    def open_store(self) -> tuple[int, np.ndarray | None]:
        try:
            import datasets
        except ImportError as error:
            raise ImportError('HuggingFaceImages needs the package datasets: pip install "beit_mm[sources]"') from error
        table = self._load(datasets)
        for column in [self.image_column] + ([self.label_column] if self.with_label else []):
            if column not in table.column_names:
                raise UserError(f'{self.title} must have the column {column}, got {", ".join(table.column_names)}')
        labels = self._read_labels(table) if self.with_label else None
        images = table.select_columns(self.image_column)
        try:
            self.table = images.cast_column(self.image_column, datasets.Image(decode=False))
        except (ValueError, TypeError, NotImplementedError) as error:  # of datasets and pyarrow
            got = table.features[self.image_column]
            raise UserError(f'{self.title}: the column {self.image_column} must hold images, got {got}') from error
        return len(table), labels

    def read(self, row: int) -> tuple[bytes, str]:
        name = f'{self.title}/{row:08d}'
        image = self.table[row][self.image_column]
        if image is None:
            raise BadImage(name, f'the row must hold an image in {self.image_column}, got None')
        if image['bytes'] is not None:
            return image['bytes'], name
        try:  # a table of paths, as the image folder builder makes
            return Path(image['path']).read_bytes(), name
        except OSError as error:
            if not is_bad_file(error):
                raise
            raise BadImage(f'{name} ({image["path"]})', error.strerror or str(error)) from error

    def extra_repr(self) -> list[str]:
        return [f'Path: \t{self.path}', f'Split: \t{self.split}', *super().extra_repr()]

    def _load(self, datasets):
        """The table of the split."""
        folder = Path(self.path).expanduser()
        is_saved = any((folder / name).is_file() for name in ('state.json', 'dataset_dict.json'))
        try:
            if not is_saved:
                return datasets.load_dataset(str(folder) if folder.exists() else self.path, self.name, split=self.split)
            table = datasets.load_from_disk(str(folder))
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f'path must be a folder written by save_to_disk or a data set of the hub with the split '
                f'{self.split}, got {self.path}: {reason}'
            ) from error
        if isinstance(table, datasets.Dataset):
            return table
        if self.split not in table:
            raise UserError(f'the split of {self.path} must be one of {", ".join(table)}, got {self.split}')
        return table[self.split]

    def _read_labels(self, table) -> np.ndarray:
        feature = table.features[self.label_column]
        if 'int' not in str(getattr(feature, 'dtype', '')):
            raise UserError(f'{self.title}: the column {self.label_column} must hold whole numbers, got {feature}')
        labels = table.select_columns(self.label_column).with_format('numpy')[:][self.label_column]
        names = getattr(feature, 'names', None)
        if names is None:
            return labels
        if self.CLASSES is None:
            self._metainfo['classes'] = tuple(names)
        indices = self.class_to_idx
        unknown = ', '.join(name for name in names if name not in indices)
        if unknown:
            raise UserError(
                f'{self.title}: class names must hold those of the column {self.label_column}, got none for {unknown}'
            )
        return np.array([*(indices[name] for name in names), -1])[labels]  # -1 means no label and stays
