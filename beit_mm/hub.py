"""The models of our index by name, and where their weights are, also for MMPretrain's `get_model`."""

from pathlib import Path

from mmpretrain.apis import ModelHub

from beit_mm.errors import UserError

MIM = Path(__file__).parent / '.mim'
INDEX = MIM / 'model-index.yml'

_others = set(ModelHub._models_dict)
_register = ModelHub.register_model_index
_register(INDEX, MIM)
_models = [info for name, info in ModelHub._models_dict.items() if name not in _others]
CONFIGS = {info.name: Path(info.config) for info in _models}
WEIGHTS = {info.name: info.weights for info in _models if info.weights}


def find_public_weights(name: str) -> str:
    """The address of a model's weights; UserError if it has no public ones."""
    if name not in CONFIGS:
        raise UserError(f'public weights belong to the name of a model, got {name}; give a file of weights')
    if name not in WEIGHTS:
        raise UserError(f'{name} has no public weights; give a file of weights, or take one of {", ".join(WEIGHTS)}')
    return WEIGHTS[name]


def register_model_index(model_index_path, config_prefix=None) -> None:
    """MMPretrain's, which refuses a second time, but not for our index: with version 0.1 users registered it."""
    is_known = all(name.lower() in ModelHub._models_dict for name in CONFIGS)
    if not (is_known and Path(model_index_path).resolve() == INDEX.resolve()):
        _register(model_index_path, config_prefix)


ModelHub.register_model_index = staticmethod(register_model_index)
