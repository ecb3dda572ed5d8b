"""The training step of a config, with other switches, numbers of images and sizes, on random weights."""

import copy
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from mmengine.runner import set_random_seed
from PIL import Image
from torch import nn

from beit_mm.checks.blame import find_class
from beit_mm.checks.dry_run import NoRandomWeights
from beit_mm.checks.samples import collate, cut, draw, list_images, NotChecked
from beit_mm.checks.small_parts import pretend_to_be_trained
from beit_mm.config.parts import drop_pretrained, use_plain_batch_norm, walk
from beit_mm.engine.hooks.machine_hook import only_kernels
from beit_mm.engine.optimizers.autocast_wrapper import AutocastOptimWrapper, computes_in_bfloat16
from beit_mm.errors import describe_shortage, UserError
from beit_mm.models import BEiT, DiscreteVAE, TimmTeacher

from .machine import free_memory
from .speed import draw_jpeg, JPEG

LEARNING_RATE = 0.0  # the same work as at any other, and every step has the same loss
KERNEL_KEY = 'default_hooks.machine.attention'  # of the only option that is no part of the model
BYTES_PER_WEIGHT = 16  # float32: the weight, its gradient and AdamW's two averages
SMALLER = 'take a smaller model, or several devices (docs/scale.md)'


class Step:
    """A call is one update on the same images, without dropout and drop path, so that two steps can be compared.

    Attributes:
        images: in its batch.
        dtype: what the model computes in.
    """

    def __init__(self, model: nn.Module, wrapper: Any, batch: Any, images: int, kernels: list[str] | None):
        self.model, self.wrapper, self.batch, self.images, self.kernels = model, wrapper, batch, images, kernels
        dtype = getattr(wrapper, 'dtype', None) if isinstance(wrapper, AutocastOptimWrapper) else None
        is_half = computes_in_bfloat16(next(model.parameters()).device.type) if dtype == 'auto' else dtype == 'bfloat16'
        self.dtype = torch.bfloat16 if is_half else torch.float32
        for module in model.train().modules():
            if 'Drop' in type(module).__name__:
                module.eval()

    def __call__(self) -> dict[str, Any]:
        with only_kernels(self.kernels):
            return self.model.train_step(self.batch, self.wrapper)

    def numbers(self) -> dict[str, float]:
        """The loss and the norm of the gradients of an update; draws of the model begin at a fixed seed."""
        set_random_seed(0)
        scalars = getattr(self.wrapper, 'scalars', None)
        if scalars is not None:
            scalars.steps.clear()  # full, it would be flushed after this update
        numbers = dict(loss=float(self()['loss']))
        if scalars is not None:
            numbers['gradient'] = float(scalars.steps[-1][1]['train/grad_norm'])
        return numbers


