"""AnnealHook moves an attribute of the model along half a cosine."""

import math
from types import SimpleNamespace

import pytest
from mmengine.registry import HOOKS
from torch import nn


@pytest.mark.parametrize(
    'start, end, iteration, value',
    [
        (1.0, 0.5, 0, 1.0),
        (1.0, 0.5, 25, 0.75 + 0.25 * math.sqrt(0.5)),
        (1.0, 0.5, 100, 0.5),
        (0.0, 6.6, 50, 3.3),
        (0.0, 6.6, 10_000, 6.6),
    ],
)
def test_the_attribute_moves_along_half_a_cosine_by_the_iteration_alone(start, end, iteration, value):
    hook = HOOKS.build(dict(type='beit_mm.AnnealHook', attribute='temperature', start=start, end=end, num_iters=100))
    model, logged = nn.Identity(), {}
    hub = SimpleNamespace(update_scalar=logged.__setitem__)
    runner = SimpleNamespace(model=nn.DataParallel(model), iter=iteration, message_hub=hub)
    with pytest.raises(ValueError, match="Identity has no 'temperature'"):
        hook.before_train(runner)
    model.temperature = 7.0
    hook.before_train(runner)
    hook.before_train_iter(runner, batch_idx=3)
    assert model.temperature == pytest.approx(value) and logged == {'train/temperature': model.temperature}
