"""AutocastOptimWrapper: dtypes, accumulation, clipping, and logs without a DeferredRuntimeInfoHook."""

import pytest
import torch
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from beit_mm.engine import AutocastOptimWrapper
from beit_mm.engine.optimizers.autocast_wrapper import NotFinite


def wrapper_of(model, lr=0.1, **kwargs) -> AutocastOptimWrapper:
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    return OPTIM_WRAPPERS.build(dict(type='beit_mm.AutocastOptimWrapper', optimizer=optimizer, **kwargs))


@pytest.mark.parametrize(
    'options, native, computed',
    [
        ({}, True, torch.bfloat16),
        ({}, False, torch.float32),
        (dict(dtype='float32'), True, torch.float32),
        (dict(dtype='bfloat16'), False, torch.bfloat16),
    ],
)
def test_matrix_products_run_in_the_dtype_chosen(options, native, computed, monkeypatch):
    """bfloat16 needs no gradient scaler."""
    monkeypatch.setattr(torch.cpu, '_is_avx512_bf16_supported', lambda: native, raising=False)
    monkeypatch.setattr(torch.cpu, '_is_amx_tile_supported', lambda: False, raising=False)
    model = nn.Linear(4, 4)
    before, wrapper = model.bias.clone(), wrapper_of(model, **options)
    with wrapper.optim_context(model):
        output = model(torch.ones(2, 4))
        assert output.dtype == (torch.ones(2, 4) @ torch.ones(4, 4)).dtype == computed
    wrapper.update_params(output.float().sum())
    torch.testing.assert_close(before - model.bias, torch.full((4,), 0.2))
    assert not hasattr(wrapper, 'loss_scaler') and model(torch.ones(2, 4)).dtype == torch.float32


@pytest.mark.parametrize('dtype, tolerance', [('float32', 1e-6), ('bfloat16', 1e-2)])
def test_accumulated_small_batches_equal_the_large_one(dtype, tolerance):
    torch.manual_seed(0)
    large, small = nn.Linear(4, 3), nn.Linear(4, 3)
    small.load_state_dict(large.state_dict())
    inputs, targets = torch.randn(12, 4), torch.randn(12, 3)

    def step(wrapper, model, rows):
        with wrapper.optim_context(model):
            loss = (model(inputs[rows]).float() - targets[rows]).square().mean()
        wrapper.update_params(loss)

    wrapper = wrapper_of(large, dtype=dtype)
    step(wrapper, large, slice(None))
    step(wrapper, large, slice(None))
    wrapper = wrapper_of(small, dtype=dtype, accumulative_counts=3)
    wrapper.initialize_count_status(small, 0, 6)
    weights = []
    for update in range(6):
        step(wrapper, small, slice(update % 3 * 4, update % 3 * 4 + 4))
        weights.append(small.weight.clone())
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])
    torch.testing.assert_close(small.weight, large.weight, rtol=tolerance, atol=tolerance)


def test_gradients_are_clipped_and_another_dtype_is_refused():
    with pytest.raises(ValueError, match="float32.*, got 'float16'"):
        wrapper_of(nn.Linear(1, 1), dtype='float16')
    model = nn.Linear(4, 1, bias=False)
    before = model.weight.clone()
    wrapper = wrapper_of(model, lr=1.0, clip_grad=dict(max_norm=0.5))
    wrapper.update_params(model(torch.full((1, 4), 100.0)).sum())
    assert (before - model.weight).norm().item() == pytest.approx(0.5, rel=1e-4)


def test_without_the_hook_it_logs_every_ten_updates_waits_at_none_and_ends_after_three_bad_ones(monkeypatch):
    model = nn.Linear(2, 1)
    wrapper = AutocastOptimWrapper('float32', optimizer=torch.optim.AdamW(model.parameters(), fused=True))
    monkeypatch.setattr(torch.Tensor, '__float__', lambda tensor: pytest.fail('waits for the device'))
    monkeypatch.setattr(torch.Tensor, '__bool__', lambda tensor: pytest.fail('waits for the device'))

    def update(factor: float) -> None:
        with wrapper.optim_context(model):
            wrapper.update_params(model(torch.ones(1, 2)).square().mean() * factor)

    for factor in (float('nan'), float('inf'), *[1.0] * 14, *[float('nan')] * 3):
        update(factor)
    assert len(wrapper.message_hub.get_scalar('train/grad_norm').data[0]) == 10
    with pytest.raises(NotFinite, match='3 updates in a row were skipped, the last for grad_norm .* at iteration 19'):
        update(1.0)
    monkeypatch.undo()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
