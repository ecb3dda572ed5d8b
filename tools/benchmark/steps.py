"""Training steps and inference as the hosts' loops do them, on the device at hand."""

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import AmpOptimWrapper, build_optim_wrapper, OptimWrapper
from mmengine.registry import DefaultScope
from torch import nn, Tensor

from beit_mm.engine.optimizers.autocast_wrapper import AutocastOptimWrapper, computes_in_bfloat16
from beit_mm.registry import MODELS

LEARNING_RATE = 1e-5  # a recipe's would spoil the weights on random images


def device() -> str:
    return 'cuda' if torch.cuda.is_available() else 'cpu'


def computing_dtype() -> torch.dtype:
    """What AutocastOptimWrapper's 'auto' is on this machine."""
    return torch.bfloat16 if computes_in_bfloat16(device()) else torch.float32


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).rpartition('.')[2]


def per_dtype(name: str, make: Callable[[str], 'Step']) -> dict[str, Callable[[], 'Step']]:
    """What builds a candidate in 'auto', and in float32 where that is something else."""
    makers = {name: partial(make, 'auto')}
    if computing_dtype() != torch.float32:
        makers[f'{name}, float32'] = partial(make, 'float32')
    return makers


@dataclass(frozen=True)
class Step:
    """What is timed: `run` is one update or one batch, called several times where the device works by itself, so
    that a step that waits for it is told from one that does not.
    """

    run: Callable[[], object]
    dtype: torch.dtype

    @property
    def repeats(self) -> int:
        return 4 if device() == 'cuda' else 1

    def __call__(self) -> None:
        for _ in range(self.repeats):
            self.run()


def config_file(package: ModuleType, name: str) -> Path:
    """A config that a package carries."""
    return Path(package.__file__).parent / '.mim' / 'configs' / name


def recipe(package: ModuleType, name: str) -> Config:
    """Such a config, with a learning rate for random images and no weights to load."""
    config = Config.fromfile(config_file(package, name))
    config.optim_wrapper.optimizer.lr = LEARNING_RATE
    config.model.data_preprocessor = None
    for part in (config.model, config.model.backbone, config.model.get('head', {})):
        part.pop('init_cfg', None)
    return config


def build(config: Config) -> nn.Module:
    """The model of a recipe."""
    with DefaultScope.overwrite_default_scope(config.default_scope):
        return MODELS.build(config.model).to(device())


def build_wrapper(model: nn.Module, config: Config, dtype: str = 'auto') -> OptimWrapper:
    """The optimizer wrapper of one of our recipes."""
    return _build_wrapper(model, dict(config.optim_wrapper.to_dict(), dtype=dtype), config.default_scope)


def build_hosts_wrapper(model: nn.Module, config: Config) -> OptimWrapper:
    """A host's recipe's: in float16 with a scaler on a GPU, as its `--amp` has it; float32 on a CPU, where that asserts
    a GPU.
    """
    options = config.optim_wrapper.to_dict()
    options.pop('loss_scale', None)
    options['type'] = 'AmpOptimWrapper' if device() == 'cuda' else 'OptimWrapper'
    return _build_wrapper(model, options, config.default_scope)


def _build_wrapper(model: nn.Module, options: dict, scope: str) -> OptimWrapper:
    MMLogger.get_current_instance().setLevel('WARNING')
    with DefaultScope.overwrite_default_scope(scope), redirect_stdout(io.StringIO()):  # hosts print every group
        return build_optim_wrapper(model.to(device()), options)


def training_step(model: nn.Module, loss: Callable[[], Tensor | dict], wrapper: OptimWrapper) -> Step:
    """One update, as BaseModel.train_step does it after the data preprocessor.

    Args:
        loss: a tensor, or the losses of one of the hosts' models.
    """
    model.train().to(device())
    parse_losses = getattr(getattr(model, 'module', model), 'parse_losses', None)

    def run():
        with wrapper.optim_context(model):
            value = loss()
        wrapper.update_params(parse_losses(value)[0] if isinstance(value, dict) else value)

    return Step(run, _dtype_of(wrapper))


def _dtype_of(wrapper: OptimWrapper) -> torch.dtype:
    if isinstance(wrapper, AmpOptimWrapper):
        return wrapper.cast_dtype or torch.float16
    if isinstance(wrapper, AutocastOptimWrapper) and wrapper.dtype != 'float32':
        return computing_dtype() if wrapper.dtype == 'auto' else torch.bfloat16
    return torch.float32


def inference(model: Callable[..., object], *inputs: object, dtype: str = 'auto') -> Step:
    """A call without gradients, under autocast to what the device has, or in float32."""
    computed = torch.float32 if dtype == 'float32' else computing_dtype()

    @torch.inference_mode()
    def run():
        with torch.autocast(device(), computed, enabled=computed != torch.float32):
            return model(*inputs)

    return Step(run, computed)
