"""The search for faster settings, with steps that pass time on a clock of their own."""

import random

import pytest
import torch

from beit_mm.doctor.steps import KERNEL_KEY
from beit_mm.doctor.tuning import compare_numbers, Switch, Tuner

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

    def tuner(self, minutes=2.0, has_compiler=True):
        return Tuner(self.make, CPU, lambda: 60 * minutes - self.now, has_compiler, self.clock)

    def tune(self, switches, **options):
        return self.tuner(**options).tune(switches, 1, 16)


def test_faster_switches_are_chosen_together():
    factors = {'model.fast': 0.8, 'model.compiled': 0.9, 'model.slow': 1.2}
    choice, tried, sizes, _ = Machine(factors).tune([SLOW, FAST, COMPILED])
    assert choice.options == {'model.fast': True, 'model.compiled': True} and choice.gain == pytest.approx(1 / 0.72)
    assert [switch.status for switch in tried] == ['not faster', 'faster', 'faster', 'faster']
    assert [size.images for size in sizes] == [16] and sizes[0].seconds == pytest.approx(0.16 * 0.72)


def test_switches_that_are_slower_together_leave_the_fastest():
    machine = Machine({'model.fast': 0.8, 'model.compiled': 0.9})
    make = machine.make
    machine.make = lambda options, images: make(dict(options, both=1) if len(options) == 2 else options, images)
    machine.factors['both'] = 2.0
    choice, tried, *_ = machine.tune([FAST, COMPILED])
    assert choice.options == FAST.options and tried[-1] == choice and choice.name == 'fast, again'
    assert [switch.status for switch in tried] == ['faster', 'faster', 'not faster', 'faster']


def test_of_values_of_one_key_the_fastest_is_chosen():
    values = [Switch(name, {KERNEL_KEY: [name]}) for name in ('math', 'cudnn')]
    machine = Machine()
    make, factors = machine.make, dict(math=1.1, cudnn=0.5)
    machine.make = lambda options, images: make({factors_key(value): 1 for value in options.values()}, images)

    def factors_key(value):
        machine.factors[value[0]] = factors[value[0]]
        return value[0]

    assert machine.tune(values)[0].options == {KERNEL_KEY: ['cudnn']}


@pytest.mark.parametrize('seed', range(20))
def test_noise_is_no_gain(seed):
    """Settings are never slower than the defaults."""
    machine = Machine({'model.slow': 1.02}, noise=0.1, seed=seed)
    assert machine.tune([SLOW, Switch('same', {'model.same': 1})])[0].options == {}


WRONG = {
    'a loss that changes': (dict(loss=2.1, gradient=1.0), 'the loss of 2 becomes 2.1, 5 % off (allowed 0.01 %)'),
    'a gradient that changes': (dict(loss=2.0, gradient=1.2), 'the gradient of 1 becomes 1.2, 20 % off'),
    'a loss that is not finite': (dict(loss=float('nan'), gradient=1.0), 'the loss is nan'),
}


@pytest.mark.parametrize('name', WRONG)
def test_a_switch_that_changes_the_step_is_named_and_left(name):
    numbers, words = WRONG[name]
    choice, (tried,), *_ = Machine({'model.compiled': 0.5}, numbers={'model.compiled': numbers}).tune([COMPILED])
    assert choice.options == {} and tried.status == 'wrong'
    assert tried.reason.startswith(words) and 'leave model.compiled=True' in tried.reason


def test_other_tokens_may_change_the_loss_a_little():
    switch = Switch('tokenizer in float16', {}, changes_tokens=True)
    assert compare_numbers(switch, dict(loss=9.0), dict(loss=9.01), torch.float32) == ''
    assert compare_numbers(FAST, dict(loss=9.0), dict(loss=9.01), torch.float32) != ''


def test_what_cannot_be_tried_says_why():
    machine = Machine({'model.compiled': 0.5})
    _, (tried,), *_ = machine.tune([COMPILED], has_compiler=False)
    assert (tried.status, tried.reason) == ('not tried', 'torch.compile needs a compiler, there is none')
    _, (tried,), *_ = Machine({'model.compiled': 0.5}).tune([COMPILED], minutes=0.5)
    assert tried.status == 'not tried' and tried.reason.endswith('--minutes gives more time')


def test_steps_grow_until_memory_ends():
    machine = Machine(memory=5)
    sizes, shortage = machine.tuner().measure_sizes({}, 1, 16)
    assert [size.images for size in sizes] == [1, 2, 4] and shortage.startswith('CUDA out of memory')
    *_, sizes, shortage = Machine(memory=0).tune([FAST])
    assert sizes == [] and shortage.startswith('CUDA out of memory')


def test_another_error_than_memory_is_not_hidden():
    class Broken(Machine):
        def make(self, options, images):
            raise RuntimeError('device-side assert triggered')

    with pytest.raises(RuntimeError, match='device-side assert'):
        Broken().tune([FAST])
