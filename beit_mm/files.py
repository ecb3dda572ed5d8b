"""Writing files so that a reader finds the old content or the new one, never half of it; and a lock on a folder."""

import errno
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from beit_mm.errors import UserError

PARTIAL = '.partial'  # marks temporary names
HOLDER = '.holder'  # the locked file of a folder
PATIENCE = 3.0  # seconds in which an earlier holder may end


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
    except OSError as error:
        if str(error.filename) == str(temporary) and error.filename2 is None:
            error.filename = str(path)  # the name that the caller knows
        raise
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


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a folder: no other process can hold it until the block or this process ends, even by a kill.

    The system locks the file `.holder` in it and releases it; loader workers do not inherit the lock. A file system
    without locks keeps nobody out.

    Raises:
        UserError: If another process holds it for over three seconds; names its host, number and start.
    """
    import fcntl  # here: not on Windows

    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / HOLDER, 'a+') as file:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):  # there are no locks
                    break
            if time.monotonic() > end:
                file.seek(0)
                holder = file.read() or 'another process'
                raise UserError(f'{folder} is the work directory of {holder}; end that run or give another --work-dir')
            time.sleep(0.1)
        file.truncate(0)
        start = time.strftime('%Y-%m-%d %H:%M:%S')
        file.write(f'a run on {socket.gethostname()}, process {os.getpid()}, since {start}')
        file.flush()
        yield
