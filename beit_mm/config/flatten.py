"""A config as one text without bases, for projects that cannot inherit ours and tools that compare type names."""

import warnings
from collections.abc import Iterator
from pathlib import Path

from mmengine import registry
from mmengine.config import Config
from mmengine.utils import get_object_from_string

from beit_mm.config.parts import walk
from beit_mm.config.reading import read_config, unread_options
from beit_mm.errors import UnreadOption, UserError
from beit_mm.files import atomic_write
from beit_mm.registry import SCOPE

ROOTS = [value for value in vars(registry).values() if isinstance(value, registry.Registry)]


def flatten(path: str | Path, options: dict | None = None) -> Config:
    """A config of text style (`_base_`) or pure-Python style (`read_base`) as a text config without bases.

    Imported types become their registered names in the config's default scope or in ours, since inferencers compare
    such names. An unregistered type stays `module.Class`. Errors: see `read_config`.
    """
    cfg = read_config(path, options, 'options')
    for key, sentence in unread_options(cfg, options).items():
        warnings.warn(f'{key} {sentence}', UnreadOption, stacklevel=2)
    flat = Config(cfg.to_dict())
    drop_scope_stamps(flat)
    for node in _dicts(flat):
        if isinstance(node.get('type'), str) and node['type'].count('.') > 1:
            node['type'] = registered_name(node['type'], flat.get('default_scope'))
    if any(str(node.get('type')).startswith(f'{SCOPE}.') for node in _dicts(flat)):  # a text config must import ours
        imports = dict(flat.get('custom_imports') or dict(imports=[]))
        names = [imports['imports']] if isinstance(imports['imports'], str) else list(imports['imports'])
        flat.custom_imports = dict(imports, imports=names if SCOPE in names else [*names, SCOPE])
    return flat


def drop_scope_stamps(cfg: Config) -> None:
    """Remove `_scope_='beit_mm'`, which MMEngine adds to all parts inherited by `beit_mm::...`, in place.

    It would look for the hosts' types among ours. Our types name their scope themselves.
    """
    for node in _dicts(cfg):
        if node.get('_scope_') == SCOPE:
            del node['_scope_']


def registered_name(path: str, scope: str | None) -> str:
    """The short name of `package.module.Class` in a default scope, such as 'beit_mm.BEiT'; the path if it has none."""
    cls = get_object_from_string(path)
    if cls is None:
        return path
    name = getattr(cls, '__name__', None)
    for root in ROOTS:
        # MMEngine's order: the registry of the scope, then the root.
        registries = [root.children[scope]] if scope in root.children else []
        classes = [group.module_dict[name] for group in (*registries, root) if name in group.module_dict]
        if classes and classes[0] is cls:
            return name
        if SCOPE in root.children and root.children[SCOPE].module_dict.get(name) is cls:
            return f'{SCOPE}.{name}'
    return path


def write(cfg: Config, path: str | Path, header: str) -> None:
    """Write a config to a new .py file under a comment, and read it back; ValueError if a value is not text."""
    target = Path(path)
    if target.suffix != '.py':
        raise UserError(f'a config is written to a .py file, got {path}')
    if target.exists():
        raise FileExistsError(f'{path} exists and is not overwritten')
    try:
        with atomic_write(target) as temporary:
            temporary.write_text(f'# {header}\n{cfg.pretty_text}')
            if Config.fromfile(temporary, import_custom_modules=False).to_dict() != cfg.to_dict():
                raise UserError('a config must be the same when it is read back from its text, got a difference')
    except (NameError, SyntaxError) as error:  # such as a function, or a number that is not finite
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f'a config must hold numbers, texts, lists and dicts, got {reason}') from error


def _dicts(cfg: Config) -> Iterator[dict]:
    for key in cfg:
        yield from (node for _, node in walk(cfg[key], key))
