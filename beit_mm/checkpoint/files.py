"""Checkpoint files that a kill, a full disk or a flipped bit cannot lose, and finding the one to resume from."""

import errno
import math
import os
import re
import string
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from mmengine.fileio import LocalBackend, register_backend

from beit_mm.errors import UserError
from beit_mm.files import atomic_write, flush, PARTIAL
from beit_mm.registry import SCOPE
from beit_mm.text import show

from .torch_files import read_meta, verify_parts

BACKEND = f'{SCOPE}.verified'
POINTER = 'last_checkpoint'  # MMEngine's, read by its `resume=True`
MAX_PATH = 4096  # bytes
EPOCHS, STEPS = 'epoch_{}.pth', 'iter_{}.pth'  # MMEngine's names

NO_HOOK: Mapping = MappingProxyType({})
Stamps = dict[str, list[int]]  # path of a checkpoint to inode, size and time, which change when it is written anew


class VerifiedFiles(LocalBackend):
    """MMEngine's local files, but written safely; `get_file_backend(backend_args=dict(backend='beit_mm.verified'))`.

    `put` leaves either the whole new file under its name or what was there before. `remove` and `rmtree` only note a
    name; `release` deletes, once the replacement is written.
    """

    def __init__(self) -> None:
        self._removed: set[str] = set()

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
        self._removed.add(Path(filepath).name)

    rmtree = remove

    def release(self, folder: Path, pattern: str, keep: Collection[str] = ()) -> None:
        """Delete noted files that lie directly in a folder; links, folders and other names stay.

        Args:
            folder: the only one in which anything is deleted.
            pattern: regular expression of the names that may be deleted.
            keep: names of files that have been written anew since.
        """
        for name in self._removed - set(keep):
            path = folder / name
            if re.fullmatch(pattern, name) and os.path.isfile(path) and not os.path.islink(path):
                path.unlink(missing_ok=True)
        self._removed.clear()


register_backend(BACKEND, VerifiedFiles, force=True)


def write_pointer(folder: Path, checkpoint: str) -> None:
    """Let MMEngine's `last_checkpoint` name another file, at once."""
    with atomic_write(folder / POINTER) as temporary:
        temporary.write_bytes(os.fsencode(checkpoint))
        flush(temporary)
    flush(folder)


def read_pointer(work_dir: Path, folder: Path | None = None) -> Path | None:
    """The file that MMEngine's `last_checkpoint` names; None without it.

    A file of that name in the folder of checkpoints comes first: a copy of a work directory has its own. Where
    `last_checkpoint` names nothing, or is no file that can be read, it is returned itself, to be named as damaged.
    """
    pointer, folder = work_dir / POINTER, folder or work_dir
    if not os.path.lexists(pointer):
        return None
    try:
        with pointer.open('rb') if pointer.is_file() else open(os.devnull, 'rb') as file:  # not from a pipe
            named = Path(os.fsdecode(file.read(MAX_PATH).strip()))
    except OSError:
        return pointer
    if not named.name:
        return pointer
    return folder / named.name if os.path.lexists(folder / named.name) else named


def remove_partial(folder: Path) -> None:
    """Delete what an interrupted write left behind."""
    for path in folder.glob(f'.*{PARTIAL}*'):
        if not path.is_dir():
            path.unlink(missing_ok=True)


def list_checkpoints(folder: Path, filename_tmpl: str) -> dict[int, Path]:
    """Number to path of all files that fit a pattern such as `epoch_{}.pth`, in the order of the numbers."""
    numbered = [(_number(path, filename_tmpl), path) for path in folder.glob('[!.]*')]
    return dict(sorted((number, path) for number, path in numbered if number is not None))


def stamp_checkpoints(work_dir: Path, hook: Mapping = NO_HOOK) -> Stamps:
    """The stamps of all checkpoints, for `find_newest` to know those that were written later."""
    pointed = read_pointer(work_dir, _folder(work_dir, hook))
    paths = [pointed, *(path for paths in _list_all(work_dir, hook, pointed).values() for path in paths.values())]
    return {str(path): _stamp(path) for path in paths if path and os.path.isfile(path)}


