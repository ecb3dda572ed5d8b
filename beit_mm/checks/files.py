"""Files that a config names: data folders, annotation files, shards, checkpoints and the names of weights in them."""

import inspect
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import DATASETS, WEIGHT_INITIALIZERS
from torch import nn

from beit_mm.checkpoint.downloads import HUB
from beit_mm.checkpoint.reading import find_weights, hint_at_weights, read_names, split_checksum
from beit_mm.config.parts import entries, walk
from beit_mm.datasets.listing import iterate_files, LeftOut, name_suffixes
from beit_mm.datasets.webdataset import expand_shards
from beit_mm.errors import UserError
from beit_mm.models.layout import first_words
from beit_mm.models.weight_layouts import find_layouts
from beit_mm.text import hint_at_path, show

from .blame import blame, find_class
from .problems import Problem, suggest

# The argument of MMSegmentation's data sets that has the suffix of the files below each prefix.
SUFFIXES = dict(img_path='img_suffix', seg_map_path='seg_map_suffix')
MAX_NAMED = 5  # folders in a sentence
WITHOUT_LABELS = 'for images without labels there is beit-mm {}'


def check_data(cfg: Config, dataloaders: Iterable[str]) -> None:
    """FileNotFoundError if a data folder or annotation file that a config names is missing, or a folder is empty;
    UserError if an evaluation has no labels.
    """
    for problem in _missing_data(cfg, dataloaders):
        raise FileNotFoundError(str(problem))
    for problem in _missing_labels(cfg, dataloaders):
        raise UserError(str(problem))


def check_checkpoint(key: str, checkpoint: str) -> None:
    """FileNotFoundError if a checkpoint is neither a file, a folder with weights nor an address, ValueError if it is
    an empty text or its `#sha256=` is no checksum.
    """
    path, _ = split_checksum(checkpoint)
    if not path:
        raise UserError(f'{key} must name a checkpoint, got an empty text')
    if '://' in path or path.startswith(HUB):
        return
    if find_weights(Path(path).expanduser()) is None:
        mend = hint_at_weights(path) or hint_at_path(path)
        what = 'a folder without weights' if Path(path).is_dir() else 'a checkpoint that does not exist'
        raise FileNotFoundError(f'{key} names {what}: {checkpoint}{mend}')


def check_files(cfg: dict, dataloaders: Iterable[str]) -> Iterator[Problem]:
    """Data and checkpoints that a config names and that are not there."""
    yield from _missing_data(cfg, (*dataloaders, 'custom_hooks'))
    yield from _missing_labels(cfg, dataloaders)
    starts = {'load_from': cfg.get('load_from')}
    for key, node in walk(cfg.get('model'), 'model'):
        if node.get('type') == 'Pretrained':
            starts[f'{key}.checkpoint'] = node.get('checkpoint')
    for key, checkpoint in starts.items():
        try:
            if checkpoint or key == 'load_from' and checkpoint is not None:  # init_cfg without a name is no start
                check_checkpoint(key, checkpoint)
        except FileNotFoundError as error:
            fact = str(error).removeprefix(key).strip()
            yield Problem(key, fact if fact.endswith('?') else f'{fact}; run what writes it, or give another path')
        except ValueError as error:
            yield Problem(key, str(error).removeprefix(key).strip())


def check_starts(cfg: dict) -> Iterator[Problem]:
    """Arguments of `init_cfg`, which a model reads only when its training starts."""
    for owner, part in walk(cfg.get('model'), 'model'):
        init_cfg = part.get('init_cfg')
        if not isinstance(init_cfg, (dict, list, type(None))):
            yield Problem(f'{owner}.init_cfg', f'must be a dict or a list of dicts, got {init_cfg!r}')
        for key, node in walk(init_cfg, f'{owner}.init_cfg'):
            if 'type' not in node and '.override' in key:  # it has that of the entry around it
                continue
            try:
                WEIGHT_INITIALIZERS.build({name: node[name] for name in node if name not in ('name', 'override')})
            except Exception as error:
                yield blame(error, cfg, key)


def _missing_data(cfg: dict, dataloaders: Iterable[str]) -> Iterator[Problem]:
    for name in dataloaders:
        for key, node in walk(cfg.get(name), name):
            if 'data_root' in node or 'data_prefix' in node:
                yield from _missing_folders(key, node)
            if 'shards' in node:
                yield from _missing_shards(key, node)


