"""Keys of a config that nothing reads, and keys that a run needs together."""

import inspect
from collections.abc import Iterable, Iterator

from mmengine.runner import FlexibleRunner, Runner
from torch.utils.data import DataLoader

from .problems import closest, Problem, suggest

# What launchers and inferencers read besides the runners' arguments; then helper variables of the hosts' configs.
ALSO_READ = """
    runner_type custom_imports model_wrapper_cfg find_unused_parameters sync_bn compile activation_checkpointing
    efficient_conv_bn_eval tta_model tta_pipeline vis_backends train_pipeline val_pipeline test_pipeline
""".split()
KNOWN_KEYS = {*inspect.signature(Runner).parameters, *inspect.signature(FlexibleRunner).parameters, *ALSO_READ}
CUTOFF = 0.85  # so alike that no helper variable of the hosts' configs is taken for a mistake
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
        if key in KNOWN_KEYS or not (meant := closest(key, KNOWN_KEYS - {'cfg'}, CUTOFF)):
            continue
        others = repr([other for name, other in cfg.items() if name != key])
        is_helper = isinstance(value, (dict, list, tuple)) and repr(value) in others
        if not is_helper:
            yield Problem(key, f'nothing reads this key, did you mean {meant}?')
    for section, known in SECTIONS.items():
        for name in cfg.get(section) or {}:
            if name not in known and not name.startswith('_'):
                listing = 'it may be one of ' + ', '.join(sorted(known))
                yield Problem(f'{section}.{name}', f'nothing reads this key, {suggest(name, known, listing)}')
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
    hooks = cfg.get('default_hooks') or {}
    for name, hook in hooks.items():
        if isinstance(hook, dict) and 'type' not in hook:
            mend = suggest(name, set(hooks) - {name}, 'add its type')
            yield Problem(f'default_hooks.{name}', f'a hook without a type, {mend}')
