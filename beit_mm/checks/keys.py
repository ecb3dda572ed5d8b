"""Checks of names: top-level keys, types, and arguments that reach nothing."""

import inspect
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import Any

import torch
from mmengine.registry import HOOKS, LOOPS, METRICS, OPTIM_WRAPPERS, PARAM_SCHEDULERS, TRANSFORMS, WEIGHT_INITIALIZERS
from mmengine.runner import FlexibleRunner, Runner
from torch.utils.data import DataLoader

from beit_mm.models import BEiT

from .arguments import accepted_arguments
from .parts import find_class, names_of, Part
from .problems import closest, Problem, suggest

# What the runners read beside their arguments, and what launchers, inferencers and this package read.
ALSO_READ = (
    'runner_type',
    'custom_imports',
    'model_wrapper_cfg',
    'find_unused_parameters',
    'sync_bn',
    'compile',
    'activation_checkpointing',
    'efficient_conv_bn_eval',
    'tta_model',
    'tta_pipeline',
    'vis_backends',
)
HELPERS = ('train_pipeline', 'val_pipeline', 'test_pipeline')  # of the hosts' configs, nearly `tta_pipeline`
KNOWN_KEYS = sorted(
    {*inspect.signature(Runner).parameters, *inspect.signature(FlexibleRunner).parameters, *ALSO_READ} - {'cfg'}
)
# So alike that no helper variable of the hosts' configs is taken for a mistake (`test_pipeline`, `val_dataset`).
KEY_CUTOFF = 0.85
# For an argument that a class may take all the same.
NEAR_CUTOFF = 0.9
# What the builders take out before the class sees it.
TAKEN_BY_BUILDERS = {
    HOOKS: {'priority'},
    PARAM_SCHEDULERS: {'convert_to_iter_based'},
    OPTIM_WRAPPERS: {'constructor', 'paramwise_cfg'},
    WEIGHT_INITIALIZERS: {'override'},
    LOOPS: {'by_epoch'},
}
BUILT_AS_WRITTEN = (TRANSFORMS, HOOKS, METRICS)
FIXED_KEYS = dict(
    randomness={*inspect.signature(Runner.set_randomness).parameters} - {'self'},
    env_cfg={'cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'},
    auto_scale_lr={'enable', 'base_batch_size'},
)
LOADER_KEYS = {*inspect.signature(DataLoader).parameters, 'num_batch_per_epoch', 'disable_subprocess_warning'}
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
# What this package calls what others call so.
OTHER_WORDS = dict(
    num_layers='depth',
    init_values='layer_scale_init_value',
    in_chans='in_channels',
    arch='embed_dim, depth and num_heads',
)


def check_top_level(cfg: dict) -> Iterator[Problem]:
    """Keys that nothing reads and that are nearly one that is read; other helper variables are fine."""
    for key, value in cfg.items():
        meant = closest(key, KNOWN_KEYS, KEY_CUTOFF) if key not in (*KNOWN_KEYS, *HELPERS) else ''
        if meant and not _is_used(key, value, cfg):
            yield Problem(key, f'nothing reads this key, did you mean {meant}?')
    for key, known in FIXED_KEYS.items():
        yield from _unknown_keys(key, cfg.get(key), known)
    for key in LOADERS:
        yield from _unknown_keys(key, cfg.get(key), LOADER_KEYS)


def _is_used(key: str, value: Any, cfg: dict) -> bool:
    """Whether a helper variable's value, other than a plain number or text, stands somewhere else in the config."""

    def holds(node: Any) -> bool:
        if node == value:
            return True
        children = node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ()
        return any(holds(child) for child in children)

    return isinstance(value, (dict, list, tuple)) and any(holds(node) for name, node in cfg.items() if name != key)


def _unknown_keys(key: str, node: Any, known: Iterable[str]) -> Iterator[Problem]:
    if isinstance(node, dict) and 'type' not in node:
        for name in node:
            if name not in known and not name.startswith('_'):
                yield Problem(
                    f'{key}.{name}',
                    f'nothing reads this key, {suggest(name, known, "it may be one of " + ", ".join(sorted(known)))}',
                )


