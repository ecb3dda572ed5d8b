"""Which files of a folder are images: the same ones for data sets, checks and commands."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from mmengine import fileio

from beit_mm.errors import UserError

# All names of the formats that LoadImage reads; upper case counts too.
IMAGE_SUFFIXES = (
    *('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.apng', '.bmp', '.gif', '.webp', '.tif', '.tiff'),
    *('.ppm', '.pgm', '.pbm', '.pnm', '.jp2', '.j2k', '.j2c', '.jpc', '.jpf', '.jpx'),
)
LABEL_SUFFIXES = ('.png', '.tif', '.tiff', '.bmp', '.gif')  # of label maps: formats that keep every value
MAX_REASONS = 5  # of files that are left out, in a sentence
MAX_VISITS = 1000  # of a folder, by links; folders that link to each other have factorially many paths


class LeftOut(Counter):
    """Numbers of files that a data set does not use, by reason; as text with an example: `8 .heic (such as x.heic)`."""

    def __init__(self) -> None:
        super().__init__()
        self.examples: dict[str, str] = {}

    def note(self, reason: str, path: str) -> None:
        self[reason] += 1
        self.examples[reason] = min(path, self.examples.get(reason, path))

    def __str__(self) -> str:
        shown = sorted(self.items(), key=lambda item: (-item[1], item[0]))[:MAX_REASONS]
        texts = [f'{count:,} {reason} (such as {self.examples[reason]!r})' for reason, count in shown]
        rest = self.total() - sum(count for _, count in shown)
        return ', '.join(texts + [f'{rest:,} others'] * (rest > 0))


def name_suffixes(suffixes: Iterable[str]) -> str:
    """Suffixes in a sentence; all of our own by their formats."""
    own = 'JPEG, PNG, GIF, BMP, WEBP, TIFF, PPM or JPEG 2000'
    return own if set(suffixes) == set(IMAGE_SUFFIXES) else ' or '.join(suffixes)


def list_files(folder: str, suffixes: Sequence[str], left_out: LeftOut | None = None) -> list[str]:
    """Files below a folder whose names end with a suffix in upper or lower case: paths relative to it, sorted.

    Links are followed, but not to a folder that contains them. Hidden files and folders (`._1.jpg`,
    `.ipynb_checkpoints`), other formats, broken links, pipes and the like are left out, and noted in `left_out`.
    UserError if links lead to a folder by more than MAX_VISITS paths.
    """
    return sorted(iterate_files(folder, suffixes, LeftOut() if left_out is None else left_out))


def iterate_files(folder: str, suffixes: Sequence[str], left_out: LeftOut) -> Iterator[str]:
    """The files of list_files in any order; notes what it passes over."""
    ends = tuple(suffix.lower() for suffix in suffixes)
    for path, is_file in _walk(folder):
        name = os.path.basename(path)
        is_image = name.lower().endswith(ends)
        if name.startswith('.'):
            if is_image or not is_file:
                left_out.note('hidden', path)
        elif not is_image:
            left_out.note(os.path.splitext(name)[1].lower() or 'without suffix', path)
        elif not is_file:
            left_out.note('broken links or no files', path)
        else:
            yield path


def _walk(folder: str) -> Iterator[tuple[str, bool]]:
    """Paths below a folder, relative to it, and whether each is a file. It does not look into hidden folders."""
    if '://' in folder:
        yield from ((path, True) for path in fileio.list_dir_or_file(folder, list_dir=False, recursive=True))
        return
    start = len(os.path.join(folder or '.', ''))
    visits: Counter[tuple[int, int]] = Counter()
    open_folders: list[tuple[str, frozenset]] = [(folder or '.', frozenset())]
    while open_folders:
        parent, above = open_folders.pop()
        state = os.stat(parent)
        if (state.st_dev, state.st_ino) in above:
            continue
        above |= {(state.st_dev, state.st_ino)}
        visits[state.st_dev, state.st_ino] += 1
        if visits[state.st_dev, state.st_ino] > MAX_VISITS:
            what = f'links in {folder} must lead to a folder by at most {MAX_VISITS:,} paths'
            raise UserError(f'{what}, got more to {os.path.realpath(parent)}; remove some of them')
        with os.scandir(parent) as entries:
            for entry in entries:
                is_link = entry.is_symlink()  # of one that leads nowhere, entry.is_dir() may raise OSError
                is_folder = os.path.isdir(entry.path) if is_link else entry.is_dir()
                if is_folder and not entry.name.startswith('.'):
                    open_folders.append((entry.path, above))
                else:
                    is_file = os.path.isfile(entry.path) if is_link else entry.is_file()
                    yield entry.path[start:].replace(os.sep, '/'), is_file


def check_lines(dataset) -> None:
    """UserError if a line of a data set's annotation file has no label, though it must, or leaves the data folder.

    Lines are split as the hosts split them, at carriage returns too. With neither data_root nor data_prefix paths may
    be anywhere.

    Args:
        dataset: MMPretrain's CustomDataset, MMSegmentation's BaseSegDataset, or a subclass, whose annotation file has a
            line for each image.
    """
    if not dataset.ann_file or os.path.isdir(dataset.ann_file):
        return
    try:
        lines = fileio.list_from_file(dataset.ann_file)
    except UnicodeDecodeError as error:
        raise UserError(f'{dataset.ann_file} must be text in UTF-8: {error}') from error
    prefixes = dataset.data_prefix.values() if isinstance(dataset.data_prefix, dict) else [dataset.data_prefix]
    prefix = next((prefix for prefix in prefixes if prefix), '')
    root = os.path.abspath(dataset.data_root or prefix or '/')
    for number, line in enumerate(lines, 1):
        path = line.strip()
        if getattr(dataset, 'with_label', False):
            path, _, label = path.rpartition(' ')
            if not path or not label.isdecimal():
                raise UserError(
                    f'{dataset.ann_file}, line {number}: must be a path, a space and a class number, got {line!r}'
                )
        is_simple = '..' not in path and not os.path.isabs(path)
        if not is_simple and os.path.commonpath([root, os.path.abspath(os.path.join(prefix, path))]) != root:
            raise UserError(
                f'{dataset.ann_file}, line {number}: {path!r} leaves the data folder {root}; give a path below it, or '
                f"data_root='' and data_prefix='' for paths anywhere"
            )
