"""A model ready for inference, from a config or a name and a file of weights."""

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, DefaultScope, MODELS
from mmengine.runner.checkpoint import load_state_dict
from mmengine.utils import import_modules_from_strings
from torch import Tensor

from beit_mm.checkpoint.sources import load_from_anywhere
from beit_mm.config.flatten import drop_scope_stamps
from beit_mm.config.parts import drop_pretrained, innermost_dataset, pretrained_of, use_plain_batch_norm
from beit_mm.engine.hooks.check_weights_hook import require_weights
from beit_mm.models import DiscreteVAE
from beit_mm.models.weights import WeightsMismatch

MIM = Path(__file__).parents[1] / '.mim'
Model = str | Path | Config | BaseModel


def list_models() -> dict[str, Path]:
    """Names in model-index.yml and the config of each."""
    index = yaml.safe_load((MIM / 'model-index.yml').read_text())
    files = [MIM / name for name in index['Import']]
    return {
        model['Name']: MIM / model['Config'] for file in files for model in yaml.safe_load(file.read_text())['Models']
    }


def load_model(
    model: Model,
    weights: str | None = None,
    device: str | torch.device | None = None,
    tokenizer: str | Sequence[str] | None = None,
    options: dict | None = None,
    trunk_only: bool = False,
) -> BaseModel:
    """Build a model in evaluation mode and load its weights.

    Args:
        model: the path of a config, a Config, or a name of `list_models()`; a model passes as it is.
        weights: a checkpoint in any layout, ours or converted; None where the config's own `init_cfg` says what to
            load, and nothing else does.
        device: where it computes; None for the GPU if there is one, else the CPU.
        tokenizer: for masked image modelling, where the weights hold no tokenizer: its file, or OpenAI's two,
            `encoder.pkl` and `decoder.pkl`.
        options: keys of the config to override, such as {'model.backbone.img_size': 384}.
        trunk_only: whether only the trunk will be used, so that the weights may lack the heads.

    Returns:
        The model, with its config as `cfg` and its classes, where they are known and as many as its outputs, in
        `dataset_meta`.

    Raises:
        FileNotFoundError: If there is no such config or checkpoint.
        ValueError: If the name is unknown, there is no such device, or the weights do not fit; names the file.
    """
    if isinstance(model, torch.nn.Module):
        return model
    device = _find_device(device)
    cfg = _read_config(model, options)
    weights = weights or start_of_whole(cfg)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
        built = MODELS.build(_without_starts(cfg, weights, tokenizer))
        if weights is None:
            built.init_weights()
        meta = {} if weights is None else _load(built, weights, trunk_only)
        built.dataset_meta = _fit_to_outputs(meta.get('dataset_meta') or _classes_of_config(cfg), built)
    if tokenizer is not None:
        _load_tokenizer(built, [tokenizer] if isinstance(tokenizer, (str, Path)) else list(tokenizer))
    built.cfg = cfg
    return built.to(device).eval()


def _find_device(device: str | torch.device | None) -> torch.device:
    """The device meant; ValueError if this machine or this build of torch has none such."""
    if device is None:
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        return torch.empty(1, device=device).device
    except (RuntimeError, AssertionError) as error:  # of a name, a number or a kind that is not there
        raise ValueError(
            f'a device must be cpu, or cuda or cuda:N of {torch.cuda.device_count()} GPUs, got {device}'
        ) from error


def _read_config(model: str | Path | Config, options: dict | None) -> Config:
    if not isinstance(model, Config):
        known = list_models()
        path = known.get(str(model), Path(model))
        if not path.is_file():
            raise FileNotFoundError(f'a model must be a config file or one of {", ".join(known)}, got {model}')
        model = Config.fromfile(path)
    cfg = Config(model.to_dict())  # a copy: the caller's stays as it is
    unknown = [key for key in options or {} if key.split('.')[0] not in cfg]
    if unknown:
        raise ValueError(f'options must name keys of the config, got {", ".join(unknown)}')
    cfg.merge_from_dict(options or {})
    drop_scope_stamps(cfg)
    if cfg.get('custom_imports'):
        import_modules_from_strings(**cfg.custom_imports)
    if 'model' not in cfg:
        raise ValueError('a config must have a model, got none')
    use_plain_batch_norm(cfg.model)
    return cfg