def _missing_labels(cfg: dict, dataloaders: Iterable[str]) -> Iterator[Problem]:
    """Validations and tests of images without labels."""
    for loader in dataloaders:
        metrics = entries(cfg, loader.replace('dataloader', 'evaluator')) if loader != 'train_dataloader' else []
        types = {str(metric.get('type')).rpartition('.')[2] for _, metric in metrics if not metric.get('format_only')}
        for key, node in walk(cfg.get(loader), loader):
            prefixes, steps = node.get('data_prefix'), node.get('pipeline')
            lacks_maps = isinstance(prefixes, dict) and 'img_path' in prefixes and prefixes.get('seg_map_path') is None
            if 'IoUMetric' in types and steps and (lacks_maps or 'Annotations' not in str(steps)):
                what = 'data_prefix has no seg_map_path' if lacks_maps else 'the pipeline has no LoadAnnotations'
                yield Problem(key, f'no label maps to compare with, since {what}; {WITHOUT_LABELS.format("segment")}')
            if types & {'Accuracy', 'SingleLabelMetric'} and node.get('with_label') is False:
                what = 'no labels to compare with, since with_label=False'
                yield Problem(key, f'{what}; {WITHOUT_LABELS.format("classify")}')


def _missing_folders(key: str, dataset: dict) -> Iterator[Problem]:
    root = Path(dataset.get('data_root') or '')
    prefixes = dataset.get('data_prefix') or dataset.get('split') or ''
    prefixes = prefixes if isinstance(prefixes, dict) else {'': prefixes}
    if any('://' in str(path) for path in (dataset.get('data_root'), *prefixes.values())):
        return
    if not root.is_dir():
        mend = f'set data_root to where the data is{hint_at_path(root)}'
        yield Problem(key, f'names a data folder that does not exist: {root}; {mend}')
        return
    for path, prefix in prefixes.items():
        folder = root / (prefix or '')
        name = SUFFIXES.get(path, '') if 'seg_map_path' in prefixes else ''
        suffixes = _suffixes(dataset, name or 'extensions')
        left_out = LeftOut()
        if not folder.is_dir():
            others = ', '.join(sorted(show(entry.name) for entry in root.iterdir() if entry.is_dir())[:MAX_NAMED])
            mend = f'set data_prefix to a folder in data_root={root}{others and f" ({others})"}'
            if key.startswith('val'):
                mend += '; --no-validate trains without these images'
            if path == 'seg_map_path' and not key.startswith('train'):
                mend += f'; {WITHOUT_LABELS.format("segment")}'
            yield Problem(key, f'names a data folder that does not exist: {folder}; {mend}')
        elif not dataset.get('ann_file') and not any(iterate_files(str(folder), suffixes, left_out)):
            what = f'any {name_suffixes(suffixes)} file' if any(suffixes) else 'any file'
            mend = f'put data there or set {name}' if name else 'put data there'
            others = f'; it holds {left_out}' if left_out else ''
            yield Problem(key, f'names a data folder without {what}: {folder}; {mend}{others}')
    annotations = dataset.get('ann_file')
    if annotations and not (root / annotations).is_file():
        mend = 'give its path from data_root on'
        yield Problem(f'{key}.ann_file', f'names a file that does not exist: {root / annotations}; {mend}')


def _suffixes(dataset: dict, argument: str) -> Sequence[str]:
    """Suffixes of the files that a data set reads, from its argument or the default of its class; '' for any file."""
    suffixes, cls = dataset.get(argument), find_class(dataset, DATASETS)
    for base in inspect.getmro(cls)[:-1] if inspect.isclass(cls) else ():
        parameter = inspect.signature(vars(base).get('__init__', _missing_folders)).parameters.get(argument)
        suffixes = suffixes or (parameter.default if parameter else None)
    return (suffixes,) if isinstance(suffixes, str) else suffixes or ('',)


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
            held = first_words(names)
            mend = f"it holds {', '.join(held[:4])}; name another file, or prefix=None for a trunk's own"
            yield Problem(f'{key}.prefix', f'{prefix} is not in {path}; {suggest(prefix, held, mend)}')
    path = cfg.get('load_from')
    if not isinstance(path, str) or model is None:
        return
    names = _our_names(path)
    if names is not None and not set(model.state_dict()) & {name.removeprefix('module.') for name in names}:
        listing = ', '.join(first_words(names)[:4]) or 'other names'
        what = f'{path} holds no tensor of this {type(model).__name__}'
        yield Problem('load_from', f'{what}, it holds {listing}; name a checkpoint of this model')


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
