"""Images that cannot be read: in training they are listed, replaced and bounded."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from .seeds import derive_seed, seed_generators

MAX_ATTEMPTS = 100  # for one sample; only a training that allows nearly all images to be bad comes so far
NUM_SHOWN = 3
ESCAPES = {ord(char): repr(char)[1:-1] for char in '\\\t\n\r'}


class BadImage(ValueError):
    """An image that cannot be read.

    Args:
        name: its file, or its place in a shard or table.
        reason: what is wrong with it.
    """

    def __init__(self, name: str, reason: str = ''):
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        # A loader raises what a worker has raised again, with the whole message as the only argument.
        return f'{self.name} cannot be read as an image: {self.reason}' if self.reason else self.name


class BadImages:
    """Reads samples in training and replaces those whose image is bad.

    Every bad image is written to a list once, `name, tab, reason`, which the workers of all processes share and a
    resumed run goes on with. A sample is replaced by one that depends on its seed and index alone.

    Args:
        num_images: of the data set.
        list_path: the list, made with the first bad image.
        max_share: of the images that may be on the list.
    """

    def __init__(self, num_images: int, list_path: str | Path, max_share: float = 0.001):
        if not 0 <= max_share <= 1:
            raise ValueError(f'max_share must lie in 0 to 1, got {max_share}')
        self.num_images = num_images
        self.list_path = Path(list_path)
        self.max_share = max_share

    def read(self, dataset: Dataset, index: int, seed: int) -> Any:
        """The sample `dataset[index]`, whose generators are seeded already, or one in its place.

        Args:
            index: of the sample.
            seed: of the sample, 64 bits.

        Raises:
            ValueError: If more images than max_share are bad; gives counts and the first names.
        """
        try:
            return dataset[index]
        except BadImage as error:
            bad = error
        for attempt in range(1, MAX_ATTEMPTS):
            self._add(bad)
            other = derive_seed(seed >> 1, index, attempt)  # >> 1 as derive_seed takes 63 bits
            seed_generators(other)
            try:
                return dataset[other % len(dataset)]
            except BadImage as error:
                bad = error
        raise ValueError(f'{MAX_ATTEMPTS} images in place of sample {index} cannot be read, the last: {bad}')

    def names(self) -> list[str]:
        """Names on the list, the first first, each once."""
        try:
            with open(self.list_path, encoding='utf-8', errors='surrogateescape', newline='\n') as file:
                return _first_fields(file)
        except FileNotFoundError:
            return []

    def _add(self, bad: BadImage) -> None:
        names = self._append(bad.name.translate(ESCAPES), ' '.join(bad.reason.split()))
        if len(names) > self.max_share * self.num_images:
            shown = ', '.join(names[:NUM_SHOWN]) + (' ...' if len(names) > NUM_SHOWN else '')
            raise ValueError(
                f'{len(names)} of {self.num_images} images cannot be read, {len(names) / self.num_images:.2%}, and at '
                f'most {self.max_share:.2%} may be: {shown}; all are in {self.list_path}. Mend or remove them and '
                f'delete the list, or allow a larger share. The last: {bad}'
            )

    def _append(self, name: str, reason: str) -> list[str]:
        """All names on the list after this one has come to it."""
        self.list_path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.list_path, 'a+', encoding='utf-8', errors='surrogateescape', newline='\n') as file:
            with suppress(OSError):  # a file system without locks: a name may come twice, and still counts once
                fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            names = _first_fields(file)
            if name not in names:
                is_cut = file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b'\n'  # killed while writing
                file.write('\n' * bool(is_cut) + f'{name}\t{reason}\n')
                names.append(name)
        return names


def _first_fields(lines: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(line.rstrip('\n').split('\t')[0] for line in lines))
