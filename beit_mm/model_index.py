"""The models of model-index.yml and where their weights are, read without torch and the hosts."""

from functools import cache
from pathlib import Path

from beit_mm.errors import UserError
from beit_mm.text import closest

MIM = Path(__file__).parent / '.mim'
INDEX = MIM / 'model-index.yml'


@cache
def _models() -> list[dict]:
    import yaml

    metafiles = yaml.safe_load(INDEX.read_text())['Import']
    return [model for file in metafiles for model in yaml.safe_load((MIM / file).read_text())['Models']]


def configs_by_name() -> dict[str, Path]:
    """The configs of all models."""
    return {model['Name']: MIM / model['Config'] for model in _models()}


def weights_by_name() -> dict[str, str]:
    """The addresses of public weights."""
    return {model['Name']: model['Weights'] for model in _models() if 'Weights' in model}


def find_config(model: str | Path) -> Path:
    """The config of a name, or the path of a config as it is. FileNotFoundError if it is neither."""
    if Path(model).is_file():
        return Path(model)
    configs = configs_by_name()
    if str(model) not in configs:
        meant = closest(str(model), configs)
        mend = f'did you mean {meant}?' if meant else '`beit-mm models` lists the names'
        raise FileNotFoundError(f'a model must be a config file or the name of one, got {model}; {mend}')
    return configs[str(model)]


def find_public_weights(name: str) -> str:
    """The address of a model's weights; UserError if it has no public ones."""
    if name not in configs_by_name():
        raise UserError(f'public weights belong to the name of a model, got {name}; give a file of weights')
    known = weights_by_name()
    if name not in known:
        raise UserError(f'{name} has no public weights; give a file of weights, or take one of {", ".join(known)}')
    return known[name]
