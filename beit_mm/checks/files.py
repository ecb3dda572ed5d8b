"""Checks of the files that a config names: data folders, annotation files, shards, checkpoints."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

from beit_mm.checkpoint.checksums import split_checksum
from beit_mm.checkpoint.reading import find_weights
from beit_mm.config.parts import walk
from beit_mm.datasets.webdataset import expand_shards

from .problems import Problem

# What MMSegmentation's data sets look for below each prefix, unless told otherwise.
SEGMENTATION_SUFFIXES = dict(img_path=('img_suffix', '.jpg'), seg_map_path=('seg_map_suffix', '.png'))


class Missing(NamedTuple):
    """A file that is not there: the key that names it, what is missing, and the mend."""

    key: str
    fact: str
    mend: str


def check_data(cfg: Config, dataloaders: Iterable[str]) -> None:
    """Look for the data folders, the files in them and the annotation files that a config names.

    Args:
        cfg: the whole config.
        dataloaders: keys of the data loaders in use.

    Raises:
        FileNotFoundError: If a file or folder is missing, or no file is in a folder; names it and its key.
    """
    for missing in _missing_data(cfg, dataloaders):
        raise FileNotFoundError(f'{missing.key} {missing.fact}')


def check_checkpoints(cfg: Config) -> None:
    """Look for the checkpoints that a training would start from.

    Raises:
        FileNotFoundError: If one is missing; the message names it and its key.
    """
    for key, checkpoint in starting_points(cfg):
        check_checkpoint(key, checkpoint)


def check_checkpoint(key: str, checkpoint: str) -> None:
    """FileNotFoundError if a checkpoint is neither a file, a folder with weights nor an address, ValueError if its
    `#sha256=` is no checksum.
    """
    path, _ = split_checksum(checkpoint)
    if '://' not in path and find_weights(Path(path).expanduser()) is None:
        raise FileNotFoundError(f'{key} names a checkpoint that does not exist: {checkpoint}')


def starting_points(cfg: Config) -> Iterator[tuple[str, str]]:
    """Key and path of every checkpoint that a training would start from."""
    if cfg.get('load_from'):
        yield 'load_from', cfg.get('load_from')
    for key, node in walk(cfg.get('model'), 'model'):
        if node.get('type') == 'Pretrained' and node.get('checkpoint'):
            yield f'{key}.checkpoint', node['checkpoint']


def check_files(cfg: Config, dataloaders: Iterable[str]) -> Iterator[Problem]:
    """All that check_data and check_checkpoints look for."""
    for missing in _missing_data(cfg, (*dataloaders, 'custom_hooks')):
        yield Problem(missing.key, f'{missing.fact}; {missing.mend}')
    for key, checkpoint in starting_points(cfg):
        try:
            check_checkpoint(key, checkpoint)
        except FileNotFoundError as error:
            yield Problem(key, f'{str(error).removeprefix(key).strip()}; run what writes it, or give another path')
        except ValueError as error:
            yield Problem(key, str(error))


def _missing_data(cfg: Config, dataloaders: Iterable[str]) -> Iterator[Missing]:
    for name in dataloaders:
        for key, node in walk(cfg.get(name), name):
            if 'data_root' in node or 'data_prefix' in node:
                yield from _check_data_set(key, node)
            if 'shards' in node:
                yield from _check_shards(key, node)


def _check_data_set(key: str, dataset: dict) -> Iterator[Missing]:
    root = Path(dataset.get('data_root') or '')
    prefixes = dataset.get('data_prefix') or dataset.get('split') or ''
    prefixes = prefixes if isinstance(prefixes, dict) else {'': prefixes}
    if any('://' in str(place) for place in (dataset.get('data_root'), *prefixes.values())):
        return
    if not root.is_dir():
        yield Missing(key, f'names a data folder that does not exist: {root}', 'set data_root to where the data is')
        return
    for kind, prefix in prefixes.items():
        folder = root / (prefix or '')
        suffix = (
            dataset.get(*SEGMENTATION_SUFFIXES[kind])
            if ('seg_map_path' in prefixes and kind in SEGMENTATION_SUFFIXES)
            else ''
        )
        if not folder.is_dir():
            yield Missing(
                key,
                f'names a data folder that does not exist: {folder}',
                f'set data_prefix to a folder in data_root={root}',
            )
        elif not any(path.is_file() and path.name.endswith(suffix) for path in folder.rglob('*')):
            fact = f'names a data folder without any {suffix} file: {folder}'.replace('  ', ' ')
            yield Missing(key, fact, f'put data there{" or set " + SEGMENTATION_SUFFIXES[kind][0] if suffix else ""}')
    annotations = dataset.get('ann_file')
    if annotations and not (root / annotations).is_file():
        yield Missing(
            f'{key}.ann_file',
            f'names a file that does not exist: {root / annotations}',
            'give its path from data_root on',
        )


def _check_shards(key: str, dataset: dict) -> Iterator[Missing]:
    root = Path(dataset.get('data_root') or '').expanduser()
    try:
        paths = [root / Path(shard).expanduser() for shard in expand_shards(dataset['shards'])]
    except (ImportError, ValueError):  # told when the data set is built
        return
    missing = [path for path in paths if not path.is_file()]
    if missing and root.is_dir():
        yield Missing(
            f'{key}.shards',
            f'names {len(missing)} of {len(paths)} files that do not exist, the first: {missing[0]}',
            'set data_root and the numbers in braces to the files there are',
        )
