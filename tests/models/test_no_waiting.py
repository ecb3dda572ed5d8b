"""From the second step on, nothing in a step of pre-training waits for the device."""

import pytest
import torch
from support.tiny import PRE_TRAINING, raw_batch, tokenizer
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from beit_mm.engine import AutocastOptimWrapper
from beit_mm.models import BEiT, MaskedImageModel, VisualTokens

# What copies from a GPU to the host, or needs a number from there for the size of its result. `lift_fresh` is
# torch.tensor of numbers, whose copy to a GPU waits too.
WAITING = {'_local_scalar_dense', 'nonzero', 'is_nonzero', 'masked_select', 'equal', '_unique2', 'bincount'}
WAITING |= {'lift_fresh'}


class Waiting(TorchDispatchMode):
    """Names of the operations that would wait."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix('aten::')
        if name.startswith(('index', '_index_put')) and len(args) > 1 and isinstance(args[1], (list, tuple)):
            if any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]):
                self.names.add('index by a mask')
        self.names |= {name} & WAITING
        return func(*args, **(kwargs or {}))


def pre_training(num_masked=5, encode_dtype='float32') -> MaskedImageModel:
    torch.manual_seed(0)
    target = VisualTokens(tokenizer())
    target.tokenizer.encode_dtype = encode_dtype
    return MaskedImageModel(
        BEiT(img_size=64, embed_dim=32, depth=2, num_heads=4, drop_path_rate=0.1, **PRE_TRAINING),
        target,
        recovered=dict(type='beit_mm.MaskedPatches', num_masked=num_masked),
        data_preprocessor=dict(type='beit_mm.TwoViewPreprocessor', mean=[120.0] * 3, std=[60.0] * 3),
    ).train()


def steps(model: MaskedImageModel, optimizer=torch.optim.AdamW, fused=True, dtype='float32', **kwargs) -> list[set]:
    """What waits in each of three steps."""
    optimizer = optimizer([p for p in model.parameters() if p.requires_grad], lr=1e-3, fused=fused)
    wrapper = AutocastOptimWrapper(dtype, optimizer=optimizer, **kwargs)
    data = raw_batch()
    data['mask'] = (torch.arange(16) < 5).expand(3, -1).view(3, 4, 4)
    data.update(jitter=torch.tensor([[1.2, 0.8, 0.9, 0, 2, 1]] * 3), mean_color=torch.full((3, 3), 100.0))
    names = []
    for _ in range(3):
        with Waiting() as waiting:
            model.train_step(data, wrapper)
        names.append(waiting.names)
    return names


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
    first, *later = steps(pre_training(num_masked, encode_dtype), dtype=dtype, clip_grad=clip_grad)
    assert '_local_scalar_dense' in first, 'the checks of the first batch'
    assert later == [expected] * 2


def test_batch_norm_s_statistics_are_put_back_without_waiting():
    """UperNet's; a step that is not finite takes the same way as one that is."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    wrapper = AutocastOptimWrapper(optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True))
    images = torch.randn(2, 3, 8, 8)
    for factor in (1.0, float('nan'), 1.0):
        before = model[1].running_var.clone()
        with wrapper.optim_context(model), Waiting() as waiting:
            wrapper.update_params(model(images * factor).square().mean())
        assert not waiting.names
        assert torch.equal(model[1].running_var, before) == (factor != 1.0)


def test_an_optimizer_or_a_hook_that_waits_is_seen():
    assert '_local_scalar_dense' in steps(pre_training(), torch.optim.SGD, fused=False)[1]
    model = pre_training()
    model.backbone.cls_token.register_hook(lambda gradient: None if len(gradient[gradient > 0]) else None)
    model.backbone.cls_token.register_hook(lambda gradient: None if gradient.sum().item() else None)
    assert steps(model)[1] == {'_local_scalar_dense', 'index by a mask'}


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
def test_what_waits_is_seen(wait, name):
    x = torch.tensor([1.0, 2.0, -3.0])
    with Waiting() as waiting:
        wait(x)
    assert name in waiting.names
