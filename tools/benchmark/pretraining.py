"""Pre-training steps with a tokenizer, of recipes at a given size."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import mmpretrain
import torch
from limits import compare_steps
from measuring import Row, Sizes
from mmengine.config import Config
from peers import ReleasesModel
from steps import (
    build,
    build_hosts_wrapper,
    build_wrapper,
    device,
    LEARNING_RATE,
    per_dtype,
    recipe,
    Step,
    training_step,
)
from torch import nn

import beit_mm

HOSTS_RECIPE = 'beit/beit_beit-base-p16_8xb256-amp-coslr-300e_in1k.py'
# The release: torch's AdamW over two groups, those with decay and those without; float16 with a scaler on a GPU.
RELEASES_OPTIMIZER = Config(dict(default_scope='mmpretrain', optim_wrapper=dict(
    constructor='beit_mm.LayerDecayOptimWrapperConstructor', clip_grad=dict(max_norm=3.0),
    optimizer=dict(type='AdamW', lr=LEARNING_RATE, weight_decay=0.05))))  # yapf: disable


def tokenizer_width(sizes: Sizes) -> int:
    """As much narrower than OpenAI's (256) as the trunk is than base."""
    return max(sizes.width // 3, 8)


def our_model(sizes: Sizes, **switches) -> tuple[nn.Module, Config]:
    """Ours and its recipe.

    Args:
        switches: `encode_dtype` and `compile_encoder` of the tokenizer, see DiscreteVAE; others are the trunk's.
    """
    config = recipe(beit_mm, 'beit_pretrain.py')
    trunk, tokenizer = config.model.backbone, config.model.target.tokenizer
    trunk.update(embed_dim=sizes.width, depth=sizes.depth, num_heads=sizes.heads)
    tokenizer.update(init_cfg=None, n_hid=tokenizer_width(sizes))
    for name, value in switches.items():
        (tokenizer if 'encode' in name else trunk)[name] = value
    return build(config), config


def second_model(sizes: Sizes) -> tuple[nn.Module, Config]:
    """Ours of BEiT v2 and its recipe. Its tokenizer is as deep and wide as the trunk, with random codes."""
    config = recipe(beit_mm, 'pretrain/beitv2_base_1k_300e.py')
    size = dict(embed_dim=sizes.width, num_heads=sizes.heads)
    config.model.backbone.update(depth=sizes.depth, **size)
    config.model.bottleneck.update(early_layers=max(3 * sizes.depth // 4, 1))
    config.model.target.tokenizer.update(init_cfg=None, encoder_depth=sizes.depth, **size)
    model = build(config)
    tokenizer = model.target.tokenizer
    tokenizer.has_encoder = True
    nn.init.normal_(tokenizer.quantize.codes)
    return model, config


def hosts_model(sizes: Sizes) -> tuple[nn.Module, Config]:
    """MMPretrain's and its recipe."""
    config = recipe(mmpretrain, HOSTS_RECIPE)
    config.model.backbone.arch = dict(
        embed_dims=sizes.width, num_layers=sizes.depth, num_heads=sizes.heads, feedforward_channels=4 * sizes.width
    )
    config.model.head.embed_dims = sizes.width
    config.model.target_generator = dict(type='DALL-E', n_hid=tokenizer_width(sizes))
    return build(config), config


def pretraining_steps(sizes: Sizes, variants: dict[str, dict]) -> dict[str, Callable[[], Step]]:
    """What builds each candidate's step, at 224 x 224 with the tokenizer at 112 x 112, and of BEiT v2, whose is at
    224 x 224.

    Args:
        variants: switches of our_model by name.
    """
    batch = sizes.batch
    images, views = torch.randn(batch, 3, 224, 224, device=device()), torch.rand(batch, 3, 112, 112, device=device())
    mask = torch.stack([torch.randperm(196) < 75 for _ in range(batch)]).view(batch, 14, 14).to(device())

    def ours(dtype: str, **switches) -> Step:
        model, config = our_model(sizes, **switches)
        return training_step(
            model, lambda: model(images, views, mask, mode='loss'), build_wrapper(model, config, dtype)
        )

    def second() -> Step:
        model, config = second_model(sizes)
        return training_step(
            model, lambda: model(images, images, mask, mode='loss'), build_wrapper(model, config, 'auto')
        )

    def release() -> Step:
        model = ReleasesModel(sizes.width, sizes.depth, sizes.heads, tokenizer_width(sizes))
        return training_step(model, lambda: model(images, views, mask), build_hosts_wrapper(model, RELEASES_OPTIMIZER))

    def hosts() -> Step:
        model, config = hosts_model(sizes)
        inputs = [images, 0.8 * views + 0.1]  # which its preprocessor gives
        samples = [SimpleNamespace(mask=of_image) for of_image in mask]
        return training_step(model, lambda: model.loss(inputs, samples), build_hosts_wrapper(model, config))

    return {
        **per_dtype('ours', ours),
        **{name: partial(ours, 'auto', **switches) for name, switches in variants.items()},
        'ours, BEiT v2': second,
        "the release's steps": release,
        'MMPretrain': hosts,
    }


def compare_pretraining(sizes: Sizes) -> list[Row]:
    """A pre-training step of each."""
    variants: dict[str, dict] = {}
    if device() == 'cuda':
        half = dict(encode_dtype='float16')
        variants['ours, half-precision tokenizer'] = half
        variants['the same, compiled'] = dict(half, compile_blocks=True, compile_encoder=True)
    steps = {name: make() for name, make in pretraining_steps(sizes, variants).items()}
    return compare_steps(title(sizes), steps, sizes.rounds, sizes.batch)


def title(sizes: Sizes) -> str:
    what = f'width {sizes.width}, depth {sizes.depth}, tokenizer {tokenizer_width(sizes)}'
    return f'pre-training step, {what}, {sizes.batch} images'
