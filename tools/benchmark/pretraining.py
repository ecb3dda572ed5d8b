"""Pre-training steps with a tokenizer, of recipes at a given size."""

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


def our_model(sizes: Sizes, encode_dtype: str = 'float32', compiled: bool = False) -> tuple[nn.Module, Config]:
    """Ours and its recipe.

    Args:
        encode_dtype: of the tokenizer, see DiscreteVAE.
        compiled: compile the blocks and the encoder.
    """
    config = recipe(beit_mm, 'beit_pretrain.py')
    trunk, tokenizer = config.model.backbone, config.model.target.tokenizer
    trunk.update(embed_dim=sizes.width, depth=sizes.depth, num_heads=sizes.heads, compile_blocks=compiled)
    tokenizer.update(init_cfg=None, n_hid=tokenizer_width(sizes), encode_dtype=encode_dtype, compile_encoder=compiled)
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


def compare_pretraining(sizes: Sizes) -> list[Row]:
    """A pre-training step at 224 x 224 with the tokenizer at 112 x 112, and of BEiT v2, whose is at 224 x 224."""
    batch = sizes.batch
    images, views = torch.randn(batch, 3, 224, 224, device=device()), torch.rand(batch, 3, 112, 112, device=device())
    mask = torch.stack([torch.randperm(196) < 75 for _ in range(batch)]).view(batch, 14, 14).to(device())

    def our_step(dtype: str, **options) -> Step:
        model, config = our_model(sizes, **options)
        return training_step(
            model, lambda: model(images, views, mask, mode='loss'), build_wrapper(model, config, dtype)
        )

    steps = per_dtype('ours', our_step)
    if device() == 'cuda':
        steps['ours, half-precision tokenizer'] = our_step('auto', encode_dtype='float16')
        steps['the same, compiled'] = our_step('auto', encode_dtype='float16', compiled=True)
    second, config = second_model(sizes)
    steps['ours, BEiT v2'] = training_step(
        second, lambda: second(images, images, mask, mode='loss'), build_wrapper(second, config, 'auto')
    )
    release = ReleasesModel(sizes.width, sizes.depth, sizes.heads, tokenizer_width(sizes))
    steps["the release's steps"] = training_step(
        release, lambda: release(images, views, mask), build_hosts_wrapper(release, RELEASES_OPTIMIZER)
    )
    model, config = hosts_model(sizes)
    inputs = [images, 0.8 * views + 0.1]  # which its preprocessor gives
    samples = [SimpleNamespace(mask=of_image) for of_image in mask]
    steps['MMPretrain'] = training_step(model, lambda: model.loss(inputs, samples), build_hosts_wrapper(model, config))
    what = f'width {sizes.width}, depth {sizes.depth}, tokenizer {tokenizer_width(sizes)}, {batch} images'
    return compare_steps(f'pre-training step, {what}', steps, sizes.rounds, batch)
