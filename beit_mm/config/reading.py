"""Read a config and override its keys. A mistake in either is a UserError of one sentence."""

import argparse
import ast
import inspect
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from mmengine.config import Config, DictAction
from mmengine.runner import FlexibleRunner, Runner
from mmengine.utils import import_modules_from_strings

from beit_mm.config.pairs import check_pairs
from beit_mm.config.parts import drop_worker_options, get
from beit_mm.errors import find_own_code, UserError
from beit_mm.text import closest, hint_at_path

# What a run reads: arguments of the runners, and what launchers, wrappers and inferencers read too.
READ = {*inspect.signature(Runner).parameters, *inspect.signature(FlexibleRunner).parameters} | set(
    """runner_type custom_imports model_wrapper_cfg find_unused_parameters sync_bn compile activation_checkpointing
    efficient_conv_bn_eval tta_model tta_pipeline""".split()
)
# Texts that a user writes for a value of Python.
MISSPELT = dict(yes='True', on='True', no='False', off='False', none='None', null='None')
# What a section must be, if it is not None.
SECTIONS = {
    **dict.fromkeys(
        """model data_preprocessor tta_model train_dataloader val_dataloader test_dataloader train_cfg val_cfg test_cfg
        optim_wrapper auto_scale_lr default_hooks env_cfg log_processor randomness visualizer custom_imports""".split(),
        (dict, 'a dict'),
    ),
    **dict.fromkeys('param_scheduler val_evaluator test_evaluator'.split(), ((dict, list, tuple), 'a dict or a list')),
    'custom_hooks': ((list, tuple), 'a list'),
    **dict.fromkeys('work_dir load_from default_scope launcher experiment_name runner_type'.split(), (str, 'a text')),
}


class Parser(argparse.ArgumentParser):
    """Raises UserError for wrong arguments, so that they end a tool as other mistakes do."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f'{message} (--help lists the arguments)')


class Options(DictAction):
    """MMEngine's action for KEY=VALUE words, which keeps spaces and reads `~/`. Others end the parser in a sentence."""

    @staticmethod
    def _parse_iterable(val: str) -> Any:
        """MMEngine drops all spaces, also those in names of folders and classes."""
        if val.startswith('~/'):
            return os.path.expanduser(val)
        if ' ' not in val:
            return DictAction._parse_iterable(val)
        with suppress(ValueError, SyntaxError):  # of a list without quotes, such as `[a, b]`
            return ast.literal_eval(val)
        return DictAction._parse_iterable(val) if set(val) & set('([,') else val

    def __call__(self, parser, namespace, values, option_string=None):
        check_pairs(parser, values, option_string)
        for word in values:
            try:
                self._parse_iterable(word.partition('=')[2])
            except AssertionError:
                parser.error(f'{option_string}: the brackets of {word!r} do not match')
            except RecursionError:  # such as of a dict(...)
                parser.error(f'{option_string}: {word!r} must be a value, or a list or tuple of values')
        super().__call__(parser, namespace, values, option_string)