def find_newest(work_dir: Path, hook: Mapping = NO_HOOK, old: Stamps | None = None) -> Path | None:
    """The checkpoint to resume from: what `last_checkpoint` names, or without it the one of the most iterations.

    If it is damaged or gone, the newest one before it is taken; each one passed over is named. Later ones are an older
    run's. The times of files play no part.

    Args:
        work_dir: the run's folder; if it holds no checkpoints, they are looked for where `last_checkpoint` points.
        hook: config of the run's CheckpointHook, whose `filename_tmpl` and `out_dir` count. `epoch_N.pth` and
            `iter_N.pth` are found without it.
        old: those to be left out, unless they were written anew since.

    Returns:
        Its path; None if there is no checkpoint and no `last_checkpoint`, or if all are old.

    Raises:
        UserError: If there are some, but all are damaged or gone; names them.
    """
    problems: list[str] = []
    for path in _newest_first(work_dir, hook):
        if old and os.path.isfile(path) and old.get(str(path)) == _stamp(path):
            continue
        problem = find_damage(path)
        if problem is None:
            for passed in problems:
                print(f'passed over: {passed}', flush=True)
            return path
        problems.append(problem)
    if problems:
        listed, mend = '; '.join(problems), 'for a new training give another work_dir'
        raise UserError(f'no checkpoint of {show(work_dir)} is whole: {listed}; {mend}')
    return None


def find_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint of a run; None if every part has its CRC-32."""
    name = show(path)
    if not os.path.isfile(path):
        return f'{name} is no file'
    try:
        if not verify_parts(path):
            return f'{name} is no file of torch.save'
        return None if _progress(path) else f'{name} is no checkpoint of a run'
    except Exception as error:  # a damaged zip file fails in many ways
        return f'{name}: {error}'


def _newest_first(work_dir: Path, hook: Mapping) -> Iterator[Path]:
    """What `last_checkpoint` names, then all others that are not later; damaged ones come before whole ones."""
    pointed = read_pointer(work_dir, _folder(work_dir, hook))
    if pointed:
        yield pointed
    progress = {}
    for template, paths in _list_all(work_dir, hook, pointed).items():
        end = _number(pointed, template) if pointed else None
        earlier = [path for number, path in paths.items() if end is None or number < end]
        progress.update({path: _progress(path) for path in earlier if path != pointed})
    ends = _ends(pointed) if pointed else {}
    others = [path for path in progress if all(progress[path].get(unit, 0) < end for unit, end in ends.items())]
    yield from sorted(others, key=lambda path: progress[path].get('iter', math.inf), reverse=True)


def _ends(pointed: Path) -> dict[str, int]:
    """The number of epochs or iterations from which on a checkpoint is later than this one, from it or its name."""
    if progress := _progress(pointed):
        return dict(iter=progress['iter'] + 1)
    numbers = dict(epoch=_number(pointed, EPOCHS), iter=_number(pointed, STEPS))
    return {unit: number for unit, number in numbers.items() if number is not None}


def _folder(work_dir: Path, hook: Mapping) -> Path:
    """Where MMEngine's CheckpointHook writes."""
    return Path(hook['out_dir']) / work_dir.absolute().name if hook.get('out_dir') else work_dir


def _list_all(work_dir: Path, hook: Mapping, pointed: Path | None) -> dict[str, dict[int, Path]]:
    """For each pattern of names the files of the run's folder, or without any those where `last_checkpoint` points."""
    templates = filter(is_template, dict.fromkeys((hook.get('filename_tmpl') or EPOCHS, EPOCHS, STEPS)))
    folders = [_folder(work_dir, hook), *([pointed.parent] if pointed else [])]
    return {
        template: next(filter(None, (list_checkpoints(folder, template) for folder in folders)), {})
        for template in templates
    }


def _progress(path: Path) -> dict[str, int]:
    """How many epochs and iterations a run had done; nothing of a file that cannot be read."""
    try:
        meta = read_meta(path) if os.path.isfile(path) else {}
        return {unit: int(meta[unit]) for unit in ('epoch', 'iter')}
    except Exception:  # a damaged file raises almost anything
        return {}


def name_pattern(filename_tmpl: str) -> str:
    """Regular expression of the names that a pattern such as `epoch_{}.pth` gives; its group is the number."""
    parts = string.Formatter().parse(filename_tmpl)
    return ''.join(re.escape(text) + ('([0-9]+)' if field is not None else '') for text, field, *_ in parts)


def is_template(filename_tmpl: str) -> bool:
    """Whether names of files come of a pattern, of which their number can be read."""
    try:
        name = filename_tmpl.format(12345)
        return _number(Path(name), filename_tmpl) in (12345, 0) and not re.match(r'\.|.*[/\0]', name)
    except (ValueError, LookupError):
        return False


def _number(path: Path, filename_tmpl: str) -> int | None:
    """The number in a file name; 0 for a pattern without one, None if the name does not fit."""
    match = re.fullmatch(name_pattern(filename_tmpl), path.name)
    return match and int(match[1] if match.groups() else 0)


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_ino, status.st_size, status.st_mtime_ns]
