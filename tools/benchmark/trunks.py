"""Fine-tuning steps and inference of classifiers, of recipes at a given size."""

import mmpretrain
import timm
import torch
from limits import compare_steps
from measuring import Row
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from steps import (
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
from torch import nn, Tensor

import beit_mm
from beit_mm.engine.optimizers.autocast_wrapper import AutocastOptimWrapper

HOSTS_RECIPE = 'beit/benchmarks/beit-base-p16_8xb128-coslr-100e_in1k.py'


def our_classifier(width: int, depth: int, size: int, **backbone) -> tuple[nn.Module, Config]:
    """MMPretrain's ImageClassifier with our trunk, and its recipe."""
    config = recipe(beit_mm, 'beit_finetune.py')
    config.model.backbone.update(img_size=size, embed_dim=width, depth=depth, num_heads=width // 64, **backbone)
    return _classifier(config, width)


def hosts_classifier(width: int, depth: int, size: int) -> tuple[nn.Module, Config]:
    """The same with MMPretrain's BEiTViT."""
    config = recipe(mmpretrain, HOSTS_RECIPE)
    config.model.backbone.update(
        img_size=size,
        arch=dict(embed_dims=width, num_layers=depth, num_heads=width // 64, feedforward_channels=4 * width),
    )
    return _classifier(config, width)


def _classifier(config: Config, width: int) -> tuple[nn.Module, Config]:
    config.model.train_cfg = None  # augments images in the data preprocessor
    config.model.head.in_channels = width
    with DefaultScope.overwrite_default_scope(config.default_scope):
        return MODELS.build(config.model), config


def classifier_step(model: nn.Module, wrapper: OptimWrapper, batch: int, size: int) -> Step:
    """An update of an ImageClassifier, also one wrapped for several processes, on random images."""
    images = torch.randn(batch, 3, size, size, device=device())
    samples = [DataSample().set_gt_label(int(label)).to(device()) for label in torch.randint(1000, (batch,))]
    parse_losses = getattr(model, 'module', model).parse_losses
    return training_step(model, lambda: parse_losses(model(images, samples, mode='loss'))[0], wrapper)


def compare_trunks(rounds: int = 3, batch: int = 8, size: int = 224, depth: int = 12, width: int = 768) -> list[Row]:
    """A classifier's fine-tuning step and inference: ours in its variants, timm's (eager) and MMPretrain's.

    Args:
        rounds: how often each candidate is timed.
        batch: images in a step.
        size: side of an image, a multiple of 16.
        depth, width: of the trunk; a head is 64 wide.
    """
    what = f'{size} x {size}, width {width}, depth {depth}, {batch} images'
    return compare_steps(
        f'fine-tuning step, {what}', _fine_tuning_steps(batch, size, depth, width), rounds, batch
    ) + compare_steps(f'inference, {what}', _inference_steps(batch, size, depth, width), rounds, batch)


def _variants() -> dict[str, dict]:
    variants = {'ours, no bias': dict(use_rel_pos_bias=False)}
    if device() == 'cuda':
        variants['ours, compiled blocks'] = dict(compile_blocks=True)
    return variants


def _timm(width: int, depth: int, size: int) -> nn.Module:
    return timm.create_model(
        'beit_base_patch16_224', img_size=size, embed_dim=width, depth=depth, num_heads=width // 64, drop_path_rate=0.1
    )


def _fine_tuning_steps(batch: int, size: int, depth: int, width: int) -> dict[str, Step]:
    steps = {}
    variants = dict(_variants(), **{'ours, activation checkpointing': dict(with_cp=True)})
    for name, options in {**per_dtype('ours'), **variants}.items():
        dtype = options.pop('dtype', 'auto')
        model, config = our_classifier(width, depth, size, **options)
        steps[name] = classifier_step(model, build_wrapper(model, config, dtype), batch, size)
    images = torch.randn(batch, 3, size, size, device=device())
    labels = torch.randint(1000, (batch,), device=device())
    for name, options in per_dtype('timm').items():
        steps[name] = _timms_step(_timm(width, depth, size), options['dtype'], images, labels)
    model, config = hosts_classifier(width, depth, size)
    steps['MMPretrain'] = classifier_step(model, build_hosts_wrapper(model, config), batch, size)
    return steps


def _timms_step(model: nn.Module, dtype: str, images: Tensor, labels: Tensor) -> Step:
    """With timm's own groups, one per layer and decay."""
    model.to(device())
    optimizer = create_optimizer_v2(model, 'adamw', lr=LEARNING_RATE, weight_decay=0.05, layer_decay=0.65)
    return training_step(
        model,
        lambda: nn.functional.cross_entropy(model(images), labels, label_smoothing=0.1),
        AutocastOptimWrapper(dtype, optimizer=optimizer),
    )


def _inference_steps(batch: int, size: int, depth: int, width: int) -> dict[str, Step]:
    images = torch.randn(batch, 3, size, size, device=device())
    models = {
        'ours': our_classifier(width, depth, size)[0],
        'timm': _timm(width, depth, size),
        'MMPretrain': hosts_classifier(width, depth, size)[0],
    }
    models.update((name, our_classifier(width, depth, size, **options)[0]) for name, options in _variants().items())
    steps = {}
    for name, model in models.items():
        model.to(device()).eval()
        for label, options in per_dtype(name).items():
            dtype = torch.float32 if options['dtype'] == 'float32' else None
            steps[label] = inference(model, images, dtype=dtype)
    return steps
