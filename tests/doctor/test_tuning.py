"""The search for faster settings, with steps that pass time on a clock of their own."""

import random

import pytest
import torch

from beit_mm.doctor.steps import KERNEL_KEY
from beit_mm.doctor.tuning import compare_numbers, measure_sizes, Switch, tune

CPU = torch.device('cpu')
FAST = Switch('fast', {'model.fast': True})
COMPILED = Switch('compiled', {'model.compiled': True}, compiles=True)
SLOW = Switch('slow', {'model.slow': True})


class Machine:
    """Makes steps whose time, memory and numbers depend on their options.

    Args:
        factors: of the time, by option.
        noise: relative deviation of the times.
        memory: images that fit.
    """

    def __init__(self, factors=None, noise=0.0, memory=64, numbers=None, seed=0):
        self.factors, self.noise, self.memory, self.wrong = factors or {}, noise, memory, numbers or {}
        self.now, self.random = 0.0, random.Random(seed)

    def clock(self) -> float:
        return self.now

    def make(self, options, images):
        machine = self

        class Step:
            dtype = torch.float32

            def __call__(self):
                if images > machine.memory:
                    raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB. More')
                seconds = 0.01 * images
                for key in options:
                    seconds *= machine.factors.get(key, 1.0)
                machine.now += seconds * (1 + machine.noise * abs(machine.random.gauss(0, 1)))

            def numbers(self):
                self()
                return next(
                    (machine.wrong[key] for key in options if key in machine.wrong), dict(loss=2.0, gradient=1.0)
                )

        Step.images = images
        return Step()

    def tune(self, switches, minutes=2.0, **options):
        left = lambda: 60 * minutes - self.now  # noqa: E731
        return tune(self.make, switches, 1, 16, CPU, left, clock=self.clock, **options)


def test_faster_switches_are_chosen_together():
    result = Machine({'model.fast': 0.8, 'model.compiled': 0.9, 'model.slow': 1.2}).tune([SLOW, FAST, COMPILED])
    assert result.options == {'model.fast': True, 'model.compiled': True} and result.gain == pytest.approx(1 / 0.72)
    assert [trial.status for trial in result.trials] == ['not faster', 'faster', 'faster', 'faster']
    assert [size.images for size in result.sizes] == [16] and result.sizes[0].seconds == pytest.approx(0.16 * 0.72)


def test_of_values_of_one_key_the_fastest_is_chosen():
    values = [Switch(name, {KERNEL_KEY: [name]}) for name in ('math', 'cudnn')]
    machine = Machine()
    make, factors = machine.make, dict(math=1.1, cudnn=0.5)
    machine.make = lambda options, images: make({factors_key(value): 1 for value in options.values()}, images)

    def factors_key(value):
        machine.factors[value[0]] = factors[value[0]]
        return value[0]

    assert machine.tune(values).options == {KERNEL_KEY: ['cudnn']}


@pytest.mark.parametrize('seed', range(20))
def test_noise_is_no_gain(seed):
    """Settings are never slower than the defaults."""
    machine = Machine({'model.slow': 1.02}, noise=0.1, seed=seed)
    assert machine.tune([SLOW, Switch('same', {'model.same': 1})]).options == {}


WRONG = {
    'a loss that changes': (dict(loss=2.1, gradient=1.0), 'the loss of 2 becomes 2.1, 5 % off (allowed 0.01 %)'),
    'a gradient that changes': (dict(loss=2.0, gradient=1.2), 'the gradient of 1 becomes 1.2, 20 % off'),
    'a loss that is not finite': (dict(loss=float('nan'), gradient=1.0), 'the loss is nan'),
}


@pytest.mark.parametrize('name', WRONG)
def test_a_switch_that_changes_the_step_is_named_and_left(name):
    numbers, words = WRONG[name]
    result = Machine({'model.compiled': 0.5}, numbers={'model.compiled': numbers}).tune([COMPILED])
    (trial,) = result.trials
    assert result.options == {} and trial.status == 'wrong'
    assert str(trial.problem).startswith(f'compiled: {words}') and 'leave model.compiled=True' in str(trial.problem)


def test_other_tokens_may_change_the_loss_a_little():
    switch = Switch('tokenizer in float16', {}, changes_tokens=True)
    assert compare_numbers(switch, dict(loss=9.0), dict(loss=9.01), torch.float32) == ''
    assert compare_numbers(FAST, dict(loss=9.0), dict(loss=9.01), torch.float32) != ''


def test_what_cannot_be_tried_says_why():
    machine = Machine({'model.compiled': 0.5})
    (trial,) = machine.tune([COMPILED], has_compiler=False).trials
    assert (trial.status, trial.reason) == ('not tried', 'torch.compile needs a compiler, there is none')
    (trial,) = Machine({'model.compiled': 0.5}).tune([COMPILED], minutes=0.5).trials
    assert trial.status == 'not tried' and trial.reason.endswith('--minutes gives more time')


def test_steps_grow_until_memory_ends():
    machine = Machine(memory=5)
    sizes, shortage = measure_sizes(machine.make, {}, 1, 16, CPU, lambda: 100.0, machine.clock)
    assert [size.images for size in sizes] == [1, 2, 4] and shortage.startswith('CUDA out of memory')
    result = Machine(memory=0).tune([FAST])
    assert result.sizes == [] and result.shortage.startswith('CUDA out of memory')


def test_another_error_than_memory_is_not_hidden():
    class Broken(Machine):
        def make(self, options, images):
            raise RuntimeError('device-side assert triggered')

    with pytest.raises(RuntimeError, match='device-side assert'):
        Broken().tune([FAST])