def check_parts(parts: list[Part]) -> Iterator[Problem]:
    """Types that name no class, arguments that their class does not take, and those that it needs."""
    strangers = [part for part in parts if part.cls is None]
    scope = _other_scope(strangers)
    if scope:
        first = strangers[0]
        yield Problem(
            'default_scope',
            f'{len(strangers)} types, {first.cfg["type"]} ({first.key}) among them, are not '
            f'of {first.scope!r} but of {scope!r}; set default_scope={scope!r}',
        )
        strangers = []
    for part in strangers:
        yield from _check_type(part)
    for part in parts:
        if part.cls is not None and part.place != 'upsample_cfg':  # read by MMCV, which adds and takes arguments
            yield from _check_arguments(part)


def _other_scope(strangers: list[Part]) -> str:
    """The one scope in which several types are registered, all that are unknown; empty if there is none."""
    scopes = set.intersection(*map(_scopes, strangers)) if len(strangers) > 3 else set()
    return scopes.pop() if len(scopes) == 1 else ''


def _scopes(part: Part) -> set[str]:
    """Where a type's name is registered, or else the name nearest to it."""
    plain = part.cfg['type'].rpartition('.')[2]
    scopes = {
        full.rpartition('.')[0] for full in names_of(part.registry, part.scope) if full.rpartition('.')[2] == plain
    }
    return scopes or {_meant_type(part).rpartition('.')[0]}


def _meant_type(part: Part) -> str:
    """The registered name that a type is, but for its scope, or nearly is; empty if there is none."""
    name = part.cfg['type']
    known = names_of(part.registry, part.scope)
    plain = {full.rpartition('.')[2]: full for full in known}
    return (
        plain.get(name.rpartition('.')[2])
        or closest(name, known)
        or plain.get(closest(name.rpartition('.')[2], plain), '')
    )  # a scope forgotten and a letter wrong


def _check_type(part: Part) -> Iterator[Problem]:
    """A type that is registered nowhere; in the depths of a model, where a host may read it itself, only if it is
    nearly one that is.
    """
    name = part.cfg['type']
    package = name.partition('.')[0]
    if '.' in name and find_spec(package) is None:
        yield Problem(f'{part.key}.type', f'{name} is of a package that is not installed; install {package}')
    elif part.is_sure or closest(name, names_of(part.registry, part.scope), KEY_CUTOFF):
        meant = _meant_type(part)
        mend = (
            f'did you mean {meant}?'
            if meant
            else ('custom_imports must name the module that registers it, or a package that it needs is missing')
        )
        yield Problem(
            f'{part.key}.type',
            f'no {part.registry.name} {name!r} is registered for default_scope {part.scope or None!r}, {mend}',
        )


def _check_arguments(part: Part) -> Iterator[Problem]:
    accepted = accepted_arguments(part.cls)
    is_sure = part.is_sure and accepted.are_all
    taken = {name for registry, names in TAKEN_BY_BUILDERS.items() if registry is part.registry for name in names}
    if 'norm' in part.place:
        taken.add('requires_grad')
    if part.place == 'policies':  # RandAugment's
        taken.update(('magnitude_key', 'magnitude_range'))
    unknown = sorted(set(part.arguments) - accepted.names - taken)
    namesake = _namesake_that_takes(part) if is_sure and len(unknown) > 1 else ''
    if namesake:
        yield Problem(
            f'{part.key}.type',
            f'the {part.name} of {part.cls.__module__.partition(".")[0]} takes no '
            f'{unknown[0]}, did you mean {namesake}?',
        )
        return
    for name in unknown:
        meant = OTHER_WORDS.get(name) if part.cls is BEiT else None
        meant = meant or closest(name, accepted.names, 0.7 if is_sure else NEAR_CUTOFF)
        if meant or is_sure:
            mend = f'did you mean {meant}?' if meant else f'remove it (it takes {_listing(accepted.names)})'
            yield Problem(f'{part.key}.{name}', f'{part.name} takes no such argument, {mend}')
    yield from _check_required(part)


