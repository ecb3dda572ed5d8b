"""Writing files so that a reader finds the old content or the new one, never half of it."""

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = '.partial'  # marks temporary names


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write a file, or a new folder, under a temporary name in the same folder and rename it when it is complete.

    An error removes the temporary file and leaves what was there. Parent folders are made if they are missing. The
    temporary name is unique to this host, process and thread, and keeps the suffix, except that of torch.save's files:
    `glob('*.pth')` also finds hidden files.

    Args:
        path: the file or folder.

    Yields:
        The temporary path to write to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = f'{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}'
    suffix = '' if path.suffix in ('.pth', '.pt') else path.suffix
    temporary = path.with_name(f'.{path.stem}.{writer}{PARTIAL}{suffix}')
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
