"""Pre-training steps with a tokenizer, of recipes at a given size."""

from types import SimpleNamespace

import mmpretrain
import torch
from limits import compare_steps
from measuring import Row
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from peers import ReleasesModel
from steps import build_hosts_wrapper, build_wrapper, device, LEARNING_RATE, per_dtype, recipe, Step, training_step
from torch import nn, Tensor

import beit_mm
from beit_mm.models import MaskedImageModel
from beit_mm.registry import MODELS as OUR_MODELS

HOSTS_RECIPE = 'beit/beit_beit-base-p16_8xb256-amp-coslr-300e_in1k.py'
# The release: torch's AdamW over two groups, those with decay and those without; float16 with a scaler on a GPU.
RELEASES_OPTIMIZER = Config(dict(default_scope='mmpretrain', optim_wrapper=dict(
    constructor='beit_mm.LayerDecayOptimWrapperConstructor', clip_grad=dict(max_norm=3.0),
    optimizer=dict(type='AdamW', lr=LEARNING_RATE, weight_decay=0.05))))  # yapf: disable


def our_model(
    width: int, depth: int, n_hid: int, encode_dtype: str = 'float32', compiled: bool = False
) -> tuple[MaskedImageModel, Config]:
    """Ours and its recipe.

    Args:
        encode_dtype: of the tokenizer, see DiscreteVAE.
        compiled: compile the blocks and the encoder.
    """
    config = recipe(beit_mm, 'beit_pretrain.py')
    config.model.backbone.update(embed_dim=width, depth=depth, num_heads=width // 64, compile_blocks=compiled)
    config.model.target.tokenizer.update(
        init_cfg=None, n_hid=n_hid, encode_dtype=encode_dtype, compile_encoder=compiled
    )
    with DefaultScope.overwrite_default_scope(config.default_scope):
        return OUR_MODELS.build(config.model), config


def hosts_model(width: int, depth: int, n_hid: int) -> tuple[nn.Module, Config]:
    """MMPretrain's and its recipe."""
    config = recipe(mmpretrain, HOSTS_RECIPE)
    config.model.backbone.arch = dict(
        embed_dims=width, num_layers=depth, num_heads=width // 64, feedforward_channels=4 * width
    )
    config.model.head.embed_dims = width
    config.model.target_generator = dict(type='DALL-E', n_hid=n_hid)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        return MODELS.build(config.model), config


def compare_pretraining(
    rounds: int = 3, batch: int = 8, depth: int = 12, width: int = 768, n_hid: int = 256
) -> list[Row]:
    """A pre-training step at 224 x 224 with the tokenizer at 112 x 112.

    Args:
        rounds: how often each candidate is timed.
        batch: images in a step.
        depth, width: of the trunk; a head is 64 wide.
        n_hid: width of the tokenizer.
    """
    images, views = torch.randn(batch, 3, 224, 224, device=device()), torch.rand(batch, 3, 112, 112, device=device())
    mask = torch.stack([torch.randperm(196) < 75 for _ in range(batch)]).view(batch, 14, 14).to(device())
    candidates = per_dtype('ours')
    if device() == 'cuda':
        half = dict(dtype='auto', encode_dtype='float16')
        candidates.update({'ours, half-precision tokenizer': half, 'the same, compiled': dict(half, compiled=True)})
    steps = {
        name: _our_step((width, depth, n_hid), (images, views, mask), **options) for name, options in candidates.items()
    }
    release = ReleasesModel(width, depth, width // 64, n_hid)
    steps["the release's steps"] = training_step(
        release, lambda: release(images, views, mask), build_hosts_wrapper(release, RELEASES_OPTIMIZER)
    )
    steps['MMPretrain'] = _hosts_step(hosts_model(width, depth, n_hid), images, views, mask)
    return compare_steps(
        f'pre-training step, width {width}, depth {depth}, tokenizer {n_hid}, {batch} images', steps, rounds, batch
    )


def _our_step(sizes: tuple[int, int, int], inputs: tuple[Tensor, Tensor, Tensor], dtype: str, **options) -> Step:
    model, config = our_model(*sizes, **options)
    return training_step(
        model, lambda: model.parse_losses(model(*inputs, mode='loss'))[0], build_wrapper(model, config, dtype)
    )


def _hosts_step(built: tuple[nn.Module, Config], images: Tensor, views: Tensor, mask: Tensor) -> Step:
    model, config = built
    samples = [SimpleNamespace(mask=one) for one in mask]
    mapped = 0.8 * views + 0.1  # which its preprocessor gives
    return training_step(
        model, lambda: model.parse_losses(model.loss([images, mapped], samples))[0], build_hosts_wrapper(model, config)
    )