def _namesake_that_takes(part: Part) -> str:
    """Another class of the same name that takes all the arguments: `BEiT` is three of them."""
    for full in names_of(part.registry, part.scope):
        if full.rpartition('.')[2] == part.name:
            cls = find_class(full, part.registry, part.scope)
            if cls not in (None, part.cls) and set(part.arguments) <= accepted_arguments(cls).names:
                return full
    return ''


def _check_required(part: Part) -> Iterator[Problem]:
    if part.registry in BUILT_AS_WRITTEN and inspect.isclass(part.cls):
        for name, parameter in inspect.signature(part.cls).parameters.items():
            if (
                parameter.default is parameter.empty
                and name not in part.arguments
                and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            ):
                yield Problem(part.key, f'{part.name} needs the argument {name}, add it')


def _listing(names: Iterable[str]) -> str:
    names = sorted(names)
    return (', '.join(names[:12]) + (', ...' if len(names) > 12 else '')) or 'none'


def check_sections(cfg: dict, loaders: Iterable[str]) -> Iterator[Problem]:
    """Keys that a runner wants together, and what a loader, a hook and an optimiser cannot do without."""
    for stage, others in (('train', ('optim_wrapper',)), ('val', ('val_evaluator',)), ('test', ('test_evaluator',))):
        keys = (f'{stage}_dataloader', f'{stage}_cfg', *others)
        given = [key for key in keys if cfg.get(key) is not None]
        if given and len(given) < len(keys):
            missing = [key for key in keys if key not in given]
            yield Problem(
                missing[0],
                f'missing although {" and ".join(given)} {"is" if len(given) == 1 else "are"} '
                f'given, add it or set {" and ".join(given)} to None',
            )
    for key in loaders:
        loader = cfg.get(key)
        if isinstance(loader, dict):
            yield from _check_loader(key, loader)
    for name, hook in (cfg.get('default_hooks') or {}).items():
        if isinstance(hook, dict) and 'type' not in hook:
            yield Problem(
                f'default_hooks.{name}',
                'a hook without a type, ' + suggest(name, set(cfg['default_hooks']) - {name}, 'add its type'),
            )
    wrapper = cfg.get('optim_wrapper')
    if isinstance(wrapper, dict) and 'optimizer' not in wrapper and 'constructor' not in wrapper:
        yield Problem('optim_wrapper.optimizer', 'missing, add dict(type=..., lr=...)')


def _check_loader(key: str, loader: dict) -> Iterator[Problem]:
    for name in ('dataset', 'sampler'):
        if name not in loader and not (name == 'sampler' and 'batch_sampler' in loader):
            yield Problem(f'{key}.{name}', 'missing, add dict(type=...)')
    size = loader.get('batch_size', 1)
    if not isinstance(size, int) or size < 1:
        yield Problem(f'{key}.batch_size', f'must be a whole number of at least 1, got {size!r}')
    if not loader.get('num_workers') and loader.get('persistent_workers'):
        yield Problem(f'{key}.persistent_workers', 'needs num_workers above 0, set it to False or num_workers to 1')


def check_clip_grad(cfg: dict) -> Iterator[Problem]:
    """Arguments of gradient clipping, which MMEngine would meet at the first step only."""
    wrapper = cfg.get('optim_wrapper')
    clip_grad = wrapper.get('clip_grad') if isinstance(wrapper, dict) else None
    if isinstance(clip_grad, dict):
        kinds = dict(norm=torch.nn.utils.clip_grad_norm_, value=torch.nn.utils.clip_grad_value_)
        kind = clip_grad.get('type', 'norm')
        if kind not in kinds:
            yield Problem('optim_wrapper.clip_grad.type', f"must be 'norm' or 'value', got {kind!r}")
            return
        known = {*inspect.signature(kinds[kind]).parameters} - {'parameters'}
        for name in set(clip_grad) - known - {'type'}:
            yield Problem(
                f'optim_wrapper.clip_grad.{name}',
                f'{kinds[kind].__name__} takes no such argument, '
                f'{suggest(name, known, "it takes " + ", ".join(sorted(known)))}',
            )
        required = dict(norm='max_norm', value='clip_value')[kind]
        if required not in clip_grad and set(clip_grad) <= known | {'type'}:
            yield Problem('optim_wrapper.clip_grad', f'needs {required}, add it')
