"""Parts of a config, found and changed wherever they stand."""

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config

# A Runner has these without being told, and leaves out those that are None.
OF_MMENGINE = {'runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint'}


def walk(node: Any, key: str) -> Iterator[tuple[str, dict]]:
    """Every dict at or below a node of a config, outermost first, with its dotted key."""
    if isinstance(node, dict):
        yield key, node
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for name, child in children:
        yield from walk(child, f'{key}.{name}')


def innermost_dataset(loader: dict | None) -> dict | None:
    """The data set of a loader's config inside all wrappers, the first where one joins several; None if there is
    none.
    """
    dataset = (loader or {}).get('dataset')
    while dataset and ('dataset' in dataset or dataset.get('datasets')):
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    return dataset


def use_plain_batch_norm(model: dict) -> None:
    """Replace synchronised batch norm, which has no CPU code and is alike in evaluation, in a model's config."""
    for _, node in walk(model, 'model'):
        if node.get('type') == 'SyncBN':
            node['type'] = 'BN'


def pretrained_of(node: dict | None) -> dict | None:
    """The `init_cfg` of a part that names the file its weights start from, alone or in a list; None without one."""
    init_cfg = (node or {}).get('init_cfg')
    entries = init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg]
    return next((entry for entry in entries if isinstance(entry, dict) and entry.get('type') == 'Pretrained'), None)


def has_pretrained(node: dict | None) -> bool:
    """Whether the config of a part names a file that its weights start from."""
    return pretrained_of(node) is not None


def drop_pretrained(model: dict, below: str = 'model') -> None:
    """Drop from a model's config the files that its parts start from: they may be gone, and other weights replace them.

    Args:
        below: only parts with this in their key.
    """
    for key, node in walk(model, 'model'):
        if below in key and has_pretrained(node):
            entries = node['init_cfg'] if isinstance(node['init_cfg'], list) else []
            node['init_cfg'] = [entry for entry in entries if entry.get('type') != 'Pretrained'] or None


def drop_left_out(cfg: Config) -> None:
    """Let `default_hooks.NAME=None` leave out any hook: the Runner asserts that it is one of MMEngine's own."""
    hooks = cfg.get('default_hooks') or {}
    for name in [name for name, hook in hooks.items() if hook is None and name not in OF_MMENGINE]:
        del hooks[name]
