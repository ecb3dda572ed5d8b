"""Files that a config names: data folders, annotation files, shards, checkpoints and the names of weights in them."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmengine.config import Config
from torch import nn

from beit_mm.checkpoint.reading import find_weights, read_names, split_checksum
from beit_mm.config.parts import walk
from beit_mm.datasets.webdataset import expand_shards
from beit_mm.models.weight_layouts import find_layouts

from .problems import Problem, suggest

# What MMSegmentation's data sets look for below each prefix by default.
SUFFIXES = dict(img_path=('img_suffix', '.jpg'), seg_map_path=('seg_map_suffix', '.png'))


def check_data(cfg: Config, dataloaders: Iterable[str]) -> None:
    """FileNotFoundError if a data folder or annotation file that a config names is missing, or a folder is empty."""
    for problem in _missing_data(cfg, dataloaders):
        raise FileNotFoundError(str(problem))


def check_checkpoint(key: str, checkpoint: str) -> None:
    """FileNotFoundError if a checkpoint is neither a file, a folder with weights nor an address, ValueError if its
    `#sha256=` is no checksum.
    """
    path, _ = split_checksum(checkpoint)
    if '://' not in path and find_weights(Path(path).expanduser()) is None:
        raise FileNotFoundError(f'{key} names a checkpoint that does not exist: {checkpoint}')


def check_files(cfg: dict, dataloaders: Iterable[str]) -> Iterator[Problem]:
    """Data and checkpoints that a config names and that are not there."""
    yield from _missing_data(cfg, (*dataloaders, 'custom_hooks'))
    starts = {'load_from': cfg.get('load_from')}
    for key, node in walk(cfg.get('model'), 'model'):
        if node.get('type') == 'Pretrained':
            starts[f'{key}.checkpoint'] = node.get('checkpoint')
    for key, checkpoint in starts.items():
        try:
            if checkpoint:
                check_checkpoint(key, checkpoint)
        except FileNotFoundError as error:
            yield Problem(key, f'{str(error).removeprefix(key).strip()}; run what writes it, or give another path')
        except ValueError as error:
            yield Problem(key, str(error))


def _missing_data(cfg: dict, dataloaders: Iterable[str]) -> Iterator[Problem]:
    for name in dataloaders:
        for key, node in walk(cfg.get(name), name):
            if 'data_root' in node or 'data_prefix' in node:
                yield from _missing_folders(key, node)
            if 'shards' in node:
                yield from _missing_shards(key, node)


def _missing_folders(key: str, dataset: dict) -> Iterator[Problem]:
    root = Path(dataset.get('data_root') or '')
    prefixes = dataset.get('data_prefix') or dataset.get('split') or ''
    prefixes = prefixes if isinstance(prefixes, dict) else {'': prefixes}
    if any('://' in str(path) for path in (dataset.get('data_root'), *prefixes.values())):
        return
    if not root.is_dir():
        yield Problem(key, f'names a data folder that does not exist: {root}; set data_root to where the data is')
        return
    for path, prefix in prefixes.items():
        folder = root / (prefix or '')
        name, default = SUFFIXES[path] if 'seg_map_path' in prefixes and path in SUFFIXES else ('', '')
        suffix = dataset.get(name, default) if name else ''
        if not folder.is_dir():
            mend = f'set data_prefix to a folder in data_root={root}'
            yield Problem(key, f'names a data folder that does not exist: {folder}; {mend}')
        elif not any(path.is_file() and path.name.endswith(suffix) for path in folder.rglob('*')):
            what = f'any {suffix} file' if suffix else 'any file'
            mend = f'put data there or set {name}' if name else 'put data there'
            yield Problem(key, f'names a data folder without {what}: {folder}; {mend}')
    annotations = dataset.get('ann_file')
    if annotations and not (root / annotations).is_file():
        mend = 'give its path from data_root on'
        yield Problem(f'{key}.ann_file', f'names a file that does not exist: {root / annotations}; {mend}')


def _missing_shards(key: str, dataset: dict) -> Iterator[Problem]:
    root = Path(dataset.get('data_root') or '').expanduser()
    try:
        paths = [root / Path(shard).expanduser() for shard in expand_shards(dataset['shards'])]
    except (ImportError, ValueError):  # the data set says it when it is built
        return
    missing = [path for path in paths if not path.is_file()]
    if missing and root.is_dir():
        fact = f'names {len(missing)} of {len(paths)} files that do not exist, the first: {missing[0]}'
        yield Problem(f'{key}.shards', f'{fact}; set data_root and the numbers in braces to the files there are')


def check_weights(cfg: dict, model: nn.Module | None) -> Iterator[Problem]:
    """`init_cfg` prefixes under which a checkpoint holds nothing, and a `load_from` without any name of the model."""
    for key, node in walk(cfg.get('model'), 'model'):
        prefix, path = node.get('prefix'), node.get('checkpoint')
        if not isinstance(path, str) or not isinstance(prefix, str):
            continue
        names = _our_names(path)
        if names is not None and not any(name.startswith(f'{prefix.rstrip(".")}.') for name in names):
            held = _prefixes(names)
            mend = f"it holds {', '.join(held[:4])}; name another file, or prefix=None for a trunk's own"
            yield Problem(f'{key}.prefix', f'{prefix} is not in {path}; {suggest(prefix, held, mend)}')
    path = cfg.get('load_from')
    if not isinstance(path, str) or model is None:
        return
    names = _our_names(path)
    if names is not None and not set(model.state_dict()) & {name.removeprefix('module.') for name in names}:
        listing = ', '.join(_prefixes(names)[:4]) or 'other names'
        what = f'{path} holds no tensor of this {type(model).__name__}'
        yield Problem('load_from', f'{what}, it holds {listing}; name a checkpoint of this model')


def _prefixes(names: set[str]) -> list[str]:
    """First words of names, the most frequent first."""
    counts = Counter(name.split('.')[0] for name in sorted(names) if '.' in name)
    return [f'{word}.' for word, _ in counts.most_common()]


def _our_names(checkpoint: str) -> set[str] | None:
    """Names of the tensors in a checkpoint as a model gets them: BEiT's under ours, from any layout.

    Only a file's list of contents is read, which takes milliseconds. None for addresses, folders and other formats.
    """
    try:
        names = read_names(Path(split_checksum(checkpoint)[0]).expanduser())
    except Exception:  # no such file, or a damaged one: the loader says so
        return None
    for layout, prefix, _ in find_layouts(names):
        return {layout.our_name(other, prefix) or other for other in names}
    return names
