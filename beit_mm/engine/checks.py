"""Checks of a config's files before anything is built, so that a mistake ends in one sentence at once."""
from pathlib import Path
from typing import Any, Iterable, Iterator, Tuple

from mmengine.config import Config

from ..checkpoint.checksums import split_checksum
from ..checkpoint.reading import find_weights

# What MMSegmentation's data sets look for below each prefix, unless told otherwise.
SEGMENTATION_SUFFIXES = dict(img_path=('img_suffix', '.jpg'), seg_map_path=('seg_map_suffix', '.png'))


def walk(node: Any, key: str) -> Iterator[Tuple[str, dict]]:
    """Every dict at or below a node of a config, outermost first, with its dotted key."""
    if isinstance(node, dict):
        yield key, node
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for name, child in children:
        yield from walk(child, f'{key}.{name}')


def check_data(cfg: Config, dataloaders: Iterable[str]) -> None:
    """Look for the data folders, the files in them and the annotation files that a config names.

    Args:
        cfg: the whole config.
        dataloaders: keys of the data loaders in use.

    Raises:
        FileNotFoundError: If a file or folder is missing, or no file is in a folder; names it and its key.
    """
    for name in dataloaders:
        for key, node in walk(cfg.get(name), name):
            if 'data_root' in node or 'data_prefix' in node:
                _check_data_set(key, node)


def check_checkpoints(cfg: Config) -> None:
    """Look for the checkpoints that a training would start from.

    Raises:
        FileNotFoundError: If one is missing; the message names it and its key.
    """
    for key, checkpoint in starting_points(cfg):
        check_checkpoint(key, checkpoint)


def check_checkpoint(key: str, checkpoint: str) -> None:
    """FileNotFoundError if a checkpoint is neither a file, a folder with weights nor an address, ValueError if its
    `#sha256=` is no checksum."""
    path, _ = split_checksum(checkpoint)
    if '://' not in path and find_weights(Path(path).expanduser()) is None:
        raise FileNotFoundError(f'{key} names a checkpoint that does not exist: {checkpoint}')


def starting_points(cfg: Config) -> Iterator[Tuple[str, str]]:
    """Key and path of every checkpoint that a training would start from."""
    if cfg.get('load_from'):
        yield 'load_from', cfg.load_from
    for key, node in walk(cfg.get('model'), 'model'):
        if node.get('type') == 'Pretrained' and node.get('checkpoint'):
            yield f'{key}.checkpoint', node['checkpoint']


def _check_data_set(key: str, dataset: dict) -> None:
    root = Path(dataset.get('data_root') or '')
    prefixes = dataset.get('data_prefix') or dataset.get('split') or ''
    prefixes = prefixes if isinstance(prefixes, dict) else {'': prefixes}
    is_segmentation = 'seg_map_path' in prefixes
    if any('://' in str(place) for place in (dataset.get('data_root'), *prefixes.values())):
        return
    if not root.is_dir():
        raise FileNotFoundError(f'{key} names a data folder that does not exist: {root}')
    for kind, prefix in prefixes.items():
        folder = root / (prefix or '')
        suffix = ''
        if is_segmentation and kind in SEGMENTATION_SUFFIXES:
            suffix = dataset.get(*SEGMENTATION_SUFFIXES[kind])
        if not folder.is_dir():
            raise FileNotFoundError(f'{key} names a data folder that does not exist: {folder}')
        if not any(path.is_file() and path.name.endswith(suffix) for path in folder.rglob('*')):
            raise FileNotFoundError(f'{key} names a data folder without any {suffix} file: {folder}'.replace('  ', ' '))
    annotations = dataset.get('ann_file')
    if annotations and not (root / annotations).is_file():
        raise FileNotFoundError(f'{key}.ann_file names a file that does not exist: {root / annotations}')
