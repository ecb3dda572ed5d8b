"""Hugging Face `datasets` as a map-style data set of MMPretrain."""

from pathlib import Path

import numpy as np

from beit_mm.errors import UserError
from beit_mm.registry import DATASETS

from .bad_images import BadImage, is_bad_file
from .stored_images import StoredImages


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
        with_label, **kwargs: see StoredImages.

    Raises:
        ImportError: If `datasets` is not installed.
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
        self.path = path
        self.split = split
        self.name = name
        self.image_column = image_column
        self.label_column = label_column
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
            raise UserError(
                f'{self.title}: the column {self.image_column} must hold images, got '
                f'{table.features[self.image_column]}'
            ) from error
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
        unknown = [name for name in names if name not in indices]
        if unknown:
            raise UserError(
                f'{self.title}: class names must hold those of the column {self.label_column}, got none for '
                f'{", ".join(unknown[:3])}{" ..." if len(unknown) > 3 else ""}'
            )
        return np.array([*(indices[name] for name in names), -1])[labels]  # -1 means no label and stays