def read_config(path: str | Path, options: dict | None = None, argument: str = '--cfg-options') -> Config:
    """A config file with overridden keys, of text style (`_base_`) or pure-Python style (`read_base`).

    FileNotFoundError if there is no file. UserError if it, a base or an override cannot be read: names the file and the
    line, or the override, called `argument`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'no config file at {path}{hint_at_path(path)}')
    if Path(path).suffix not in ('.py', '.json', '.yaml', '.yml'):
        raise UserError(
            f'a config must be a .py, .json or .yaml file, got {path}; the config comes before a checkpoint'
        )
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is code
        raise UserError(_explain(path, error)) from error
    merge_options(cfg, options, path, argument)
    drop_worker_options(cfg)
    return cfg


def _explain(path: str | Path, error: Exception) -> str:
    """Which file cannot be read, in which line, why, and how to mend it."""
    frames = list(traceback.walk_tb(error.__traceback__))[::-1]  # innermost first
    readers = [frame.f_locals for frame, _ in frames if frame.f_code.co_filename == inspect.getfile(Config)]
    names = [str(names.get('filename')) for names in readers]
    file = next((name for name in names if Path(name).is_file()), str(path))
    line = next((line for frame, line in frames if frame.f_code.co_filename == file), None)
    while isinstance(error, ImportError) and error.__context__:  # MMEngine's only lists folders
        error = error.__context__
    trace = ''.join(traceback.format_exception(error, chain=False))
    place = line is None and find_own_code(trace, Path(sys.argv[0]).absolute().parent)
    if place:  # in an imported module
        file, _, line = place.rpartition(', line ')
    text, mend = ' '.join(str(error.args[0] if isinstance(error, KeyError) else error).split()), ''
    if isinstance(error, SyntaxError):
        file = error.filename if Path(error.filename or '').is_file() else file  # of an imported module
        line, text = error.lineno, error.msg + (f' at `{error.text.strip()}`' if error.text else '')
        is_indentation = isinstance(error, IndentationError)
        mend = 'indent with spaces only' if is_indentation else 'save it as plain UTF-8' if 'U+FEFF' in text else ''
    elif isinstance(error, ModuleNotFoundError):
        mend = 'install it, or put the folder that holds it on PYTHONPATH'
    elif isinstance(error, UnicodeDecodeError):
        mend = 'save it as UTF-8'
    elif isinstance(error, FileNotFoundError) and error.filename:
        text, mend = f'no file at {error.filename}', 'give the path of a base from the folder of the file that names it'
    elif isinstance(error, RecursionError):
        mend = 'a config may not be its own base'
    elif isinstance(error, TypeError) and 'not callable' in text:
        mend = 'is a comma missing?'
    where = f'{file}, line {line}' if line else file
    base = '' if Path(file).resolve() == Path(path).resolve() else f', which {path} needs,'
    return f'{where}{base} cannot be read: {type(error).__name__}: {text}' + (f'; {mend}' if mend else '')


def merge_options(cfg: Config, options: dict | None, path: object, argument: str = 'options') -> None:
    """Override dotted keys of a config, and check the types of its sections.

    UserError if a key begins with one that the config does not have, or if a value cannot stand at its key.
    """
    for key in options or {}:
        name = key.split('.')[0]
        if name not in cfg:
            meant = closest(name, cfg)
            mend = f'; did you mean {meant}?' if meant else ''
            raise UserError(f'{argument} must name keys of {path}, got {key}{mend}')
    for key, value in (options or {}).items():
        old = get(cfg, key)
        is_text = isinstance(value, str) and value not in ('auto', 'dynamic')
        is_list = isinstance(value, (list, tuple)) and isinstance(
            old, (bool, float)
        )  # a whole number may become a pair
        if isinstance(old, (bool, int, float)) and is_text or is_list:
            words = 'True or False' if isinstance(old, bool) else 'a number'
            raise UserError(f'{argument} {key} must be {words}, such as {old}, got {value!r}')
        if is_text and value.lower() in MISSPELT and not isinstance(old, str):
            raise UserError(f'{argument} {key} must be {MISSPELT[value.lower()]}, got the text {value!r}')
        if isinstance(old, dict) and isinstance(value, (str, int, float)) and not isinstance(value, bool):
            raise UserError(f'{argument} {key} must be a dict, as in the config, got {value!r}; name a key in it')
        try:
            cfg.merge_from_dict({key: value})
        except (KeyError, TypeError, ValueError) as error:
            reason = ' '.join(str(error.args[0]).split()).split(' [{')[0]  # MMEngine quotes whole lists
            raise UserError(f'{argument} {key}={value} does not fit {path}: {reason}') from error
    if any(key.startswith('custom_imports') for key in options or {}):
        try:  # those in the file are imported when it is read
            import_modules_from_strings(**cfg.custom_imports)
        except Exception as error:
            raise UserError(_explain(path, error)) from error
    for name, (types, words) in SECTIONS.items():
        if cfg.get(name) is not None and not isinstance(cfg[name], types):
            raise UserError(f'{name} must be {words}, got {cfg[name]!r}')


def unread_options(cfg: Config, options: dict | None) -> dict[str, str]:
    """Overridden keys that change nothing, each with what to say of it.

    They are variables of the config file, from which it computed other values when it was read.
    """
    own = cfg.get('model') or {}
    unread = {}
    for key in options or {}:
        name = key.split('.')[0]
        if name == 'data_preprocessor' and own.get(name):
            unread[key] = f'is used by nothing, since the model has its own; change model.{key}'
        elif name == 'launcher':
            unread[key] = 'is used by nothing, since --launcher sets it; tools/dist_train.sh starts several processes'
        elif name not in READ:
            unread[key] = 'is used by nothing after the file was read; change it in the file'
    return unread
