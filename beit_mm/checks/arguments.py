"""Which arguments a class takes, those included that it passes on to its parents."""

import ast
import inspect
import textwrap
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from torch import nn

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Passed(NamedTuple):
    """How a constructor uses its `**kwargs`: whether it hands them to its parent and how many positions and which
    names it fills there by itself, and the names that it reads out of them.
    """

    to_parent: bool
    positions: int
    filled: frozenset[str]
    read: frozenset[str]


class Arguments(NamedTuple):
    """Names of the arguments that a class or function takes, and whether these are all: one that does something else
    with its `**kwargs` than hand them to its parent may take any other.
    """

    names: frozenset[str]
    are_all: bool


@cache
def accepted_arguments(part: Any) -> Arguments:
    """What a class or function takes; `**kwargs` are followed where a constructor hands them to `super().__init__`."""
    if not inspect.isclass(part):
        named, rest = _parameters(part)
        return Arguments(frozenset(named), rest is None)
    names: set[str] = set()
    filled: set[str] = set()
    positions = 0
    for owner in part.__mro__:
        init = owner.__dict__.get('__init__')
        if owner in (object, nn.Module):
            break
        if init is None:
            continue
        named, rest = _parameters(init)
        names |= set(named[1 + positions :]) - filled
        if rest is None:
            break
        passed = _passed(init, rest)
        if passed is None:
            return Arguments(frozenset(names), False)
        names |= passed.read
        filled |= passed.filled
        positions = passed.positions
        if not passed.to_parent:
            break
    return Arguments(frozenset(names), True)


def default_of(part: Callable, name: str) -> Any:
    """Default of an argument; None if it has none."""
    try:
        default = inspect.signature(part).parameters[name].default
    except (KeyError, TypeError, ValueError):
        return None
    return None if default is inspect.Parameter.empty else default


def _parameters(function: Callable):
    """Names that can be given by keyword, in order, and that of the `**kwargs`, None if there are none."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C
        return [], 'kwargs'
    rest = [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.VAR_KEYWORD]
    return [parameter.name for parameter in parameters if parameter.kind in _NAMED], (rest or [None])[0]


@cache
def _passed(init: Callable, rest: str) -> Passed | None:
    """What a constructor does with its `**kwargs`; None if more than reading them and passing them to its parent."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(init))))
    except (OSError, TypeError, SyntaxError):
        return None
    uses = {id(node) for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == rest}
    understood: set[int] = set()
    read: set[str] = set()
    calls = []
    for node in ast.walk(tree):
        if _is_parents_init(node) and any(_is_name(word.value, rest) for word in node.keywords if word.arg is None):
            calls.append(node)
            understood |= {id(word.value) for word in node.keywords}
        name = _name_read(node, rest)
        if name is not None:
            read.add(name)
        understood |= _harmless_uses(node, rest)
    if uses - understood:
        return None
    positions = max((_count_positions(call) for call in calls), default=0)
    filled = {word.arg for call in calls for word in call.keywords if word.arg}
    return Passed(bool(calls), positions, frozenset(filled), frozenset(read))


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _is_parents_init(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == '__init__'
        and isinstance(node.func.value, ast.Call)
        and _is_name(node.func.value.func, 'super')
    )


def _count_positions(call: ast.Call) -> int:
    """Positional arguments of a call, up to a starred one."""
    starred = [index for index, argument in enumerate(call.args) if isinstance(argument, ast.Starred)]
    return starred[0] if starred else len(call.args)


def _name_read(node: ast.AST, rest: str) -> str | None:
    """The x of `kwargs.pop('x')`, `.get`, `.setdefault`, `kwargs['x']` and `'x' in kwargs`."""
    key = None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_name(node.func.value, rest):
        key = node.args[0] if node.func.attr in ('pop', 'get', 'setdefault') and node.args else None
    elif isinstance(node, ast.Subscript) and _is_name(node.value, rest):
        key = node.slice
    elif isinstance(node, ast.Compare) and any(_is_name(other, rest) for other in node.comparators):
        key = node.left
    return key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else None


def _harmless_uses(node: ast.AST, rest: str) -> set[int]:
    """Mentions of the kwargs in this node that let no further name in: reading one, `update`, and new defaults as in
    `kwargs = {'x': 1, **kwargs}`.
    """
    if _name_read(node, rest) is not None:
        inner = [
            getattr(node, 'value', None),
            *getattr(node, 'comparators', []),
            getattr(getattr(node, 'func', None), 'value', None),
        ]
        return {id(name) for name in inner if name is not None}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == 'update':
        return {id(node.func.value)}
    if (
        isinstance(node, ast.Assign)
        and len(node.targets) == 1
        and _is_name(node.targets[0], rest)
        and isinstance(node.value, ast.Dict)
    ):
        return {id(name) for name in ast.walk(node) if _is_name(name, rest)}
    return set()
