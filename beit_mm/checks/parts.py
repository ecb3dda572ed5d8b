"""The parts of a config: every dict with a `type`, and the class that MMEngine's registries would build from it."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from mmengine.registry import (
    DATA_SAMPLERS,
    DATASETS,
    EVALUATOR,
    FUNCTIONS,
    HOOKS,
    LOG_PROCESSORS,
    LOOPS,
    METRICS,
    MODEL_WRAPPERS,
    MODELS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    Registry,
    RUNNERS,
    STRATEGIES,
    TASK_UTILS,
    TRANSFORMS,
    VISBACKENDS,
    VISUALIZERS,
    WEIGHT_INITIALIZERS,
)
from mmpretrain.registry import BATCH_AUGMENTS

from beit_mm.registry import SCOPE

# Where a run looks up the types of its config's keys, and of the keys inside of those.
ROOTS: dict[str, Registry] = dict(
    model=MODELS,
    data_preprocessor=MODELS,
    tta_model=MODELS,
    train_dataloader=DATASETS,
    val_dataloader=DATASETS,
    test_dataloader=DATASETS,
    tta_pipeline=TRANSFORMS,
    train_cfg=LOOPS,
    val_cfg=LOOPS,
    test_cfg=LOOPS,
    optim_wrapper=OPTIM_WRAPPERS,
    param_scheduler=PARAM_SCHEDULERS,
    default_hooks=HOOKS,
    custom_hooks=HOOKS,
    val_evaluator=METRICS,
    test_evaluator=METRICS,
    visualizer=VISUALIZERS,
    log_processor=LOG_PROCESSORS,
    model_wrapper_cfg=MODEL_WRAPPERS,
    strategy=STRATEGIES,
)
INNER: dict[str, Registry] = dict(
    dataset=DATASETS,
    datasets=DATASETS,
    pipeline=TRANSFORMS,
    transforms=TRANSFORMS,
    policies=TRANSFORMS,
    sampler=DATA_SAMPLERS,
    batch_sampler=DATA_SAMPLERS,
    collate_fn=FUNCTIONS,
    worker_init_fn=FUNCTIONS,
    optimizer=OPTIMIZERS,
    init_cfg=WEIGHT_INITIALIZERS,
    augments=BATCH_AUGMENTS,
    vis_backends=VISBACKENDS,
    metrics=METRICS,
)
OTHERS = (EVALUATOR, TASK_UTILS, RUNNERS)
# Parts of a model that surely are built as written; a host may read others by itself, or take arguments out.
MODEL_PARTS = ('model', 'backbone', 'neck', 'head', 'decode_head', 'auxiliary_head', 'data_preprocessor', 'augments')


class Part(NamedTuple):
    """A dict with a `type`.

    Attributes:
        key: dotted key.
        cfg: the dict.
        registry: where its type is looked up first.
        scope: the scope of names without one.
        cls: the class or function that it names; None if there is none.
    """

    key: str
    cfg: dict
    registry: Registry
    scope: str
    cls: Any

    @property
    def place(self) -> str:
        """The last name in the key: `neck` of `model.neck`, `pipeline` of `train_dataloader.dataset.pipeline.3`."""
        return next((name for name in reversed(self.key.split('.')) if not name.isdigit()), '')

    @property
    def name(self) -> str:
        """Name of the class or function, without module."""
        return getattr(self.cls, '__name__', str(self.cfg['type']))

    @property
    def is_sure(self) -> bool:
        """Whether MMEngine's registries surely build the part, and with just these arguments."""
        is_in_model = self.key.startswith(('model', 'tta_model', 'data_preprocessor'))
        return (
            not is_in_model
            or self.place in MODEL_PARTS
            or isinstance(self.cfg['type'], str)
            and self.cfg['type'].startswith(f'{SCOPE}.')
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """What the dict gives to the class."""
        return {name: value for name, value in self.cfg.items() if name != 'type' and not name.startswith('_')}

    def is_a(self, *classes: type) -> bool:
        return isinstance(self.cls, type) and issubclass(self.cls, classes)


def find_parts(cfg: dict) -> list[Part]:
    """All parts of a config in the keys that a run reads, outermost first."""
    scope = cfg.get('default_scope') or ''
    return [part for key, registry in ROOTS.items() for part in _descend(cfg.get(key), key, registry, scope)]


def _descend(node: Any, key: str, registry: Registry, scope: str) -> Iterator[Part]:
    if isinstance(node, dict):
        scope = node.get('_scope_') or scope
        if isinstance(node.get('type'), str) or callable(node.get('type')):
            part = Part(key, node, registry, scope, find_class(node['type'], registry, scope))
            if part.cls is None and not part.is_sure:
                part = part._replace(cls=_find_anywhere(node['type'], scope))
            yield part
            if part.name.startswith('Albu'):  # Albumentations' own types
                return
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for name, child in children:
        yield from _descend(child, f'{key}.{name}', INNER.get(name, registry), scope)


def _find_anywhere(name: Any, scope: str) -> Any:
    """The class in any registry: a loss's `sampler` is no data sampler."""
    for registry in (*ROOTS.values(), *INNER.values(), *OTHERS):
        cls = find_class(name, registry, scope)
        if cls is not None:
            return cls
    return None


def find_class(name: Any, registry: Registry, scope: str) -> Any:
    """What a type names in a registry, as Registry.build finds it; None if nothing.

    Without a default scope, which a host's tool would set, the name may stand in any.
    """
    if not isinstance(name, str):
        return name
    for place in [scope] if scope else ['mmengine', *registry.children]:
        try:
            with registry.switch_scope_and_registry(place) as scoped:
                cls = scoped.get(name)
        except (RuntimeError, ImportError, AttributeError):  # such as of a scope that is no package
            cls = None
        if cls is not None:
            return cls
    return None


def names_of(registry: Registry, scope: str) -> dict[str, str]:
    """All names in a registry as one writes them under a default scope, with the plain name of each."""
    names = {name: name for name in registry.module_dict}
    for child in registry.children.values():
        prefix = '' if child.scope == scope else f'{child.scope}.'
        names.update({f'{prefix}{name}': name for name in child.module_dict})
    return names
