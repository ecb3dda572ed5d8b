"""Checks of a config's files before anything is built, so that a mistake ends in one sentence at once."""
from pathlib import Path
from typing import Any, Iterable, Iterator, Tuple

from mmengine.config import Config


def check_data(cfg: Config, dataloaders: Iterable[str]) -> None:
    """Look for the data folders and annotation files that a config names.

    Args:
        cfg: the whole config.
        dataloaders: keys of the data loaders in use.

    Raises:
        FileNotFoundError: If a file or folder is missing, or a folder empty; the message names it and its key.
    """
    for name in dataloaders:
        for key, dataset in _data_sets(cfg.get(name), name):
            _check_data_set(key, dataset)


def check_checkpoints(cfg: Config) -> None:
    """Look for the checkpoints that a training would start from.

    Raises:
        FileNotFoundError: If one is missing; the message names it and its key.
    """
    for key, checkpoint in _checkpoints(cfg):
        if '://' not in checkpoint and not Path(checkpoint).expanduser().is_file():
            raise FileNotFoundError(f'{key} names a checkpoint that does not exist: {checkpoint}')


def _data_sets(node: Any, key: str) -> Iterator[Tuple[str, dict]]:
    """Every config with a data_root or data_prefix below a node, with its dotted key."""
    if isinstance(node, dict):
        if 'data_root' in node or 'data_prefix' in node:
            yield key, node
        for name, child in node.items():
            yield from _data_sets(child, f'{key}.{name}')
    elif isinstance(node, (list, tuple)):
        for index, child in enumerate(node):
            yield from _data_sets(child, f'{key}.{index}')


def _check_data_set(key: str, dataset: dict) -> None:
    root = Path(dataset.get('data_root') or '')
    prefixes = dataset.get('data_prefix') or dataset.get('split') or ''
    prefixes = [prefix or '' for prefix in (prefixes.values() if isinstance(prefixes, dict) else [prefixes])]
    if any('://' in place for place in (str(dataset.get('data_root')), *prefixes)):
        return
    for folder in [root, *(root / prefix for prefix in prefixes)]:
        if not folder.is_dir():
            raise FileNotFoundError(f'{key} names a data folder that does not exist: {folder}')
        if not any(folder.iterdir()):
            raise FileNotFoundError(f'{key} names a data folder that is empty: {folder}')
    annotations = dataset.get('ann_file')
    if annotations and not (root / annotations).is_file():
        raise FileNotFoundError(f'{key}.ann_file names a file that does not exist: {root / annotations}')


def _checkpoints(cfg: Config) -> Iterator[Tuple[str, str]]:
    if cfg.get('load_from'):
        yield 'load_from', cfg.load_from
    yield from _pretrained(cfg.get('model'), 'model')


def _pretrained(node: Any, key: str) -> Iterator[Tuple[str, str]]:
    if isinstance(node, dict):
        if node.get('type') == 'Pretrained' and node.get('checkpoint'):
            yield f'{key}.checkpoint', node['checkpoint']
        for name, child in node.items():
            yield from _pretrained(child, f'{key}.{name}')
    elif isinstance(node, (list, tuple)):
        for index, child in enumerate(node):
            yield from _pretrained(child, f'{key}.{index}')
