"""Checks of the optimiser: parameter patterns that match nothing and options that its constructor does not read."""

from collections.abc import Iterable, Iterator

import torch
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmpretrain.engine.optimizers import LearningRateDecayOptimWrapperConstructor
from mmseg.engine.optimizers import LayerDecayOptimizerConstructor, LearningRateDecayOptimizerConstructor

from beit_mm.engine.optimizers.constructors import find_layer_depth, LayerDecayOptimWrapperConstructor

from .arguments import accepted_arguments
from .parts import find_class, names_of
from .problems import closest, Problem, suggest
from .run_plan import RunPlan

_MULTIPLIERS = {'bias_decay_mult', 'norm_decay_mult', 'flat_decay_mult', 'custom_keys'}
# What each constructor reads of paramwise_cfg; of others nothing is known.
OPTIONS = {
    DefaultOptimWrapperConstructor: _MULTIPLIERS
    | {'bias_lr_mult', 'dwconv_decay_mult', 'dcn_offset_lr_mult', 'bypass_duplicate'},
    LearningRateDecayOptimWrapperConstructor: _MULTIPLIERS | {'layer_decay_rate'},
    LearningRateDecayOptimizerConstructor: {'num_layers', 'decay_rate', 'decay_type'},
    LayerDecayOptimizerConstructor: {'num_layers', 'layer_decay_rate'},
    LayerDecayOptimWrapperConstructor: {'layer_decay_rate'},
}
READS_PATTERNS = (DefaultOptimWrapperConstructor, LearningRateDecayOptimWrapperConstructor)


def check_optimiser(plan: RunPlan) -> Iterator[Problem]:
    """The constructor, its options, and the patterns among them."""
    wrapper = plan.cfg.get('optim_wrapper')
    if not isinstance(wrapper, dict):
        return
    name = wrapper.get('constructor', 'DefaultOptimWrapperConstructor')
    scope = plan.cfg.get('default_scope') or ''
    constructor = find_class(name, OPTIM_WRAPPER_CONSTRUCTORS, scope)
    options = wrapper.get('paramwise_cfg') or {}
    if constructor is None:
        known = names_of(OPTIM_WRAPPER_CONSTRUCTORS, scope)
        yield Problem(
            'optim_wrapper.constructor',
            f'no {name!r} is registered, {suggest(name, known, "it may be one of " + ", ".join(sorted(known)))}',
        )
    elif constructor in OPTIONS:
        yield from _check_options(plan, options, constructor)
        if constructor in READS_PATTERNS:
            yield from _check_patterns(plan, options)
        yield from _check_layers(plan, options, constructor)


def _check_options(plan: RunPlan, options: dict, constructor: type) -> Iterator[Problem]:
    known = OPTIONS[constructor]
    for name in options:
        if name not in known:
            readers = [other.__name__ for other, names in OPTIONS.items() if name in names]
            mend = (
                f'did you mean {closest(name, known)}?'
                if closest(name, known)
                else (
                    f'set constructor to one that does ({", ".join(readers)})'
                    if readers
                    else f'it reads {", ".join(sorted(known))}'
                )
            )
            yield Problem(
                f'optim_wrapper.paramwise_cfg.{name}',
                f'{constructor.__name__} does not read it, {mend}',
                is_error=plan.has_own_parts,
            )
    for pattern, values in (options.get('custom_keys') or {}).items():
        for name in set(values) - {'lr_mult', 'decay_mult'} if isinstance(values, dict) else ():
            if closest(name, ('lr_mult', 'decay_mult'), 0.6):  # other names go to the optimiser's group
                yield Problem(
                    f'optim_wrapper.paramwise_cfg.custom_keys.{pattern}.{name}',
                    'nothing reads it, did you mean lr_mult or decay_mult?',
                    is_error=plan.has_own_parts,
                )


def _parameter_names(plan: RunPlan) -> set[str] | None:
    """Names of all parameters, those of the model itself with a dot before, as MMEngine compares them."""
    if plan.model is None:
        return None
    return {name if '.' in name else f'.{name}' for name, _ in plan.model.named_parameters()}


def _check_patterns(plan: RunPlan, options: dict) -> Iterator[Problem]:
    names = _parameter_names(plan)
    patterns = options.get('custom_keys')
    for pattern in patterns if names and isinstance(patterns, dict) else ():
        if not any(pattern in name for name in names):
            yield Problem(
                f'optim_wrapper.paramwise_cfg.custom_keys.{pattern}',
                'matches no parameter of the model, ' + suggest(pattern, _pieces(names), 'remove it'),
            )


def _pieces(names: Iterable[str]) -> set[str]:
    """Parts of names that a pattern may be meant for: `backbone`, `backbone.cls_token`, `cls_token`."""
    pieces: set[str] = set()
    for name in names:
        words = [word for word in name.split('.') if word and not word.isdigit()]
        pieces.update(words)
        pieces.update(f'{first}.{second}' for first, second in zip(words, words[1:]))
    return pieces


def _check_layers(plan: RunPlan, options: dict, constructor: type) -> Iterator[Problem]:
    """Layer decay: its range, and whether the model tells the layers of its parameters."""
    rate = options.get('layer_decay_rate', 1.0)
    if not isinstance(rate, (int, float)) or not 0 < rate <= 1:
        yield Problem(
            'optim_wrapper.paramwise_cfg.layer_decay_rate',
            f'must lie above 0 and not exceed 1, got {rate!r}; BEiT uses 0.65 to 0.95',
        )
    elif (
        constructor is LayerDecayOptimWrapperConstructor
        and rate != 1
        and plan.model is not None
        and find_layer_depth(plan.model) is None
    ):
        yield Problem(
            'optim_wrapper.paramwise_cfg.layer_decay_rate',
            f'{type(plan.model).__name__} and its backbone have no get_layer_depth to tell the layers; remove it',
        )
    if constructor is LayerDecayOptimWrapperConstructor:
        optimizer = plan.cfg['optim_wrapper'].get('optimizer') or {}
        for name in ('lr', 'weight_decay'):
            if name not in optimizer:
                yield Problem(f'optim_wrapper.optimizer.{name}', f'{constructor.__name__} needs it, add it')


def check_optimizer_class(plan: RunPlan) -> Iterator[Problem]:
    """Arguments of the optimiser that are out of range, as its class says."""
    part = plan.part('optim_wrapper.optimizer')
    if part is None or set(part.arguments) - accepted_arguments(part.cls).names:
        return
    arguments = {name: value for name, value in part.arguments.items() if name != 'fused'}
    try:
        part.cls([torch.zeros(1, requires_grad=True)], **arguments)
    except (ValueError, TypeError) as error:
        yield Problem(part.key, f'{part.cls.__name__} cannot be built: {error}')
    except Exception:  # one that needs a GPU or a package
        return