class Subject:
    """A config whose steps are measured.

    Args:
        cfg: as read from its file.
        device: that computes.
        folder: for a random image, where the config's own are not there.

    Attributes:
        cfg: a copy without weights to load.
        trunk, tokenizer: keys of the BEiT and of the DiscreteVAE; None for no such part.
        listed, sample: the data set, and a sample of it through the training's pipeline.
        side: longer side of the images of a segmentation, which `build` may cut; None for others, which stay whole.
        state_bytes: of weights, gradients and averages.
        fewest: images in a step.

    Raises:
        UserError: If there is no trunk of ours, no sample, or too little memory for the weights alone.
    """

    def __init__(self, cfg: Config, device: torch.device, folder: Path):
        self.cfg, self.device = Config(cfg.to_dict()), device
        model = self.cfg.get('model') or {}
        if self.cfg.get('train_dataloader') is None or not self.cfg.get('optim_wrapper'):
            raise UserError(f'{cfg.filename} must have a train_dataloader and an optim_wrapper to measure its step')
        self.trunk, self.tokenizer = (
            next((key for key, node in walk(model, 'model') if find_class(node, MODELS) is cls), None)
            for cls in (BEiT, DiscreteVAE)
        )
        if self.trunk is None:
            found = (model.get('backbone') or model).get('type')
            raise UserError(f'the model of {cfg.filename} must have a trunk of ours, beit_mm.BEiT, got {found}')
        use_plain_batch_norm(model)
        drop_pretrained(model)
        for _, node in walk(model, 'model'):
            if find_class(node, MODELS) is TimmTeacher:
                node['pretrained'] = False
        self.cfg.optim_wrapper.optimizer.lr = LEARNING_RATE
        self.cfg.optim_wrapper.pop('accumulative_counts', None)
        self._plain = self.cfg.to_dict()
        self._draw(folder)
        with torch.device('meta'):
            built = MODELS.build(copy.deepcopy(self.cfg.model))
        self.state_bytes = sum(x.numel() * (BYTES_PER_WEIGHT if x.requires_grad else 4) for x in built.parameters())
        has_batch_norm = any('BatchNorm' in type(module).__name__ for module in built.modules())
        has_mixes = bool((model.get('train_cfg') or {}).get('augments'))  # MMPretrain's Mixup pairs images
        self.fewest = 2 if has_batch_norm or has_mixes else 1
        self.weights: dict[str, torch.Tensor] | None = None
        self._built: tuple = ()  # the last model and its optimizer, after their options
        free = free_memory(device)
        if self.state_bytes > free:
            needed = f'{self.state_bytes / 2**30:.1f} GiB for weights, gradients and AdamW'
            raise UserError(f'{cfg.filename} needs {needed}, {free / 2**30:.1f} GiB are free on {device}; {SMALLER}')

    def _draw(self, folder: Path) -> None:
        (folder / 'image.jpg').write_bytes(draw_jpeg())  # what stands for images that are not there
        labels = np.random.default_rng(0).integers(1, 3, (6, 8), np.uint8)
        Image.fromarray(labels).resize(JPEG, Image.Resampling.NEAREST).save(folder / 'labels.png')
        try:
            self.listed = list_images(self._plain, 'train_dataloader', folder, may_list=False)
            self.sample = sample = self.load()
        except NotChecked as end:
            reason = end.problem or 'its data set is of a kind that must be listed first'
            raise UserError(f'the training pipeline must give a sample to measure a step, got none: {reason}') from end
        is_map = isinstance(sample, dict) and 'gt_sem_seg' in (sample.get('data_samples') or ())
        self.side = max(sample['inputs'].shape[1:]) if is_map else None

    def load(self) -> Any:
        """A sample, as a worker of the loader makes it."""
        return draw(self._plain, self.listed._replace(infos=copy.deepcopy(self.listed.infos)))  # transforms change them

    def build(self, options: dict[str, Any], images: int, side: int | None = None) -> Step:
        """A step with changed keys of the config, on images cut to a side. All steps have the same weights."""
        options = dict(options)
        kernels = options.pop(KERNEL_KEY, None)
        cfg = copy.deepcopy(self.cfg)
        cfg.merge_from_dict(options)
        sample = self.sample
        if side is not None and side != self.side:
            sample = cut(sample, side)
            cfg.merge_from_dict({f'{self.trunk}.img_size': side, 'model.data_preprocessor.size': (side, side)})
        batch = collate(cfg.to_dict(), 'train_dataloader', sample, images)
        key = repr((sorted(options.items()), side))
        if self._built[:1] != (key,):
            self._built = ()  # frees its memory
            self._built = key, *self._build_model(cfg)
        return Step(*self._built[1:], batch, images, kernels)

    def _build_model(self, cfg: Config) -> tuple[nn.Module, Any]:
        with torch.device(self.device), NoRandomWeights() if self.weights else torch.random.fork_rng([]):
            torch.manual_seed(0)
            model = MODELS.build(copy.deepcopy(cfg.model)).to(self.device)
        pretend_to_be_trained(model)
        self.weights = self.weights or {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(self.weights)
        return model, build_optim_wrapper(model, cfg.optim_wrapper)


@contextmanager
def out_of_memory_as_none(device: torch.device) -> Iterator[list[str]]:
    """Collects the sentence of torch's error about too little memory, and frees what a GPU still keeps."""
    shortages: list[str] = []
    try:
        yield shortages
    except (RuntimeError, MemoryError) as error:
        shortages.append(describe_shortage(error) or '')
        if not shortages[0]:
            raise
    if shortages or device.type == 'cuda':
        gc.collect()
    if device.type == 'cuda':
        torch.cuda.empty_cache()
