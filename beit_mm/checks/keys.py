"""Keys of a config that nothing reads, and keys that a run needs together."""

import inspect
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from mmengine.runner import FlexibleRunner, Runner
from torch.utils.data import DataLoader

from .problems import closest, Problem, suggest

# What runners, launchers and inferencers read besides the runners' arguments.
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
KNOWN_KEYS = {*inspect.signature(Runner).parameters, *inspect.signature(FlexibleRunner).parameters, *ALSO_READ}
# So alike that no helper variable of the hosts' configs is taken for a mistake.
CUTOFF = 0.85
LOADER_KEYS = {*inspect.signature(DataLoader).parameters, 'num_batch_per_epoch', 'disable_subprocess_warning'}
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
        meant = closest(key, KNOWN_KEYS - {'cfg'}, CUTOFF) if key not in KNOWN_KEYS and key not in HELPERS else ''
        if meant and not _is_used(key, value, cfg):
            yield Problem(key, f'nothing reads this key, did you mean {meant}?')
    for section, known in SECTIONS.items():
        for name in cfg.get(section) or {}:
            if name not in known and not name.startswith('_'):
                listing = 'it may be one of ' + ', '.join(sorted(known))
                yield Problem(f'{section}.{name}', f'nothing reads this key, {suggest(name, known, listing)}')
    yield from _check_stages(cfg)
    for loader in loaders:
        for name in ('dataset', 'sampler'):
            if name not in cfg[loader] and not (name == 'sampler' and 'batch_sampler' in cfg[loader]):
                yield Problem(f'{loader}.{name}', 'missing, add dict(type=...)')
    hooks = cfg.get('default_hooks') or {}
    for name, hook in hooks.items():
        if isinstance(hook, dict) and 'type' not in hook:
            mend = suggest(name, set(hooks) - {name}, 'add its type')
            yield Problem(f'default_hooks.{name}', f'a hook without a type, {mend}')


def _is_used(key: str, value: Any, cfg: dict) -> bool:
    """Whether a helper variable's value, other than a plain number or text, stands somewhere else in the config."""

    def holds(node: Any) -> bool:
        children = node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ()
        return node == value or any(holds(child) for child in children)

    return isinstance(value, (dict, list, tuple)) and any(holds(node) for name, node in cfg.items() if name != key)


def _check_stages(cfg: dict) -> Iterator[Problem]:
    """Keys that a runner wants together."""
    for stage, other in (('train', 'optim_wrapper'), ('val', 'val_evaluator'), ('test', 'test_evaluator')):
        keys = (f'{stage}_dataloader', f'{stage}_cfg', other)
        present = [key for key in keys if cfg.get(key) is not None]
        missing = [key for key in keys if cfg.get(key) is None]
        if present and missing:
            both, verb = ' and '.join(present), 'is' if len(present) == 1 else 'are'
            yield Problem(missing[0], f'missing although {both} {verb} there; add it, or set {both} to None')


def join_scope_mistakes(problems: list[Problem]) -> list[Problem]:
    """One problem instead of many where several types are unknown in the default scope and known in another."""
    pattern = re.compile(r"no .* '(.+)' is registered for default_scope '(.+)'; did you mean (\w+)\.(\w+)\?")
    unknown = [(problem, match) for problem in problems if (match := pattern.match(problem.sentence))]
    unknown = [(problem, match) for problem, match in unknown if match[1] == match[4]]
    scopes = Counter(match[3] for _, match in unknown)
    scope, count = scopes.most_common(1)[0] if scopes else ('', 0)
    if count < 2:
        return problems
    match = unknown[0][1]
    types = ' and '.join(match[1] for _, match in unknown[:2])
    joined = Problem('default_scope', f'{types} are not of {match[2]!r} but of {scope!r}; set default_scope={scope!r}')
    return [joined, *(problem for problem in problems if problem not in [problem for problem, _ in unknown])]
