"""Rates, weight decays and batches of every recipe against the release's formulas, over its whole length.

The formulas (BEiT release, `cosine_scheduler` and `get_num_layer_for_vit`; MMCV 1's polynomial with linear warm-up, for
segmentation) and the settings (recipe_table.py) are written down here a second time.
"""

import json
import math
from functools import cache

import pytest
import torch
from mmengine.config import Config
from support.recipe_table import Recipe, RECIPES, TOKENIZERS_V2
from support.recipes import build_schedules, load, meta_model, optim_wrapper

each = pytest.mark.parametrize('name', RECIPES)


def cosine(recipe: Recipe, update: int) -> float:
    """A line from 0 over the warm-up, then half a cosine to the floor."""
    if update < recipe.warmup_length:
        return recipe.lr * update / (recipe.warmup_length - 1)
    progress = (update - recipe.warmup_length) / (recipe.updates - recipe.warmup_length)
    return recipe.floor + (recipe.lr - recipe.floor) * (1 + math.cos(math.pi * progress)) / 2


def polynomial(recipe: Recipe, step: int) -> float:
    """A line to 0 over all steps, times a line from 1e-6 to 1 over the warm-up."""
    warmth = 1 - (1 - min(step / recipe.warmup, 1)) * (1 - 1e-6)
    return recipe.lr * (1 - step / recipe.length) * warmth


def layer_of(name: str, depth: int) -> int:
    """0 for what comes before the blocks, i for block i counted from 1, and one more than the last for the rest."""
    name = name.removeprefix('backbone.')
    if name in ('cls_token', 'mask_token', 'pos_embed') or name.startswith('patch_embed.'):
        return 0
    return int(name.split('.')[1]) + 1 if name.startswith('blocks.') else depth + 1


def is_decayed(name: str, parameter: torch.Tensor) -> bool:
    return parameter.ndim > 1 and not name.endswith(('.bias', 'pos_embed', 'cls_token'))


def epoch_length(cfg: Config, recipe: Recipe) -> int:
    """Steps of an epoch, as MMEngine's sampler (which fills up) and loader (which drops the incomplete batch) count."""
    gpus, images, _ = recipe.hardware
    loader = cfg.train_dataloader
    assert loader.drop_last and loader.sampler.type in ('DefaultSampler', 'RepeatAugSampler')
    return math.ceil(recipe.images / gpus) // images


