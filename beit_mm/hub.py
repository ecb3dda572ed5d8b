"""The models of our index by name in MMPretrain's `get_model`."""

from pathlib import Path

from mmpretrain.apis import ModelHub

from .model_index import configs_by_name, INDEX, MIM

_register = ModelHub.register_model_index
_register(INDEX, MIM)


def register_model_index(model_index_path, config_prefix=None) -> None:
    """MMPretrain's, which refuses a second time, but not for our index: with version 0.1 users registered it."""
    is_known = all(name.lower() in ModelHub._models_dict for name in configs_by_name())
    if not (is_known and Path(model_index_path).resolve() == INDEX.resolve()):
        _register(model_index_path, config_prefix)


ModelHub.register_model_index = staticmethod(register_model_index)
