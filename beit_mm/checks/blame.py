"""From an exception to the key of the config that caused it, for any model.

Among the variables in the traceback are the config of the part that MMEngine's `build_from_cfg` could not build, and
the `self` of the module or transform that failed.
"""

import inspect
import linecache
import math
import re
import traceback
from collections.abc import Iterator
from importlib.util import find_spec
from types import FrameType
from typing import Any, NamedTuple

import torch
from mmengine.registry import Registry

from beit_mm.config.parts import get, walk
from beit_mm.errors import UserError
from beit_mm.text import closest

from .problems import Problem

# Of mistakes in code; torch's own functions raise most of those that configs cause as RuntimeError.
CODE_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, ValueError)
BUILDERS = ('build_from_cfg', 'build_scheduler_from_cfg')
# What other implementations of vision transformers call the arguments of our trunk.
OTHER_WORDS = dict(num_layers='depth', init_values='layer_scale_init_value', in_chans='in_channels')
# Errors of this machine or of the trial, not of the config: such a check could not run.
CANNOT_RUN = re.compile(
    r'\bmeta\b|CUDA|GPU|No backend type|not implemented for|only (?:available|supported) on|download|Connection'
    '|No space left|Disk quota|File too large|Read-only file system'
)


def blame(
    error: Exception, cfg: dict, root: str, owners: dict[int, str] | None = None, cuts: dict[int, int] | None = None
) -> Problem:
    """The problem behind an exception.

    Args:
        error: raised while something of the config was built or ran.
        cfg: the whole config, as plain dicts and lists.
        root: dotted key of the section that was built or ran.
        owners: dotted keys of modules and transforms by `id`.
        cuts: the config's number for numbers that were made smaller for the run.
    """
    frames = list(traceback.walk_tb(error.__traceback__))[::-1]  # innermost first
    key, cls, registry = _find_part(frames, cfg, root, owners or {})
    part = found if isinstance(found := get(cfg, key), dict) else {}
    text = _describe(error, source := _source(frames))
    for new, old in (cuts or {}).items():
        text = re.sub(rf'\b{new}\b', str(old), text)
    if isinstance(error, KeyError) and registry is not None and 'registry' in text:
        return unknown_type(key, cls, registry)
    if isinstance(error, KeyError) and 'must contain the key "type"' in text:
        return Problem(key, 'has no type; add one, or change the part of a base without _delete_')
    if isinstance(error, TypeError):
        label = getattr(cls, '__name__', key)
        if match := re.search(r"multiple values for(?: keyword)? argument '(\w+)'", text):
            return Problem(f'{key}.{match[1]}', f'{label} sets it by itself; remove it')
        if match := re.search(r"unexpected(?: keyword)? argument '(\w+)'", text):
            return _unknown_argument(match[1], text, key, cls, registry, cfg, root, frames[0][0])
        if match := re.search(r"missing \d+ required .*arguments?: '(\w+)'", text):
            return Problem(key, f'{label} needs the argument {match[1]}; add it')
        if 'after ** must be a mapping' in text and (match := re.search(r'\*\*(\w+)', source)) and match[1] in part:
            return Problem(f'{key}.{match[1]}', f'must be a dict, got {part[match[1]]!r}')
    can_run = not (isinstance(error, (ImportError, NotImplementedError, MemoryError)) or CANNOT_RUN.search(text))
    callers = ' '.join(_source(frames[at:]) for at in range(min(2, len(frames))))
    full = _find_argument(text, callers, cfg, key if part else key.rpartition('.')[0] or key)
    absent = re.match(r"'ConfigDict' object has no attribute '(\w+)'|'(\w+)' is missing", text)
    holder = nearest(full, cfg)
    if absent and holder != key:  # a dict among the part's arguments, such as `test_cfg`
        return Problem(f'{holder}.{absent[1] or absent[2]}', f'{getattr(cls, "__name__", root)} needs it; add it')
    what = f'{cls.__name__}: ' if inspect.isclass(cls) and cls.__name__ not in text else ''
    cause = None if isinstance(error, UserError) else error
    if full == key and _is_own_code(error, frames[0][0], cls):  # nothing in the config is pointed at
        mend = 'if the training ends with this, too, it is a bug of beit_mm'
        return Problem(key, f'not checked in full: {what}{type(error).__name__}: {text}; {mend}', False, cause)
    return Problem(full, f'{what}{text}', can_run, cause)


