"""Keys of a config that nothing reads, and keys that a run needs together."""

import ast
import inspect
import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmengine.registry import LOOPS, MODELS
from mmengine.runner import Runner
from mmseg.models import EncoderDecoder
from torch.utils.data import DataLoader

from beit_mm.config.parts import walk
from beit_mm.config.reading import READ
from beit_mm.text import closest, show_start

from .blame import accepted_arguments, find_class, unknown_type
from .problems import Problem, suggest, warn

KNOWN_KEYS = {*READ, *'vis_backends train_pipeline val_pipeline test_pipeline'.split()}  # with the hosts' helpers
CUTOFF = 0.85  # high enough to pass the helper variables of the hosts' configs
LOADER_KEYS = {*inspect.signature(DataLoader).parameters, 'num_batch_per_epoch', 'disable_subprocess_warning'}
WINDOW_KEYS = {'mode', 'crop_size', 'stride', 'windows_per_batch', 'scale_factor', 'subdivision_steps'}  # in test_cfg
UNREAD = 'nothing reads this key'
SECTIONS = dict(
    randomness=set(inspect.signature(Runner.set_randomness).parameters) - {'self'},
    env_cfg={'cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'},
    auto_scale_lr={'enable', 'base_batch_size'},
    train_dataloader=LOADER_KEYS,
    val_dataloader=LOADER_KEYS,
    test_dataloader=LOADER_KEYS,
)


def check_keys(cfg: dict, loaders: Iterable[str]) -> Iterator[Problem]:
    """Unknown keys at the top and in sections without a class, and keys that are missing."""
    for key, value in cfg.items():
        if key in KNOWN_KEYS or not (meant := closest(key, KNOWN_KEYS - {'cfg'}, CUTOFF)):
            continue
        others = repr([other for name, other in cfg.items() if name != key])
        is_helper = isinstance(value, (dict, list, tuple)) and repr(value) in others
        if not is_helper:
            yield Problem(key, f'{UNREAD}, did you mean {meant}?')
    level = cfg.get('log_level')
    if isinstance(level, str) and not isinstance(logging.getLevelName(level), int):
        yield Problem('log_level', f'must be DEBUG, INFO, WARNING, ERROR or CRITICAL, got {level!r}')
    for section, known in SECTIONS.items():
        for name in cfg.get(section) or {}:
            if name not in known and not name.startswith('_'):
                listing = 'it may be one of ' + ', '.join(sorted(known))
                yield Problem(f'{section}.{name}', f'{UNREAD}, {suggest(name, known, listing)}')
    model = cfg.get('model') or {}
    cls = find_class(model, MODELS)
    if isinstance(cls, type) and issubclass(cls, EncoderDecoder) and cls.__module__.startswith(('mmseg.', 'beit_mm.')):
        for name in (model.get('test_cfg') or {}).keys() - WINDOW_KEYS:
            listing = 'it may be one of ' + ', '.join(sorted(WINDOW_KEYS))
            yield warn(f'model.test_cfg.{name}', f'{UNREAD}, {suggest(name, WINDOW_KEYS, listing)}')
    for section, default in (('train_cfg', 'EpochBasedTrainLoop'), ('val_cfg', 'ValLoop'), ('test_cfg', 'TestLoop')):
        yield from _check_loop(section, cfg.get(section) or {}, default)
    for stage, other in (('train', 'optim_wrapper'), ('val', 'val_evaluator'), ('test', 'test_evaluator')):
        keys = (f'{stage}_dataloader', f'{stage}_cfg', other)  # a runner needs all or none
        present = [key for key in keys if cfg.get(key) is not None]
        missing = [key for key in keys if cfg.get(key) is None]
        if present and missing:
            both, verb = ' and '.join(present), 'is' if len(present) == 1 else 'are'
            yield Problem(missing[0], f'missing although {both} {verb} there; add it, or set {both} to None')
    for loader in loaders:
        for name in ('dataset', 'sampler'):
            if name not in cfg[loader] and not (name == 'sampler' and 'batch_sampler' in cfg[loader]):
                yield Problem(f'{loader}.{name}', 'missing, add dict(type=...)')
        yield from _check_classes(cfg, loader)
    hooks = cfg.get('default_hooks') or {}
    for name, hook in hooks.items():
        if isinstance(hook, dict) and 'type' not in hook:
            mend = suggest(name, set(hooks) - {name}, 'add its type')
            yield Problem(f'default_hooks.{name}', f'a hook without a type, {mend}')


def _check_classes(cfg: dict, loader: str) -> Iterator[Problem]:
    """Names of classes that are no list, or stand in it twice."""
    for key, node in walk(cfg[loader], loader):
        classes = (node.get('metainfo') or {}).get('classes')
        if isinstance(classes, str) and not Path(classes).is_file():
            yield Problem(f'{key}.metainfo.classes', f"must be a list, such as ['cat', 'dog'], got {classes!r}")
        elif isinstance(classes, (list, tuple)):
            twice = sorted({str(name) for name in classes if classes.count(name) > 1})
            if twice:
                yield Problem(f'{key}.metainfo.classes', f'must differ, got {", ".join(twice)} twice')


def _check_loop(section: str, loop: dict, default: str) -> Iterator[Problem]:
    """Arguments of a loop, which a dry run does not build."""
    default = 'IterBasedTrainLoop' if loop.get('by_epoch') is False else default
    cls = find_class(dict(dict(type=default), **loop), LOOPS)
    if cls is None:
        yield unknown_type(section, loop['type'], LOOPS)
        return
    known = accepted_arguments(cls) | {'by_epoch'}
    for name, value in loop.items():
        key = f'{section}.{name}'
        if name not in known and name != 'type':
            listing = f'it may be one of {", ".join(sorted(known - {"runner", "dataloader", "evaluator"}))}'
            yield Problem(key, f'{cls.__name__} takes no such argument, {suggest(name, known, listing)}')
        least = dict(max_epochs=1, max_iters=1, val_interval=1, val_begin=0).get(name)
        if least is not None and (type(value) is not int or value < least):
            yield Problem(key, f'must be a whole number of at least {least}, got {value!r}')


def check_variables(text: str) -> Iterator[Problem]:
    """Variables of a base to which a later file gives another value that no file from there on uses.

    Config.text has every file after its own path, bases first.
    """
    _, *parts = re.split(r'^(/.*\.py)$', text or '', flags=re.M)
    paths, files = parts[::2], [ast.parse(part) for part in parts[1::2]]
    used = []  # names in each file, also after `_base_.`
    for file in files:
        nodes = [node for node in ast.walk(file) if isinstance(getattr(node, 'ctx', None), ast.Load)]
        used.append({getattr(node, 'attr', getattr(node, 'id', '')) for node in nodes})
    values: dict[str, tuple[str, str]] = {}
    for index, file in enumerate(files):
        for node in file.body:
            if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
                continue
            name, value = node.targets[0].id, show_start(ast.unparse(node.value), 60)
            old, path = values.setdefault(name, (value, paths[index]))
            if old != value and not any(name in names for names in used[index:]) and name not in {*READ, '_base_'}:
                why = f'{path} sets it to {old}, and other values were computed from that'
                yield warn(name, f'is used by nothing: {why}; set {value} there, or set those values here')
            values[name] = value, paths[index]
