"""AnnealHook moves an attribute of the model along half a cosine."""

import math
from types import SimpleNamespace

import pytest
from mmengine.registry import HOOKS
from torch import nn


def build(attribute: str, start: float, end: float):
    return HOOKS.build(dict(type='beit_mm.AnnealHook', attribute=attribute, start=start, end=end, num_iters=100))


@pytest.mark.parametrize('is_wrapped', [False, True])
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
def test_the_attribute_moves_along_half_a_cosine_by_the_iteration_alone(start, end, iteration, value, is_wrapped):
    hook, model, logged = build('temperature', start, end), nn.Identity(), {}
    model.temperature = 7.0
    hub = SimpleNamespace(update_scalar=logged.__setitem__)
    runner = SimpleNamespace(model=nn.DataParallel(model) if is_wrapped else model, iter=iteration, message_hub=hub)
    hook.before_train(runner)
    hook.before_train_iter(runner, batch_idx=3)
    assert model.temperature == pytest.approx(value) and logged == {'train/temperature': model.temperature}


def test_an_attribute_that_the_model_lacks_is_refused_before_training():
    with pytest.raises(ValueError, match="Identity has no 'temprature'"):
        build('temprature', 1.0, 0.5).before_train(SimpleNamespace(model=nn.Identity()))