def start_of_whole(cfg: Config) -> str | None:
    """The file that the config starts the whole model from: loaded as weights are, which leaves no head random."""
    pretrained = pretrained_of(cfg.model)
    return pretrained['checkpoint'] if pretrained and not pretrained.get('prefix') else None


def _without_starts(cfg: Config, weights: str | None, tokenizer: str | Sequence[str] | None) -> ConfigDict:
    """The model without the files in whose place others were given."""
    model = copy.deepcopy(cfg.model)
    if weights is not None:
        drop_pretrained(model)
    elif tokenizer is not None:
        drop_pretrained(model, 'tokenizer')
    return model


def _load(model: BaseModel, weights: str, trunk_only: bool) -> dict:
    """Load weights that must fit the whole model, or its trunk; the meta data of their file."""
    checkpoint = load_from_anywhere(str(weights), 'cpu')
    state = checkpoint.get('state_dict', checkpoint)
    tokenizer = _tokenizer_of(model)
    lacks_tokenizer = False
    if isinstance(tokenizer, DiscreteVAE):  # random until weights hold it
        tokenizer.has_encoder = tokenizer.has_decoder = False
        lacks_tokenizer = not any(name.startswith('target.tokenizer.') for name in state)
    try:
        if not trunk_only:
            require_weights(model, checkpoint)
        # MMEngine would list what the heads lack, of the trunk alone, or all of a tokenizer that has a file of its own.
        load_state_dict(model, state, strict=False, logger='silent' if trunk_only or lacks_tokenizer else None)
    except WeightsMismatch as error:
        raise ValueError(f'{weights}: {error}') from error
    meta = checkpoint.get('meta')
    return meta if isinstance(meta, dict) else {}


def _tokenizer_of(model: BaseModel) -> torch.nn.Module | None:
    return getattr(getattr(model, 'target', None), 'tokenizer', None)


def _load_tokenizer(model: BaseModel, files: list[str]) -> None:
    tokenizer = _tokenizer_of(model)
    if tokenizer is None:
        raise ValueError(
            f'a tokenizer belongs to a masked image model that predicts visual tokens, got {type(model).__name__}'
        )
    state: dict[str, Tensor] = {}
    for file in files:
        checkpoint = load_from_anywhere(str(file), 'cpu')
        state.update(checkpoint.get('state_dict', checkpoint))
    try:
        load_state_dict(tokenizer, state, strict=False, logger='silent')  # what it lacks is told where it is used
    except WeightsMismatch as error:
        raise ValueError(f'{", ".join(map(str, files))}: {error}') from error


def _fit_to_outputs(meta: dict, model: BaseModel) -> dict:
    """Meta data of a data set without classes and palette of another number than the model has outputs: a head for
    other data than the config tests on has other classes.
    """
    num_classes = getattr(getattr(model, 'head', model), 'num_classes', None)
    return {
        key: value
        for key, value in meta.items()
        if num_classes is None or key not in ('classes', 'palette') or len(value or ()) == num_classes
    }


def _classes_of_config(cfg: Config) -> dict:
    """Meta data of the data set that the config tests on; empty if it says nothing of classes."""
    for loader in ('test_dataloader', 'val_dataloader', 'train_dataloader'):
        dataset = innermost_dataset(cfg.get(loader))
        with DATASETS.switch_scope_and_registry(None) as registry:  # of the default scope
            kind = registry.get(dataset['type']) if dataset else None
        meta = dict(getattr(kind, 'METAINFO', {}) or {}, **((dataset or {}).get('metainfo') or {}))
        if meta.get('classes'):
            return meta
    return {}