def _is_own_code(error: Exception, frame: FrameType, cls: Any) -> bool:
    """Whether an error is a bug in the code of one of our parts, not a message for users."""
    is_ours = getattr(cls, '__module__', '').startswith('beit_mm.') and 'site-packages' not in frame.f_code.co_filename
    return is_ours and isinstance(error, CODE_ERRORS) and not isinstance(error, UserError)


def _find_part(
    frames: list[tuple[FrameType, int]], cfg: dict, root: str, owners: dict[int, str]
) -> tuple[str, Any, Registry | None]:
    """Key of the innermost part at work, the class or type that it names, and the registry where that was looked up."""
    for frame, _ in frames:
        names = frame.f_locals
        if frame.f_code.co_name in BUILDERS and isinstance(names.get('cfg'), dict):
            cls = names.get('obj_cls') or names.get('scheduler_cls') or names['cfg'].get('type')
            return _find_key(names['cfg'], cfg, root), cls, names.get('registry')
        owner = names.get('self')
        if id(owner) in owners:
            return nearest(owners[id(owner)], cfg), type(owner), None
    return root, None, None


def nearest(key: str, cfg: dict) -> str:
    """The longest beginning of a dotted key that the config has: `model.head` of `model.head.fc`."""
    while '.' in key and not isinstance(get(cfg, key), dict):
        key = key.rpartition('.')[0]
    return key


def _find_key(part: dict, cfg: dict, root: str) -> str:
    """Where a part stands in the config: builders get copies of it, with arguments added."""
    best, most = root, -1
    for key, node in walk(get(cfg, root), root):
        if node.get('type') == part.get('type'):
            shared = sum(name in part and repr(part[name]) == repr(value) for name, value in node.items())
            if shared > most:
                best, most = key, shared
        for name, value in node.items():  # such as `constructor='X'`, which MMEngine turns into dict(type='X')
            if most < 0 and name != 'type' and isinstance(value, str) and value == part.get('type'):
                best = f'{key}.{name}'
    return best


def _describe(error: Exception, source: str) -> str:
    """The message in one line, with the line of code where it says too little."""
    if isinstance(error, KeyError) and error.args and ' ' not in str(error.args[0]):
        return f'{error.args[0]!r} is missing'
    text = ' '.join(' '.join(str(error).strip().splitlines()[:3]).split())
    is_short = not text or isinstance(error, (IndexError, AttributeError))
    return f'{text or type(error).__name__} at `{source}`' if is_short else text


def _source(frames: list[tuple[FrameType, int]]) -> str:
    """The line of code that failed, but for MMEngine's access to attributes of a config."""
    frame, line = next((each for each in frames if '/config/' not in each[0].f_code.co_filename), frames[0])
    return linecache.getline(frame.f_code.co_filename, line).strip()


class Clues(NamedTuple):
    """Why an argument may be the one that a message speaks of, the strongest reason first; tuples compare so."""

    is_quoted: bool  # with its part, as `test_cfg.stride`, or with its whole list of values
    is_named_with_value: bool
    is_named: bool  # and of the part at work, as the next
    is_in_source: bool  # the failed line of code reads it
    has_value: bool
    earliness: float  # of several names the first; 0 if it is not named


