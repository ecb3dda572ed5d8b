"""Models for inference, from a config or a name, and weights."""

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, DefaultScope, MODELS
from mmengine.runner.checkpoint import load_state_dict
from mmengine.utils import import_modules_from_strings
from torch import nn

from beit_mm.checkpoint.mapping import AVERAGED, rename_beit_weights
from beit_mm.checkpoint.sources import load_from_anywhere, read_from_anywhere
from beit_mm.config.flatten import drop_scope_stamps
from beit_mm.config.parts import drop_pretrained, innermost_dataset, pretrained_of, use_plain_batch_norm
from beit_mm.config.reading import merge_options, read_config, unread_options
from beit_mm.engine.hooks.check_weights_hook import require_weights
from beit_mm.errors import UnreadOption, UserError
from beit_mm.model_index import configs_by_name, find_config, find_public_weights
from beit_mm.models.inspection import unwrap
from beit_mm.models.tokenizers.tokenizer import Tokenizer
from beit_mm.models.weights import WeightsMismatch
from beit_mm.text import show

NUM_KEYS = 5  # of a file, in a message
Model = str | Path | Config | BaseModel


def list_models() -> dict[str, Path]:
    """The configs that model-index.yml lists, by name."""
    return dict(configs_by_name())


def load_model(
    model: Model,
    weights: str | None = None,
    device: str | torch.device | None = None,
    tokenizer: str | Sequence[str] | None = None,
    options: dict | None = None,
    trunk_only: bool = False,
    ema: bool = False,
    pretrained: bool = False,
) -> BaseModel:
    """Build a model in evaluation mode and load its weights.

    Args:
        model: a name of `list_models()`, the path of a config, or a Config. A loaded model is returned as it is.
        weights: a checkpoint in any layout, or its address; None to load what the config's own `init_cfg` names.
        device: None for the GPU if there is one, otherwise the CPU.
        tokenizer: for masked image modeling, if the weights hold no tokenizer: its file, or OpenAI's `encoder.pkl` and
            `decoder.pkl`.
        options: keys of the config to override, such as {'model.backbone.img_size': 384}.
        trunk_only: only the trunk will be used, so the weights may lack the heads.
        ema: load the weights that were averaged over the training, such as `model_ema` of released files.
        pretrained: without other weights, download those that are published for the model's name.

    Returns:
        The model, with its config as `cfg`. `dataset_meta` has the names of the classes, if they are known and as many
        as the outputs.

    Raises:
        FileNotFoundError: If there is no such config or checkpoint.
        OSError: If weights cannot be downloaded.
        UserError: If the name is unknown or has no public weights, there is no such device, or the weights do not fit.
            The message names the file.
    """
    if isinstance(model, nn.Module):
        return model
    device = _find_device(device)
    cfg = _read_config(model, options)
    if ema and weights is None:
        raise UserError('ema needs weights, the file that holds the averaged ones, got none')
    weights = weights or _weights_of_whole_model(cfg)
    if weights is None and pretrained:
        weights = find_public_weights(str(model))
    model_cfg = copy.deepcopy(cfg.model)
    if weights is not None:
        drop_pretrained(model_cfg)
    elif tokenizer is not None:
        drop_pretrained(model_cfg, 'tokenizer')
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
        built = MODELS.build(model_cfg)
        if weights is None:
            built._dump_init_info = lambda: None  # MMEngine logs a line for each parameter
            built.init_weights()
            del built._dump_init_info
        meta = {} if weights is None else _load(built, weights, trunk_only, ema)
        built.dataset_meta = _fit_to_outputs(meta.get('dataset_meta') or _meta_of_config(cfg), built)
    if tokenizer is not None:
        _load_tokenizer(built, [tokenizer] if isinstance(tokenizer, (str, Path)) else list(tokenizer))
    built.cfg = cfg
    return built.to(device).eval()


def load_for_inference(model: Model, weights: str | None = None, **loading) -> BaseModel:
    """Like load_model, but random weights are an error, and a loaded model is put in evaluation mode, without wrappers.

    A name alone means its public weights, unless `options` have an `init_cfg`.

    UserError also if a loaded model comes with arguments for loading.
    """
    trunk_only = loading.get('trunk_only')
    if isinstance(model, nn.Module):
        arguments = dict(loading, weights=weights, trunk_only=None)
        superfluous = sorted(name for name, value in arguments.items() if value not in (None, False))
        if superfluous:
            raise UserError(f'{" and ".join(superfluous)} must be None for a loaded {type(model).__name__}')
        return unwrap(model).eval()
    names_start = any('init_cfg' in key for key in loading.get('options') or ())
    loading.setdefault('pretrained', str(model) in configs_by_name() and not names_start)
    loaded = load_model(model, weights, **loading)
    trunk = loaded.cfg.model.get('backbone') if trunk_only else None
    if not (weights or loading['pretrained'] or _weights_of_whole_model(loaded.cfg) or pretrained_of(trunk)):
        raise UserError(f'weights must name a checkpoint for {type(loaded).__name__}, got none')
    return loaded


