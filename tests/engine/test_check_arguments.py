"""Which arguments a class takes, its parents' included."""

import pytest
from torch import nn

from beit_mm.checks.arguments import accepted_arguments, Arguments, default_of


class Parent:
    def __init__(self, width, depth=1, *, name='a'):
        pass


class PassesOn(Parent):
    def __init__(self, own=2, **kwargs):
        super().__init__(**kwargs)


class FillsIn(Parent):
    def __init__(self, **kwargs):
        super().__init__(3, name='b', **kwargs)


class Keeps(Parent):
    def __init__(self, own=2, **kwargs):
        super().__init__(1)
        self.rest = kwargs


class ReadsOut(Parent):
    def __init__(self, **kwargs):
        kwargs = {'depth': 2, **kwargs}
        kwargs.setdefault('scale', 1)
        if 'flag' in kwargs:
            kwargs.pop('flag')
        super().__init__(**kwargs)


class Positional(PassesOn):
    def __init__(self, extra, *args, **kwargs):
        super().__init__(*args, **kwargs)


class WithoutConstructor(FillsIn):
    pass


class Module(nn.Module):
    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)


class NoName:
    pass


@pytest.mark.parametrize(
    'part, names, are_all',
    [
        (Parent, {'width', 'depth', 'name'}, True),
        (PassesOn, {'own', 'width', 'depth', 'name'}, True),
        (FillsIn, {'depth'}, True),
        (Keeps, {'own'}, False),
        (ReadsOut, {'width', 'depth', 'name', 'scale', 'flag'}, True),
        (Positional, {'extra', 'own', 'width', 'depth', 'name'}, True),
        (WithoutConstructor, {'depth'}, True),
        (Module, {'width'}, True),
        (NoName, set(), True),
        (lambda a, b=1: a, {'a', 'b'}, True),
        (lambda a, **rest: a, {'a'}, False),
        (dict, set(), False),
    ],
)
def test_arguments(part, names, are_all):
    assert accepted_arguments(part) == Arguments(frozenset(names), are_all)


def test_what_it_says_is_what_python_does():
    """Every name that is told can be given, and no other."""
    for part in (PassesOn, FillsIn):
        for name in accepted_arguments(part).names:
            part(**{'width': 1, name: 1} if part is PassesOn else {name: 1})
        with pytest.raises(TypeError):
            part(strange=1)
    with pytest.raises(TypeError):
        FillsIn(width=1)


def test_defaults():
    assert default_of(Parent.__init__, 'depth') == 1 and default_of(PassesOn, 'own') == 2
    assert default_of(PassesOn, 'width') is None and default_of(dict, 'width') is None