@cache
def walk(schedules: str, steps_per_epoch: int, steps: tuple[int, ...]) -> list[float]:
    """The rate at some steps of a run that begins with 1, from MMEngine's schedules stepped that far."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    running = build_schedules(json.loads(schedules), optimizer, steps_per_epoch)
    actual = []
    for step in range(steps[-1] + 1):
        if step in steps:
            actual.append(optimizer.param_groups[0]['lr'])
        for schedule in running:
            schedule.step()
    return actual


def shorten(recipe: Recipe) -> Recipe:
    """The same epochs with fewer images, if a run has over 100,000 updates and warms up by epochs."""
    if not recipe.images or recipe.warmup_updates:
        return recipe
    return recipe._replace(images=recipe.images // max(1, recipe.updates // 50_000))


def marks(recipe: Recipe) -> list[int]:
    """First update, middle and end of the warm-up, the next, middle, last."""
    start, stop = recipe.warmup_length, recipe.updates
    return [0, start // 2, start - 1, start, (start + stop) // 2, stop - 1]


@pytest.mark.filterwarnings('ignore:Detected call of')
@each
def test_rates_and_weight_decays_are_the_releases(name):
    recipe, cfg = shorten(RECIPES[name]), load(name)
    model, groups = meta_model(name), optim_wrapper(name).optimizer.param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    depth = len(model.backbone.blocks)
    # A run counts steps; an update comes with the last of those that are accumulated. Segmentation counts steps itself.
    per_update = recipe.hardware[2] if recipe.images else 1
    steps = tuple((mark + 1) * per_update - 1 for mark in marks(recipe))
    actual = walk(json.dumps(cfg.param_scheduler), epoch_length(cfg, recipe) if recipe.images else 1, steps)
    formula = cosine if recipe.images else polynomial
    expected = [formula(recipe, mark) for mark in marks(recipe)]
    for group in groups:
        for parameter in group['params']:
            own = names[id(parameter)]
            scale = recipe.layer_decay ** (depth + 1 - layer_of(own, depth))
            assert group['weight_decay'] == (recipe.weight_decay if is_decayed(own, parameter) else 0), own
            assert group['lr'] == pytest.approx(scale * recipe.lr, rel=1e-9), own
    # All rates are that of the last layer times a factor.
    assert actual[0] <= 1e-3
    assert [recipe.lr * factor for factor in actual[1:]] == pytest.approx(expected[1:], rel=0.01, abs=0)
    assert sum(len(group['params']) for group in groups) == sum(p.requires_grad for p in model.parameters())


@each
def test_length_batch_regularisation_and_pixels_are_as_in_the_table(name):
    recipe, cfg = RECIPES[name], load(name)
    gpus, images, accumulated = recipe.hardware
    assert (cfg.train_cfg.max_epochs if recipe.images else cfg.train_cfg.max_iters) == recipe.length
    assert not recipe.images or epoch_length(cfg, recipe) // accumulated == recipe.images // recipe.batch
    assert gpus * images * accumulated == recipe.batch
    assert cfg.train_dataloader.batch_size == images
    assert cfg.optim_wrapper.get('accumulative_counts', 1) == accumulated
    # MMEngine compares it with GPUs x images, whatever is accumulated.
    assert cfg.auto_scale_lr.base_batch_size == gpus * images

    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.betas, optimizer.eps) == ('AdamW', recipe.betas, 1e-8)
    assert cfg.optim_wrapper.get('clip_grad') == (None if recipe.clip is None else dict(max_norm=recipe.clip))
    assert cfg.model.backbone.drop_path_rate == recipe.drop_path
    assert 'head' not in cfg.model or cfg.model.head.loss.label_smooth_val == 0.1
    augments = {augment.type: augment.alpha for augment in (cfg.model.get('train_cfg') or {}).get('augments', [])}
    assert augments == (dict(Mixup=0.8, CutMix=1.0) if recipe.mixes else {})

    # One half after ImageNet-22k, but ImageNet's in segmentation.
    halves = '22k' in name and 'segment' not in name
    preprocessor = cfg.model.data_preprocessor
    assert preprocessor.mean == ([127.5] * 3 if halves else [123.675, 116.28, 103.53])
    assert preprocessor.std == ([127.5] * 3 if halves else [58.395, 57.12, 57.375])


@pytest.mark.filterwarnings('ignore:Detected call of')
@pytest.mark.parametrize('name', TOKENIZERS_V2)
def test_tokenizers_of_v2_are_trained_as_in_the_release(name):
    """512 images per update, a line from 1e-6 to 2e-4 over 10 epochs, half a cosine to 1e-5 at the end of epoch 100."""
    cfg = load(name)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.betas) == ('AdamW', 5e-5 * 512 / 128, (0.9, 0.99))
    assert (cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_size, cfg.auto_scale_lr.base_batch_size) == (
        100,
        64,
        512,
    )
    assert cfg.optim_wrapper.get('clip_grad') is None
    steps_per_epoch = 20  # instead of 2,502
    parameter = torch.nn.Parameter(torch.zeros(1))
    running = build_schedules(cfg.param_scheduler, torch.optim.SGD([parameter], lr=optimizer.lr), steps_per_epoch)
    rates = []
    for _ in range(100 * steps_per_epoch):
        rates.append(running[0].optimizer.param_groups[0]['lr'])
        for schedule in running:
            schedule.step()
    middle = (2e-4 + 1e-5) / 2
    actual = [rates[index] for index in (0, 10 * steps_per_epoch, 55 * steps_per_epoch, -1)]
    assert actual == pytest.approx([1e-6, 2e-4, middle, 1e-5], rel=0.01)
    names = {id(parameter): name for name, parameter in meta_model(name).named_parameters()}
    for group in optim_wrapper(name).optimizer.param_groups:
        for parameter in group['params']:
            own = names[id(parameter)]
            assert not own.startswith('teacher')
            assert group['weight_decay'] == (1e-4 if is_decayed(own.split('.', 1)[1], parameter) else 0), own
