"""Fine-tuning steps and inference of classifiers, of recipes at a given size."""

from collections.abc import Callable
from functools import partial

import mmpretrain
import timm
import torch
from limits import compare_steps
from measuring import Row, Sizes
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmpretrain.structures import DataSample
from steps import (
    build,
    build_hosts_wrapper,
    build_wrapper,
    device,
    inference,
    LEARNING_RATE,
    per_dtype,
    recipe,
    Step,
    training_step,
)
from timm.optim import create_optimizer_v2
from torch import nn

import beit_mm
from beit_mm.engine.optimizers.autocast_wrapper import AutocastOptimWrapper

HOSTS_RECIPE = 'beit/benchmarks/beit-base-p16_8xb128-coslr-100e_in1k.py'
VARIANTS = {'ours, no bias': dict(use_rel_pos_bias=False)}
if device() == 'cuda':
    VARIANTS['ours, compiled blocks'] = dict(compile_blocks=True)


def our_classifier(sizes: Sizes, **backbone) -> tuple[nn.Module, Config]:
    """MMPretrain's ImageClassifier with our trunk, and its recipe."""
    config = recipe(beit_mm, 'beit_finetune.py')
    config.model.backbone.update(
        img_size=sizes.size, embed_dim=sizes.width, depth=sizes.depth, num_heads=sizes.heads, **backbone
    )
    return _classifier(config, sizes)


def hosts_classifier(sizes: Sizes) -> tuple[nn.Module, Config]:
    """The same with MMPretrain's BEiTViT."""
    config = recipe(mmpretrain, HOSTS_RECIPE)
    arch = dict(
        embed_dims=sizes.width, num_layers=sizes.depth, num_heads=sizes.heads, feedforward_channels=4 * sizes.width
    )
    config.model.backbone.update(img_size=sizes.size, arch=arch)
    return _classifier(config, sizes)


def timms_classifier(sizes: Sizes) -> nn.Module:
    options = dict(img_size=sizes.size, embed_dim=sizes.width, depth=sizes.depth, num_heads=sizes.heads)
    return timm.create_model('beit_base_patch16_224', drop_path_rate=0.1, **options).to(device())


def _classifier(config: Config, sizes: Sizes) -> tuple[nn.Module, Config]:
    config.model.train_cfg = None  # augments images in the data preprocessor
    config.model.head.in_channels = sizes.width
    return build(config), config


def classifier_step(model: nn.Module, wrapper: OptimWrapper, batch: int, size: int) -> Step:
    """An update of an ImageClassifier, also one wrapped for several processes, on random images."""
    images = torch.randn(batch, 3, size, size, device=device())
    samples = [DataSample().set_gt_label(int(label)).to(device()) for label in torch.randint(1000, (batch,))]
    return training_step(model, lambda: model(images, samples, mode='loss'), wrapper)


def compare_trunks(sizes: Sizes) -> list[Row]:
    """A classifier's fine-tuning step and inference: ours in its variants, timm's (eager) and MMPretrain's."""
    rows = []
    for what, makers in {'fine-tuning step': fine_tuning_steps(sizes), 'inference': inference_steps(sizes)}.items():
        steps = {name: make() for name, make in makers.items()}
        rows += compare_steps(title(what, sizes), steps, sizes.rounds, sizes.batch)
    return rows


def title(what: str, sizes: Sizes) -> str:
    return f'{what}, {sizes.size} x {sizes.size}, width {sizes.width}, depth {sizes.depth}, {sizes.batch} images'


def fine_tuning_steps(sizes: Sizes) -> dict[str, Callable[[], Step]]:
    """What builds each candidate's step."""
    images = torch.randn(sizes.batch, 3, sizes.size, sizes.size, device=device())
    labels = torch.randint(1000, (sizes.batch,), device=device())

    def ours(dtype: str, **options) -> Step:
        model, config = our_classifier(sizes, **options)
        return classifier_step(model, build_wrapper(model, config, dtype), sizes.batch, sizes.size)

    def timms(dtype: str) -> Step:
        """With timm's own groups, one per layer and decay."""
        model = timms_classifier(sizes)
        optimizer = create_optimizer_v2(model, 'adamw', lr=LEARNING_RATE, weight_decay=0.05, layer_decay=0.65)
        return training_step(
            model,
            lambda: nn.functional.cross_entropy(model(images), labels, label_smoothing=0.1),
            AutocastOptimWrapper(dtype, optimizer=optimizer),
        )

    def hosts() -> Step:
        model, config = hosts_classifier(sizes)
        return classifier_step(model, build_hosts_wrapper(model, config), sizes.batch, sizes.size)

    variants = {**VARIANTS, 'ours, activation checkpointing': dict(with_cp=True)}
    return {
        **per_dtype('ours', ours),
        **{name: partial(ours, 'auto', **options) for name, options in variants.items()},
        **per_dtype('timm', timms),
        'MMPretrain': hosts,
    }


def inference_steps(sizes: Sizes) -> dict[str, Callable[[], Step]]:
    """What builds each candidate's inference."""
    images = torch.randn(sizes.batch, 3, sizes.size, sizes.size, device=device())
    models: dict[str, Callable[[], nn.Module]] = {
        'ours': lambda: our_classifier(sizes)[0],
        'timm': lambda: timms_classifier(sizes),
        'MMPretrain': lambda: hosts_classifier(sizes)[0],
        **{name: lambda options=options: our_classifier(sizes, **options)[0] for name, options in VARIANTS.items()},
    }
    makers = {}
    for name, make in models.items():
        makers.update(per_dtype(name, lambda dtype, make=make: inference(make().eval(), images, dtype=dtype)))
    return makers
