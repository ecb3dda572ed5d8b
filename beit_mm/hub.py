"""The models of our index by name, also for MMPretrain's `get_model`."""

from pathlib import Path

from mmpretrain.apis import ModelHub

MIM = Path(__file__).parent / '.mim'
INDEX = MIM / 'model-index.yml'

_others = set(ModelHub._models_dict)
_register = ModelHub.register_model_index
_register(INDEX, MIM)
CONFIGS = {info.name: Path(info.config) for name, info in ModelHub._models_dict.items() if name not in _others}


def register_model_index(model_index_path, config_prefix=None) -> None:
    """MMPretrain's, which refuses a second time, but not for our index: with version 0.1 users registered it."""
    is_known = all(name.lower() in ModelHub._models_dict for name in CONFIGS)
    if not (is_known and Path(model_index_path).resolve() == INDEX.resolve()):
        _register(model_index_path, config_prefix)


ModelHub.register_model_index = staticmethod(register_model_index)
