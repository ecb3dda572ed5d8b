"""Child registries of MMEngine's under the scope ``beit_mm``.

A config names a part as ``beit_mm.BEiT``; the host's registries find it through their common root.
"""

from typing import Any

from mmengine import registry as root
from mmengine.registry import Registry
from torch import nn

SCOPE = 'beit_mm'


def _child(parent: Registry, location: str) -> Registry:
    return Registry(parent.name, parent=parent, scope=SCOPE, locations=[f'{SCOPE}.{location}'])


MODELS = _child(root.MODELS, 'models')
TRANSFORMS = _child(root.TRANSFORMS, 'datasets')
DATASETS = _child(root.DATASETS, 'datasets')
DATA_SAMPLERS = _child(root.DATA_SAMPLERS, 'datasets')
HOOKS = _child(root.HOOKS, 'engine')
METRICS = _child(root.METRICS, 'evaluation')
LOOPS = _child(root.LOOPS, 'engine')
STRATEGIES = _child(root.STRATEGIES, 'engine')
OPTIM_WRAPPERS = _child(root.OPTIM_WRAPPERS, 'engine')
OPTIM_WRAPPER_CONSTRUCTORS = _child(root.OPTIM_WRAPPER_CONSTRUCTORS, 'engine')


def build_part(part: dict | nn.Module) -> Any:
    """A part of a model, built from its config unless it is built already; any class that meets the contract."""
    return part if isinstance(part, nn.Module) else MODELS.build(part)
