"""Images that cannot be read: what counts as one, and the list that a training keeps."""

import errno
import logging
from contextlib import suppress
from pathlib import Path

from mmengine.logging import print_log

from beit_mm.errors import UserError

NUM_SHOWN = 3
ESCAPES = {ord(char): repr(char)[1:-1] for char in '\\\t\n\r'}
# Files that are missing, forbidden, no files or on a bad part of the disk. Decoders' errors have no number.
BAD_FILE_ERRORS = ('ENOENT', 'ENOTDIR', 'EISDIR', 'EACCES', 'EPERM', 'ELOOP', 'ENAMETOOLONG', 'EIO')
BAD_FILE = {None, *(getattr(errno, name) for name in BAD_FILE_ERRORS)}


class BadImage(UserError):
    """An image that cannot be read: its file, or position in a shard or table, and what is wrong with it."""

    def __init__(self, name: str, reason: str = ''):
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        # A data loader raises a worker's error again, with the whole message as the only argument.
        return f'{self.name} cannot be read as an image: {self.reason}' if self.reason else self.name


def is_bad_file(error: Exception) -> bool:
    """Whether an error is due to the file that was read, not to memory, open files, the network or the installation."""
    if isinstance(error, OSError):
        return error.errno in BAD_FILE and not isinstance(error, (ConnectionError, TimeoutError))
    return not isinstance(error, (MemoryError, ImportError))


class BadImages:
    """A list of bad images in a file, which the workers of all processes share and a resumed run continues.

    A line is `name, tab, reason`.

    Args:
        num_images: number of images in the data set.
        list_path: the file, written with the first bad image.
        max_share: largest share of the images that may be on the list.
        max_images: this many may be on the list even if their share is larger, but at most a quarter of all.
    """

    def __init__(self, num_images: int, list_path: str | Path, max_share: float = 0.001, max_images: int = 0):
        if not 0 <= max_share <= 1:
            raise UserError(f'max_share must lie in 0 to 1, got {max_share}')
        self.num_images, self.list_path, self.max_share = num_images, Path(list_path), max_share
        self.allowance = min(max_images, num_images // 4)

    def names(self) -> list[str]:
        """The names on the list, oldest first, each once."""
        content = self.list_path.read_bytes() if self.list_path.is_file() else b''
        return _first_fields(content.decode('utf-8', 'surrogateescape'))

    def add(self, bad: BadImage) -> None:
        """Put an image on the list unless it is there. UserError, with counts and names, if too many images are bad."""
        name, reason = bad.name.translate(ESCAPES), ' '.join(bad.reason.split())
        self.list_path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.list_path, 'a+', encoding='utf-8', errors='surrogateescape', newline='\n') as file:
            with suppress(OSError, ImportError):  # without locks (some file systems, Windows) a name may stand twice
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            content = file.read()
            names = _first_fields(content)
            if name not in names:
                is_cut = content and content[-1] != '\n'  # a process was killed while it wrote
                file.write('\n' * bool(is_cut) + f'{name}\t{reason}\n')
                names.append(name)
                print_log(f'{bad}; listed in {self.list_path}', 'current', logging.WARNING)
        if len(names) > max(self.max_share * self.num_images, self.allowance):
            limit = f'{self.max_share:.2%}' if self.max_share * self.num_images >= self.allowance else self.allowance
            shown = ', '.join(names[:NUM_SHOWN]) + (' ...' if len(names) > NUM_SHOWN else '')
            raise UserError(
                f'{len(names)} of {self.num_images} images cannot be read, {len(names) / self.num_images:.2%}, and at '
                f'most {limit} may be: {shown}; all are in {self.list_path}. Mend or remove them and delete the list, '
                f'or set train_cfg.max_bad_share={self.max_share} or train_cfg.max_bad_images higher. The last: {bad}'
            )


def _first_fields(content: str) -> list[str]:
    return list(dict.fromkeys(line.split('\t')[0] for line in content.split('\n') if line))
