"""Checkpoint files that are whole or not there: written beside, read back, renamed, and only then is one deleted."""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from beit_mm.registry import SCOPE

from .checksums import checksum_path, ChecksumMismatch, sha256_of, verify_parts, verify_sha256

BACKEND = f'{SCOPE}.verified'
PARTIAL = '.partial'
POINTER = 'last_checkpoint'  # MMEngine's, read by its `resume=True`
CHUNK = 2**20  # bytes
MARGIN = 2**26  # bytes left free for logs and pictures
_STEP = re.compile(r'^(epoch|iter)_(\d+)\.pth$')


class VerifiedFiles(LocalBackend):
    """MMEngine's local files, but written safely; `get_file_backend(backend_args=dict(backend='beit_mm.verified'))`.

    `put` leaves either the whole new file under its name, with its SHA-256 in `NAME.sha256`, or what was there before.
    `remove` only notes what is to be deleted; `release` deletes it, once what takes its place is written.
    """

    def __init__(self):
        self._surplus: list[Path] = []

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file.

        Raises:
            OSError: If there is too little space, or what was written reads back differently.
        """
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_space(path.parent, len(obj))
        partial = path.with_name(f'.{path.name}{PARTIAL}')
        try:
            with ThreadPoolExecutor(1) as pool:  # beside the writing: each takes about as long
                digest = pool.submit(lambda: hashlib.sha256(obj).hexdigest())
                _write(partial, obj)
                if not _reads_back(partial, obj):
                    raise OSError(errno.EIO, f'{partial} reads back differently than it was written')
            # Both, as long as the name may stand for either.
            digests = [digest.result(), *([sha256_of(path)] if path.exists() else [])]
            _write_checksum(path, digests)
            os.replace(partial, path)
            _flush_folder(path.parent)
            if len(digests) > 1:
                _write_checksum(path, digests[:1])
        finally:
            partial.unlink(missing_ok=True)

    def remove(self, filepath: str | Path) -> None:
        """Note a file to be deleted by `release`."""
        self._surplus.append(Path(filepath))

    def release(self, keep: Sequence[str | Path | None] = ()) -> None:
        """Delete what `remove` was called for, but for files to keep, which may have been written anew since."""
        kept = {Path(path) for path in keep if path}
        while self._surplus:
            path = self._surplus.pop()
            if path in kept:
                continue
            path.unlink(missing_ok=True)  # before its checksum: a file without one would still be taken
            checksum_path(path).unlink(missing_ok=True)


register_backend(BACKEND, VerifiedFiles, force=True)


def write_pointer(folder: Path, checkpoint: str) -> None:
    """Let MMEngine's `last_checkpoint` name another file, at once."""
    partial = folder / f'.{POINTER}{PARTIAL}'
    _write(partial, checkpoint.encode())
    os.replace(partial, folder / POINTER)
    _flush_folder(folder)


def read_pointer(folder: Path) -> str | None:
    """The file that MMEngine's `last_checkpoint` names; None without it."""
    pointer = folder / POINTER
    return pointer.read_text().strip() if pointer.is_file() else None


def remove_partial(folder: Path) -> None:
    """Delete what an interrupted `put` left behind."""
    for path in folder.glob(f'.*{PARTIAL}'):
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
    """What is wrong with a checkpoint file; None if it is what was written, by its SHA-256 or its parts' CRC-32."""
    try:
        with path.open('rb') as file:
            if file.read(4) != b'PK\3\4':
                return f'{path} is no file of torch.save'
        if checksum_path(path).is_file():
            verify_sha256(path)
        else:
            verify_parts(path)
    except Exception as error:  # a damaged zip file fails in many ways
        return str(error) if isinstance(error, ChecksumMismatch) else f'{path}: {error}'
    return None


def _check_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size + MARGIN:
        raise OSError(
            errno.ENOSPC,
            f'a checkpoint of {size / 2**20:.0f} MiB needs as much free space and '
            f'{MARGIN // 2**20} MiB in {folder}, which has {free / 2**20:.0f} MiB',
        )


def _write(path: Path, content: bytes) -> None:
    with path.open('wb') as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        if hasattr(os, 'posix_fadvise'):  # so that it is read back from the disk
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _reads_back(path: Path, content: bytes) -> bool:
    with path.open('rb') as file:
        same = all(file.read(CHUNK) == content[start : start + CHUNK] for start in range(0, len(content), CHUNK))
        return same and not file.read(1)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_checksum(path: Path, digests: list[str]) -> None:
    beside = checksum_path(path)
    partial = beside.with_name(f'.{beside.name}{PARTIAL}')
    try:
        _write(partial, ''.join(f'{digest}  {path.name}\n' for digest in digests).encode())
        os.replace(partial, beside)
    finally:
        partial.unlink(missing_ok=True)
