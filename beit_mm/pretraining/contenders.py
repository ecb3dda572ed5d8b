"""Whom an evaluation compares, and on which images."""

import hashlib
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config

from beit_mm.apis import FeatureInferencer, load_model
from beit_mm.config.parts import drop_pretrained
from beit_mm.errors import UserError

from .plan import Plan, plan_of

OWN, RANDOM = 'own pre-training', 'random weights'


@dataclass
class Contender:
    """Weights that are compared.

    Attributes:
        name: in the table.
        cfg: the config of a model with a BEiT as its backbone.
        weights: a checkpoint, None for random weights.
        plan, mean, std: sizes of the trunk, and what its images are normalised by.
    """

    name: str
    cfg: Config
    weights: str | None
    plan: Plan
    mean: list[float]
    std: list[float]

    @classmethod
    def of(cls, name: str, cfg: Config, weights: str | None) -> 'Contender':
        try:
            preprocessor = cfg.model.get('data_preprocessor') or cfg.data_preprocessor
            return cls(name, cfg, weights, plan_of(cfg), list(preprocessor.mean), list(preprocessor.std))
        except (AttributeError, KeyError, TypeError) as error:
            what = 'embed_dim, depth, num_heads, img_size and patch_size of its backbone, mean and std, and a loader'
            raise UserError(f'the config of {name} must give numbers for {what}: {error}') from error

    @property
    def state(self) -> list:
        """What its scores depend on: sizes and colours, and length and time of the file of weights, if it is one."""
        sizes = [*self.plan.widths, self.plan.img_size, self.plan.patch_size, self.mean, self.std]
        file = Path((self.weights or '').partition('#')[0]).expanduser()
        if not file.is_file():
            return sizes
        return [*sizes, file.stat().st_size, file.stat().st_mtime_ns]

    @property
    def folder(self) -> str:
        """The beginning of the names of its fine-tunings' folders."""
        return {OWN: 'own', RANDOM: 'random'}.get(self.name) or digest(self.name)

    def extractor(self, seed: int, pooling: str = 'mean') -> FeatureInferencer:
        with redirect_stdout(sys.stderr):  # the log is no result
            if self.weights:
                return FeatureInferencer(self.cfg, self.weights, pooling)
            cfg = Config(self.cfg.to_dict())
            drop_pretrained(cfg.model)
            torch.manual_seed(seed)
            return FeatureInferencer(load_model(cfg), pooling=pooling)


@dataclass
class Part:
    """Labelled images: files and numbers of their classes, in order."""

    files: list[str]
    classes: np.ndarray

    def draw(self, number: int, seed: int) -> np.ndarray:
        """Indices of so many images, drawn from every class by its share; at least one of each class."""
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(self.files))
        ranks = np.empty(len(order))  # of an image within its class, relative to the size of the class
        for label in np.unique(self.classes):
            own = order[self.classes[order] == label]
            ranks[own] = np.arange(len(own)) / len(own)
        return np.sort(order[np.argsort(ranks[order], kind='stable')][:number])


def digest(text: str) -> str:
    return hashlib.blake2b(text.encode('utf-8', 'surrogateescape'), digest_size=4).hexdigest()