def _find_argument(text: str, source: str, cfg: dict, key: str) -> str:
    """Key of the argument whose name or value is in a message, or which the failed line of code reads.

    Arguments of the part at work come first, then those of the model and the pipelines, then the part itself.
    """
    words, in_source = (set(re.findall(r'[A-Za-z_]\w*', part)) for part in (text, source))
    numbers = set(re.findall(r'\d+(?:\.\d+)?|(?<=got )-\d+(?:\.\d+)?|(?<=: )-\d+(?:\.\d+)?', text))
    numbers -= {'0', '1', '2', '3'}  # are everywhere
    found = [(Clues(False, False, False, False, False, 0.0), key)]
    for full, name, value in _arguments(cfg, key):
        is_own, is_named, is_of_pipeline = full.startswith(f'{key}.'), name in words, 'pipeline' in full
        is_list = isinstance(value, (list, tuple)) and len(value) > 1 and ', '.join(map(str, value)) in text
        has_value = is_list or bool(_numbers_of(value) & numbers)
        if is_own and isinstance(value, dict) and is_named:
            inner = max(value, key=lambda inner: text.rfind(f' {inner}'), default='')
            full = f'{full}.{inner}' if inner in words else full
        clues = Clues(
            is_quoted=is_own and is_list or f'{full.split(".")[-2]}.{name}' in text,
            is_named_with_value=is_named and has_value and (is_own or is_of_pipeline or '_' in name),
            is_named=is_own and is_named,
            is_in_source=is_own and name in in_source,
            has_value=has_value and (is_own or is_of_pipeline),
            earliness=is_named * (1 - text.find(name) / len(text)),
        )
        found.append((clues, full))
    return max(found, key=lambda each: each[0])[1]


def _arguments(cfg: dict, key: str) -> Iterator[tuple[str, str, Any]]:
    """Key, name and value of all arguments of a part, then of the others that a step or an evaluation reads."""
    training = () if key.startswith(('val_', 'test_')) else ('train_dataloader',)
    for section in (key, 'model', *training, 'val_dataloader', 'optim_wrapper'):
        for node_key, node in walk(get(cfg, section), section):
            yield from ((f'{node_key}.{name}', name, value) for name, value in node.items() if name != 'type')


def _numbers_of(value: Any) -> set[str]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return {str(number) for number in values if isinstance(number, (int, float)) and not isinstance(number, bool)}


