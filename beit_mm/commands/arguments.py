"""Arguments that several commands have, and what the values of arguments must be."""

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from os.path import exists
from pathlib import Path
from typing import NoReturn

from beit_mm.config.pairs import check_pairs
from beit_mm.model_index import find_config
from beit_mm.text import hint_at_path, show


class Parser(argparse.ArgumentParser):
    """Ends with one sentence and exit code 2 for wrong arguments."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f'error: {show(message)} ({self.prog} --help lists the arguments)\n')


class Pairs(argparse.Action):
    """KEY=VALUE words, as they are, until `read_pairs` reads them by MMEngine."""

    def __call__(self, parser, namespace, values, option_string=None):
        check_pairs(parser, values, option_string)
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest) or ()), *values])


def read_pairs(args: argparse.Namespace) -> None:
    """Replace the words of `--cfg-options`, if there are any, by a dict."""
    if getattr(args, 'cfg_options', None):
        from beit_mm.config.reading import Options

        parser = Parser(prog=f'beit-mm {args.command}')
        parser.add_argument('--cfg-options', nargs='+', action=Options)
        args.cfg_options = parser.parse_args(['--cfg-options', *args.cfg_options]).cfg_options


def add_images(parser: argparse.ArgumentParser, batch_size: int) -> None:
    parser.add_argument('images', nargs='+', type=existing, metavar='IMAGE', help='image files, or folders with images')
    parser.add_argument(
        '--batch-size',
        type=positive,
        default=batch_size,
        metavar='N',
        help='images computed at once; default: %(default)s',
    )


def add_model(parser: argparse.ArgumentParser, has_device: bool = True) -> None:
    """The model and how it is loaded, as `load` reads it."""
    add = parser.add_argument_group('model').add_argument
    add(
        '--model',
        type=known_model,
        required=True,
        metavar='NAME_OR_CONFIG',
        help="a config file, or a name from the command 'models'",
    )
    layouts = "the weights, also the release's, timm's, transformers' or OpenMMLab's"
    add(
        '--weights',
        type=found_weights,
        metavar='FILE',
        help=f"{layouts}; default: the name's public ones, or what the config's init_cfg names",
    )
    add('--ema', action='store_true', help='use the averaged weights of the file, such as `model_ema`')
    if has_device:
        add('--device', help='cpu, cuda or cuda:1; default: the GPU if there is one')
    add_cfg_options(add)


def add_cfg_options(add: Callable) -> None:
    add(
        '--cfg-options',
        nargs='+',
        action=Pairs,
        metavar='KEY=VALUE',
        help='change keys of the config, such as model.backbone.img_size=384 or a="[1,2]"',
    )


def load(loader: Callable, args: argparse.Namespace, **options):
    """What a function or class, such as load_model, makes of the model that the arguments name."""
    with redirect_stdout(sys.stderr):  # the log is no result
        loading = dict(device=getattr(args, 'device', 'cpu'), options=args.cfg_options, ema=args.ema)
        return loader(args.model, args.weights, **loading, **options)


def at_least(minimum: int) -> Callable[[str], int]:
    """The type of a whole number."""

    def check(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f'must be a whole number of at least {minimum}, got {text}')
        return int(text)

    return check


positive = at_least(1)


def fraction(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f'must be 0 to 1, got {text}')
    return number


def existing(text: str) -> str:
    if not exists(text):
        raise argparse.ArgumentTypeError(f'must be a file or folder that exists, got {text}{hint_at_path(text)}')
    return text


def known_model(text: str) -> str:
    try:
        find_config(text)
    except OSError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def found_weights(text: str) -> str:
    """Addresses, and what may be a name of the Hugging Face Hub, are tried when the command runs."""
    path = text.partition('#')[0]
    if ':' not in text and Path(path).suffix:
        existing(os.path.expanduser(path))
    return text


def output(*suffixes: str, or_folder: bool = False) -> Callable[[str], Path]:
    """The type of a file to write. A path without a suffix may be a folder."""

    def check(text: str) -> Path:
        path = Path(text)
        if path.suffix not in suffixes and not (or_folder and not path.suffix):
            expected = f'end in {" or ".join(suffixes)}{", or be a folder" if or_folder else ""}'
            raise argparse.ArgumentTypeError(f'must {expected}, got {text}')
        return path

    return check
