"""Checkpoint files that a kill, a full disk or a flipped bit cannot lose, and finding the one to resume from."""

import errno
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from beit_mm.files import atomic_write, flush, PARTIAL
from beit_mm.registry import SCOPE

from .checksums import verify_parts

BACKEND = f'{SCOPE}.verified'
POINTER = 'last_checkpoint'  # MMEngine's, read by its `resume=True`
_STEP = re.compile(r'^(epoch|iter)_(\d+)\.pth$')


class VerifiedFiles(LocalBackend):
    """MMEngine's local files, but written safely; `get_file_backend(backend_args=dict(backend='beit_mm.verified'))`.

    `put` leaves either the whole new file under its name or what was there before. `remove` only notes what is to be
    deleted; `release` deletes it, once its replacement is written.
    """

    def __init__(self):
        self._removed: list[Path] = []

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file under a temporary name, wait for the disk, verify it, and rename it.

        Raises:
            OSError: If the disk is full, or the file reads back differently.
        """
        path = Path(filepath)
        with atomic_write(path) as temporary:
            temporary.write_bytes(obj)
            flush(temporary)
            try:
                verify_parts(temporary)
            except zipfile.BadZipFile as error:
                raise OSError(errno.EIO, f'{path} reads back differently than it was written: {error}') from error
        flush(path.parent)

    def remove(self, filepath: str | Path) -> None:
        """Note a file to be deleted by `release`."""
        self._removed.append(Path(filepath))

    def release(self, keep: Sequence[str | Path | None] = ()) -> None:
        """Delete the noted files, except those to keep, which may have been written anew since."""
        kept = {Path(path) for path in keep if path}
        for path in self._removed:
            if path not in kept:
                path.unlink(missing_ok=True)
        self._removed.clear()


register_backend(BACKEND, VerifiedFiles, force=True)


def write_pointer(folder: Path, checkpoint: str) -> None:
    """Let MMEngine's `last_checkpoint` name another file, at once."""
    with atomic_write(folder / POINTER) as temporary:
        temporary.write_text(checkpoint)
        flush(temporary)
    flush(folder)


def read_pointer(folder: Path) -> str | None:
    """The file that MMEngine's `last_checkpoint` names; None without it."""
    pointer = folder / POINTER
    return pointer.read_text().strip() if pointer.is_file() else None


def remove_partial(folder: Path) -> None:
    """Delete what an interrupted write left behind."""
    for path in folder.glob(f'.*{PARTIAL}*'):
        path.unlink(missing_ok=True)


def find_newest(work_dir: Path, since: float = 0) -> Path | None:
    """The newest whole checkpoint `epoch_N.pth` or `iter_N.pth` of a run; those that are not whole are named.

    Args:
        work_dir: the run's folder; if there are none in it, they are looked for where its pointer points.
        since: those written before are left out; seconds since 1970.

    Returns:
        its path, None if there is no checkpoint.

    Raises:
        ValueError: If there are some, but all are damaged; names them.
    """
    pointed = read_pointer(work_dir)
    paths = newest_first(work_dir)
    if not paths and pointed:
        paths = newest_first(Path(pointed).parent)
    problems = []
    for path in paths:
        if path.stat().st_mtime < since:
            continue
        problem = find_damage(path)
        if problem is None:
            for passed in problems:
                print(f'passed over: {passed}')
            return path
        problems.append(problem)
    if problems:
        raise ValueError(f'no checkpoint of {work_dir} is whole: {"; ".join(problems)}')
    return None


def newest_first(folder: Path) -> list[Path]:
    """Checkpoints of a folder by their numbers; between epochs and iterations the time of writing decides."""
    kinds: dict[str, list[Path]] = {}
    for path in folder.glob('*.pth'):
        if _STEP.match(path.name):
            kinds.setdefault(path.name.partition('_')[0], []).append(path)
    for paths in kinds.values():
        paths.sort(key=_number)
    merged = []
    while any(kinds.values()):
        paths = max(filter(None, kinds.values()), key=lambda paths: paths[-1].stat().st_mtime_ns)
        merged.append(paths.pop())
    return merged


def _number(path: Path) -> int:
    return int(_STEP.match(path.name)[2])


def find_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint file; None if every part has its CRC-32."""
    try:
        with path.open('rb') as file:
            if file.read(4) != b'PK\3\4':
                return f'{path} is no file of torch.save'
        verify_parts(path)
    except Exception as error:  # a damaged zip file fails in many ways
        return f'{path}: {error}'
    return None
