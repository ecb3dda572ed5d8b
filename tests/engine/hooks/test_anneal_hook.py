"""AnnealHook moves an attribute of the model along half a cosine."""

import math
from types import SimpleNamespace

import pytest
from mmengine.registry import HOOKS
from torch import nn

from beit_mm.engine import AnnealHook


class Hub(dict):
    def update_scalar(self, name, value):
        self[name] = value


def runner_of(model, iteration=0):
    return SimpleNamespace(model=model, iter=iteration, message_hub=Hub())


@pytest.mark.parametrize(
    'iteration, value',
    [(0, 1.0), (25, 0.75 + 0.25 * math.sqrt(0.5)), (50, 0.75), (100, 0.5), (101, 0.5), (10_000, 0.5)],
)
def test_the_attribute_moves_along_half_a_cosine_by_the_iteration_alone(iteration, value):
    hook = AnnealHook('temperature', start=1.0, end=0.5, num_iters=100)
    model = nn.Identity()
    model.temperature = 7.0
    runner = runner_of(model, iteration)
    hook.before_train(runner)
    assert model.temperature == 7.0
    hook.before_train_iter(runner, batch_idx=3)
    assert model.temperature == pytest.approx(value) and hook.value_at(iteration) == model.temperature
    assert runner.message_hub == {'train/temperature': model.temperature}


def test_the_attribute_may_rise():
    hook = AnnealHook('kl_weight', start=0.0, end=6.6, num_iters=10)
    values = [hook.value_at(iteration) for iteration in range(12)]
    assert values[0] == 0 and values[10] == values[11] == 6.6 and values[5] == pytest.approx(3.3)
    assert values == sorted(values)


def test_the_attribute_of_a_wrapped_model_is_reached():
    model = nn.DataParallel(nn.Identity())
    model.module.temperature = 7.0
    hook = AnnealHook('temperature', start=1.0, end=0.5, num_iters=100)
    hook.before_train(runner_of(model))
    hook.before_train_iter(runner_of(model), batch_idx=0)
    assert model.module.temperature == 1.0 and not hasattr(model, 'temperature')


def test_an_attribute_that_the_model_lacks_is_refused_before_training():
    hook = AnnealHook('temprature', start=1.0, end=0.5, num_iters=100)
    with pytest.raises(ValueError, match="Identity has no 'temprature'"):
        hook.before_train(runner_of(nn.Identity()))


def test_a_config_names_it_under_its_scope():
    hook = HOOKS.build(dict(type='beit_mm.AnnealHook', attribute='temperature', start=1, end=0, num_iters=2))
    assert isinstance(hook, AnnealHook) and hook.value_at(1) == 0.5