def _find_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        return torch.empty(1, device=device).device
    except (RuntimeError, AssertionError) as error:  # an unknown name or number, or a build of torch without it
        count = torch.cuda.device_count()
        raise UserError(f'a device must be cpu, or cuda or cuda:N of {count} GPUs, got {device}') from error


def _read_config(model: str | Path | Config, options: dict | None) -> Config:
    if not isinstance(model, Config):
        model = read_config(find_config(model))
    cfg = Config(model.to_dict())  # a copy: the caller keeps an unchanged one
    merge_options(cfg, options, 'the config')
    for key, sentence in unread_options(cfg, options).items():
        if not key.startswith('test_pipeline'):  # MMSegmentation's inferencer reads it
            warnings.warn(f'{key} {sentence}', UnreadOption, stacklevel=3)
    drop_scope_stamps(cfg)
    if cfg.get('custom_imports'):
        import_modules_from_strings(**cfg.custom_imports)
    if 'model' not in cfg:
        raise UserError('a config must have a model, got none')
    use_plain_batch_norm(cfg.model)
    return cfg


def _weights_of_whole_model(cfg: Config) -> str | None:
    """The checkpoint that the config's `init_cfg` names for the whole model, heads included."""
    pretrained = pretrained_of(cfg.model)
    return pretrained['checkpoint'] if pretrained and not pretrained.get('prefix') else None


def _read_averaged(weights: str) -> dict:
    content = read_from_anywhere(weights, 'cpu')
    # MMEngine's EMAHook saves the averaged weights as `state_dict`, and the others as `ema_state_dict`.
    key = 'state_dict' if 'ema_state_dict' in content else next((key for key in AVERAGED if key in content), None)
    if key is None:
        found = ', '.join(show(key) for key in list(content)[:NUM_KEYS])
        raise UserError(f'{weights} must hold averaged weights ({", ".join(AVERAGED)}), got {found}')
    return rename_beit_weights(dict(state_dict=content[key], meta=content.get('meta')), weights)


def _load(model: BaseModel, weights: str, trunk_only: bool, ema: bool) -> dict:
    """Load weights, which must fit the whole model or its trunk, and return the meta data of their file."""
    checkpoint = _read_averaged(str(weights)) if ema else load_from_anywhere(str(weights), 'cpu')
    state, tokenizer = checkpoint.get('state_dict', checkpoint), _tokenizer_of(model)
    lacks_tokenizer = isinstance(tokenizer, Tokenizer) and not any('target.tokenizer.' in name for name in state)
    if lacks_tokenizer:
        tokenizer.has_encoder = tokenizer.has_decoder = False
    # MMEngine would log every missing tensor of heads that are not used, or of a tokenizer that has its own file.
    logger = 'silent' if trunk_only or lacks_tokenizer else None
    try:
        if not trunk_only:
            require_weights(model, checkpoint)
        load_state_dict(model, state, strict=False, logger=logger)
    except WeightsMismatch as error:
        raise UserError(f'{weights}: {error}') from error
    meta = checkpoint.get('meta')
    return meta if isinstance(meta, dict) else {}


def _tokenizer_of(model: BaseModel) -> nn.Module | None:
    return getattr(getattr(model, 'target', None), 'tokenizer', None)


def _load_tokenizer(model: BaseModel, files: list[str]) -> None:
    tokenizer = _tokenizer_of(model)
    if tokenizer is None:
        raise UserError(f'a tokenizer belongs to a model that predicts visual tokens, got {type(model).__name__}')
    state = {}
    for file in files:
        checkpoint = load_from_anywhere(str(file), 'cpu')
        state.update(checkpoint.get('state_dict', checkpoint))
    try:
        load_state_dict(tokenizer, state, strict=False, logger='silent')  # whoever uses it reports what it lacks
    except WeightsMismatch as error:
        raise UserError(f'{", ".join(map(str, files))}: {error}') from error


def _fit_to_outputs(meta: dict, model: BaseModel) -> dict:
    """Drop classes and palette whose number is not that of the model's outputs: they belong to other data."""
    num_classes = getattr(getattr(model, 'head', model), 'num_classes', None)
    wrong = [key for key in ('classes', 'palette') if num_classes not in (None, len(meta.get(key) or ()))]
    return {key: value for key, value in meta.items() if key not in wrong}


def _meta_of_config(cfg: Config) -> dict:
    """Meta data of the first data set of the config that names classes; the test set comes first."""
    for loader in ('test_dataloader', 'val_dataloader', 'train_dataloader'):
        dataset = innermost_dataset(cfg.get(loader)) or {}
        with DATASETS.switch_scope_and_registry(None) as registry:  # the config's default scope
            dataset_class = registry.get(dataset['type']) if dataset else None
        meta = {**(getattr(dataset_class, 'METAINFO', None) or {}), **(dataset.get('metainfo') or {})}
        if meta.get('classes'):
            return meta
    return {}