def other_values(text: str, cfg: dict, key: str) -> list[tuple[str, Any]]:
    """Keys and values that may mend a mismatch of numbers, the likeliest first.

    The values are the numbers in the message, or the old value times the ratio of two of them.
    """
    words = set(re.findall(r'[A-Za-z_]\w*', text))
    numbers = sorted({int(number) for number in re.findall(r'\d+', text)} - set(range(4)))
    trials: dict[tuple[str, str], tuple[float, str, Any]] = {}
    for full, name, value in _arguments(cfg, key):
        values = value if isinstance(value, (list, tuple)) else [value]
        old = values[0] if values and all(other == values[0] for other in values) else None
        if type(old) is not int or old < 4 or not (old in numbers or name in words):
            continue
        scaled = {old * first // second for first in numbers for second in numbers if old * first % second == 0}
        for new in ((set(numbers) if old in numbers else set()) | scaled) - {old}:
            if not 0.5 <= new / old <= 2:
                continue
            cost = abs(math.log(new / old)) + (new not in numbers) + 2 * (not full.startswith(f'{key}.'))
            cost -= 2 * (name in words)
            changed = type(value)([new] * len(value)) if isinstance(value, (list, tuple)) else new
            trials.setdefault((full, str(new)), (cost, full, changed))
    ranked = sorted(trials.values(), key=lambda trial: trial[0])
    keys = [full for _, full, _ in ranked]
    return [(full, new) for at, (_, full, new) in enumerate(ranked) if keys[:at].count(full) < 2]


def unknown_type(key: str, cls: Any, registry: Registry) -> Problem:
    """A type that is registered nowhere."""
    name, scope = str(cls), registry.scope
    if not key.endswith('.constructor'):  # which names a type itself
        key = f'{key}.type'
    package, _, inner = name.partition('.')
    if inner and find_spec(package) is None:
        return Problem(key, f'{name} is of a package that is not installed; install {package}')
    known = registered_names(registry)
    short = {full.rpartition('.')[2]: full for full in known}
    plain = name.rpartition('.')[2]
    meant = short.get(plain) or closest(name, known) or short.get(closest(plain, short), '')
    mend = f'did you mean {meant}?' if meant else f'it may be one of {", ".join(sorted(known)[:12])}'
    return Problem(key, f'no {registry.name} {name!r} is registered for default_scope {scope!r}; {mend}')


def find_class(part: Any, registry: Registry) -> Any:
    """The class that a part of a config names, as MMEngine finds it under the default scope; None if there is none."""
    name = part.get('type') if isinstance(part, dict) else None
    if not isinstance(name, str):
        return name
    try:
        with registry.switch_scope_and_registry(None) as scoped:
            return scoped.get(name)
    except (ImportError, AttributeError, RuntimeError):  # a name such as `package.module.Class` that does not exist
        return None


def registered_names(registry: Registry) -> dict[str, Any]:
    """All that is registered in a registry, its root and the root's other children, by the names for its scope."""
    root = registry
    while root.parent is not None:
        root = root.parent
    names = dict(root.module_dict)
    for child in root.children.values():
        prefix = '' if child.scope == registry.scope else f'{child.scope}.'
        names.update({f'{prefix}{name}': cls for name, cls in child.module_dict.items()})
    return names


def accepted_arguments(cls: Any) -> set[str]:
    """Names of the arguments of a function or of a class and, as far as it hands on others, of its bases."""
    names: set[str] = set()
    for base in inspect.getmro(cls) if inspect.isclass(cls) else (cls,):
        call = vars(base).get('__init__') if inspect.isclass(base) else base
        if call is None or base is object:
            continue
        parameters = inspect.signature(call).parameters.values()
        names |= {each.name for each in parameters if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)}
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            break
    return names - {'self'}


def _unknown_argument(
    name: str, text: str, key: str, cls: Any, registry: Registry | None, cfg: dict, root: str, frame: FrameType
) -> Problem:
    part = found if isinstance(found := get(cfg, key), dict) else {}
    if name not in part and '.forward()' in text:
        return Problem(key, f'its forward takes no {name}, with which the model calls it; use another class')
    if name not in part:  # not the part's own: of a class or function that it calls, such as by `bottleneck`
        callee = re.split(r'\.__init__|\(', text)[0]
        values = [*frame.f_locals.values(), *frame.f_globals.values(), getattr(torch.nn.utils, callee, None)]
        cls = next((value for value in values if getattr(value, '__name__', None) == callee), cls)
        roots = key, key.split('.')[0], root
        places = [inner for root in roots for inner, node in walk(get(cfg, root), root) if name in node]
        key, registry = (places or [key])[0], None if places else registry
    label = getattr(cls, '__name__', text.split('.')[0])
    arguments = {argument for argument in part if argument not in ('type', '_scope_')}
    if registry is not None and inspect.isclass(cls):
        for full, other in registered_names(registry).items():
            is_namesake = full.rpartition('.')[2] == cls.__name__ and other is not cls
            if is_namesake and arguments <= accepted_arguments(other):
                package = cls.__module__.partition('.')[0]
                sentence = f'the {label} of {package} takes no argument {name}; did you mean {full}?'
                return Problem(f'{key}.type', sentence)
    known = accepted_arguments(cls) if callable(cls) else set()
    meant = OTHER_WORDS.get(name, '') if OTHER_WORDS.get(name) in known else closest(name, known)
    listing = ', '.join(sorted(known)[:12]) + (', ...' if len(known) > 12 else '')
    mend = f'did you mean {meant}?' if meant else f'remove it (it takes {listing})' if listing else 'remove it'
    return Problem(f'{key}.{name}', f'{label} takes no such argument; {mend}')
