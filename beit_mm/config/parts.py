"""Find and change parts of a config."""

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config

# A Runner adds these by itself, and leaves out those that are None.
OF_MMENGINE = {'runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint'}


def walk(node: Any, key: str) -> Iterator[tuple[str, dict]]:
    """Every dict at or below a node of a config, outermost first, with its dotted key."""
    if isinstance(node, dict):
        yield key, node
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for name, child in children:
        yield from walk(child, f'{key}.{name}')


def get(cfg: Any, key: str) -> Any:
    """The value at a dotted key; None if there is none."""
    for name in key.split('.') if key else ():
        try:
            cfg = cfg[int(name)] if isinstance(cfg, (list, tuple)) else cfg[name]
        except (KeyError, IndexError, TypeError, ValueError):
            return None
    return cfg


def entries(cfg: dict, section: str) -> list[tuple[str, Any]]:
    """Dotted keys and values of a section's parts: it is one part, a list of parts, or an evaluator's metrics."""
    parts = cfg.get(section) or []
    if isinstance(parts, dict) and 'metrics' in parts:
        section, parts = f'{section}.metrics', parts['metrics']
    is_list = isinstance(parts, (list, tuple))
    return [(f'{section}.{index}', part) for index, part in enumerate(parts)] if is_list else [(section, parts)]


def innermost_dataset(loader: dict | None) -> dict | None:
    """The data set inside all wrappers of a loader's config, the first of several; None if there is none."""
    dataset = (loader or {}).get('dataset')
    while dataset and ('dataset' in dataset or dataset.get('datasets')):
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    return dataset


def use_plain_batch_norm(model: dict) -> None:
    """Replace synchronised batch norm, which has no CPU code, by plain batch norm; in evaluation they are equal."""
    for _, node in walk(model, 'model'):
        if node.get('type') == 'SyncBN':
            node['type'] = 'BN'


def pretrained_of(node: dict | None) -> dict | None:
    """The entry of a part's `init_cfg` that names a file of weights; None if there is none."""
    init_cfg = (node or {}).get('init_cfg')
    entries = init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg]
    entries = [entry for entry in entries if isinstance(entry, dict) and entry.get('type') == 'Pretrained']
    return next((entry for entry in entries if entry.get('checkpoint')), None)


def drop_pretrained(model: dict, below: str = 'model') -> None:
    """Remove files of weights, which other weights replace, from the parts with the text `below` in their key."""
    for key, node in walk(model, 'model'):
        if below in key and pretrained_of(node):
            entries = node['init_cfg'] if isinstance(node['init_cfg'], list) else []
            node['init_cfg'] = [entry for entry in entries if entry.get('type') != 'Pretrained'] or None


def drop_left_out(cfg: Config) -> None:
    """Let `default_hooks.NAME=None` leave out any hook; a Runner accepts this only for MMEngine's own."""
    hooks = cfg.get('default_hooks') or {}
    for name in [name for name, hook in hooks.items() if hook is None and name not in OF_MMENGINE]:
        del hooks[name]


def drop_worker_options(cfg: Config) -> None:
    """Let `num_workers=0` of any data loader be enough; torch refuses options of workers without any."""
    for _, node in walk(cfg._cfg_dict, ''):
        if node.get('num_workers') == 0:
            for name in ('persistent_workers', 'prefetch_factor', 'multiprocessing_context', 'timeout'):
                node.pop(name, None)
