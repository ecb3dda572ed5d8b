"""What the checks look at: the config, its parts, and the model without memory."""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import torch
from mmengine.registry import DefaultScope, MODELS
from torch import nn

from .parts import find_parts, Part

# Parts whose own mistake is told under their own key; outer ones come later.
MODEL_ORDER = (
    'model.backbone',
    'model.neck',
    'model.head',
    'model.decode_head',
    'model.auxiliary_head',
    'model.target.tokenizer',
    'model.target',
    'model.recovered',
    'model.data_preprocessor',
    'model',
)


class RunPlan:
    """A config as the checks see it.

    Args:
        cfg: plain dicts and lists.
        loaders: keys of the data loaders in use.
        num_processes: of the training; None if not known.
        own_accumulation: the accumulated steps that the recipe's batch is meant with.
        is_training: whether a training is about to start here and now.
    """

    def __init__(
        self,
        cfg: dict,
        loaders: tuple[str, ...],
        num_processes: int | None = None,
        own_accumulation: int = 1,
        is_training: bool = False,
    ):
        self.cfg = cfg
        self.loaders = [key for key in loaders if isinstance(cfg.get(key), dict)]
        self.num_processes = num_processes
        self.own_accumulation = own_accumulation
        self.is_training = is_training

    @cached_property
    def parts(self) -> list[Part]:
        return find_parts(self.cfg)

    @property
    def parts_in_use(self) -> list[Part]:
        """Without those of loaders, evaluators and pipelines for stages that are not in use."""
        unused = {
            key.partition('_')[0]
            for key in ('train_dataloader', 'val_dataloader', 'test_dataloader')
            if key not in self.loaders
        }
        unused |= {'tta'} if 'test' in unused else set()
        return [part for part in self.parts if part.key.split('.')[0].split('_')[0] not in unused]

    def part(self, key: str) -> Part | None:
        """The part at a dotted key; None if there is none, or its type names nothing."""
        return next((part for part in self.parts if part.key == key and part.cls is not None), None)

    def below(self, key: str) -> list[Part]:
        """The parts below a dotted key, itself included, whose types name something."""
        return [part for part in self.parts if f'{part.key}.'.startswith(f'{key}.') and part.cls is not None]

    @property
    def has_own_parts(self) -> bool:
        """Whether the model has parts of this package; a host's own recipe may carry patterns for several models."""
        return any(part.cls.__module__.startswith('beit_mm.') for part in self.below('model'))

    @cached_property
    def model(self) -> nn.Module | None:
        """The model on the meta device, which takes milliseconds; None if it cannot be built there or has no part of
        this package: models of others may download what they are built from.
        """
        return self._build_model()[0]

    @cached_property
    def model_error(self) -> tuple[str, Exception] | None:
        """Key and error of the innermost part that cannot be built; None if all can, or the meta device may be why."""
        error = self._build_model()[1]
        if error is None:
            return None
        for key in MODEL_ORDER:
            part = self.part(key)
            own = _build(part.cfg, self._scope)[1] if part else None
            if own is not None:
                return key, own
        return None

    def _build_model(self):
        model = self.part('model') if self.has_own_parts else None
        return _build(model.cfg, self._scope) if model else (None, None)

    @property
    def _scope(self) -> str:
        return self.cfg.get('default_scope') or 'mmengine'


def _build(cfg: dict, scope: str):
    """A module on the meta device and None, or None and the error; both None where the meta device is to blame."""
    try:
        with DefaultScope.overwrite_default_scope(scope), quiet(), torch.device('meta'):
            return MODELS.build(copy.deepcopy(cfg)), None
    except (ValueError, TypeError, AssertionError, KeyError) as error:
        return None, None if 'meta' in str(error) else error
    except Exception:  # a host's model may read files, ask for packages or compute with its weights
        return None, None


@contextmanager
def quiet() -> Iterator[None]:
    """No logs and warnings of what is built on trial only; the training says them again."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(before)
