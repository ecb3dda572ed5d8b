"""From the second step on, nothing in a step of pre-training waits for the device."""

import pytest
import torch
from support.tiny import PRE_TRAINING
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import beit_mm
from beit_mm.models import BEiT, DiscreteVAE, MaskedImageModel, VisualTokens

# What copies from a GPU to the host, or needs a number from there for the size of its result.
# `lift_fresh` is torch.tensor of numbers, whose copy to a GPU waits too.
WAITING = (
    '_local_scalar_dense',
    'nonzero',
    'is_nonzero',
    'masked_select',
    'equal',
    '_unique2',
    'bincount',
    'lift_fresh',
)


class Waiting(TorchDispatchMode):
    """Names of the operations that would wait."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix('aten::')
        if name in WAITING:
            self.found.append(name)
        if name.startswith(('index', '_index_put')) and len(args) > 1 and isinstance(args[1], (list, tuple)):
            if any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]):
                self.found.append('index by a mask')
        return func(*args, **(kwargs or {}))


def pre_training(num_masked, dtype, clip_grad=None, **tokenizer):
    torch.manual_seed(0)
    trunk = BEiT(img_size=64, embed_dim=32, depth=2, num_heads=4, drop_path_rate=0.1, **PRE_TRAINING)
    target = VisualTokens(DiscreteVAE(vocab_size=16, n_hid=8, n_init=8, blocks_per_group=1, **tokenizer))
    model = MaskedImageModel(
        trunk,
        target,
        recovered=dict(type='beit_mm.MaskedPatches', num_masked=num_masked),
        data_preprocessor=dict(type='beit_mm.TwoViewPreprocessor', mean=[120.0] * 3, std=[60.0] * 3),
    ).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, fused=True)
    wrapper = beit_mm.engine.AutocastOptimWrapper(dtype, optimizer=optimizer, clip_grad=clip_grad)
    return model, wrapper


def batch():
    generator = torch.Generator().manual_seed(1)
    return dict(
        inputs=torch.randint(256, (2, 3, 64, 64), generator=generator).byte(),
        views=torch.randint(256, (2, 3, 32, 32), generator=generator).byte(),
        mask=torch.stack([torch.randperm(16, generator=generator) < 5 for _ in range(2)]).view(2, 4, 4),
        jitter=torch.tensor([[1.2, 0.8, 0.9, 0, 2, 1]] * 2),
        mean_color=torch.full((2, 3), 100.0),
    )


@pytest.mark.parametrize(
    'max_norm, num_masked, expected, encode_dtype, dtype',
    [
        (3.0, 5, set(), 'float32', 'bfloat16'),
        (None, 5, set(), 'float16', 'float32'),
        (3.0, None, {'nonzero'}, 'bfloat16', 'bfloat16'),
    ],
)
def test_after_the_first_step_only_an_unknown_number_of_masks_waits(
    max_norm, num_masked, expected, encode_dtype, dtype
):
    clip_grad = None if max_norm is None else dict(max_norm=max_norm)
    model, wrapper = pre_training(num_masked, dtype, clip_grad, encode_dtype=encode_dtype)
    steps, data = [], batch()
    for _ in range(3):
        with Waiting() as waiting:
            model.train_step(data, wrapper)
        steps.append(set(waiting.found))
    assert '_local_scalar_dense' in steps[0], 'the checks of the first batch'
    assert steps[1:] == [expected] * 2


def test_batch_norm_s_statistics_are_put_back_without_waiting():
    """UperNet's; a step that is not finite takes the same way as one that is."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    wrapper = beit_mm.engine.AutocastOptimWrapper(optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True))
    images = torch.randn(2, 3, 8, 8)
    for factor in (1.0, float('nan'), 1.0):
        before = model[1].running_var.clone()
        with wrapper.optim_context(model), Waiting() as waiting:
            wrapper.update_params(model(images * factor).square().mean())
        assert waiting.found == []
        assert torch.equal(model[1].running_var, before) == (factor != 1.0)


def test_an_optimiser_that_cannot_skip_on_the_device_is_found():
    model, _ = pre_training(5, 'float32')
    wrapper = beit_mm.engine.AutocastOptimWrapper('float32', optimizer=torch.optim.SGD(model.backbone.parameters()))
    model.train_step(batch(), wrapper)
    with Waiting() as waiting:
        model.train_step(batch(), wrapper)
    assert '_local_scalar_dense' in waiting.found


def test_what_waits_in_the_backward_pass_or_at_the_update_is_found():
    model, wrapper = pre_training(5, 'float32')
    model.train_step(batch(), wrapper)
    data = batch()
    model.backbone.cls_token.register_hook(lambda gradient: None if len(gradient[gradient > 0]) else None)
    model.backbone.cls_token.register_hook(lambda gradient: None if gradient.sum().item() else None)
    with Waiting() as waiting:
        model.train_step(data, wrapper)
    assert sorted(waiting.found) == ['_local_scalar_dense', 'index by a mask']


@pytest.mark.parametrize(
    'wait, name',
    [
        (lambda x: x.sum().item(), '_local_scalar_dense'),
        (lambda x: bool((x > 0).any()), '_local_scalar_dense'),
        (lambda x: x[x > 0], 'index by a mask'),
        (lambda x: x.__setitem__(x > 0, torch.ones(2)), 'index by a mask'),
        (lambda x: x.masked_select(x > 0), 'masked_select'),
        (lambda x: torch.equal(x, x), 'equal'),
        (lambda x: x.unique(), '_unique2'),
        (lambda x: x + torch.tensor([1.0]), 'lift_fresh'),
    ],
)
def test_what_waits_is_found(wait, name):
    x = torch.tensor([1.0, 2.0, -3.0])
    with Waiting() as waiting:
        wait(x)
    assert name in waiting.found
