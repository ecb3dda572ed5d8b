"""AnnealHook moves an attribute of the model along half a cosine."""

import math
from types import SimpleNamespace

import pytest
from mmengine.registry import HOOKS
from torch import nn


class Hub(dict):
    def update_scalar(self, name, value):
        self[name] = value


@pytest.mark.parametrize('is_wrapped', [False, True])
@pytest.mark.parametrize(
    'start, end, iteration, value',
    [
        (1.0, 0.5, 0, 1.0),
        (1.0, 0.5, 25, 0.75 + 0.25 * math.sqrt(0.5)),
        (1.0, 0.5, 50, 0.75),
        (1.0, 0.5, 100, 0.5),
        (1.0, 0.5, 10_000, 0.5),
        (0.0, 6.6, 0, 0.0),
        (0.0, 6.6, 50, 3.3),
        (0.0, 6.6, 101, 6.6),
    ],
)
def test_the_attribute_moves_along_half_a_cosine_by_the_iteration_alone(start, end, iteration, value, is_wrapped):
    config = dict(type='beit_mm.AnnealHook', attribute='temperature', start=start, end=end, num_iters=100)
    hook, model = HOOKS.build(config), nn.Identity()
    model.temperature = 7.0
    runner = SimpleNamespace(model=nn.DataParallel(model) if is_wrapped else model, iter=iteration, message_hub=Hub())
    hook.before_train(runner)
    assert model.temperature == 7.0
    hook.before_train_iter(runner, batch_idx=3)
    assert model.temperature == pytest.approx(value)
    assert runner.message_hub == {'train/temperature': model.temperature}


def test_an_attribute_that_the_model_lacks_is_refused_before_training():
    hook = HOOKS.build(dict(type='beit_mm.AnnealHook', attribute='temprature', start=1.0, end=0.5, num_iters=100))
    with pytest.raises(ValueError, match="Identity has no 'temprature'"):
        hook.before_train(SimpleNamespace(model=nn.Identity()))
