"""The command `beit-mm`, also `python -m beit_mm`.

Results go to standard output, everything else to standard error.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from beit_mm import __version__, register
from beit_mm.commands import (
    attention,
    check,
    classify,
    convert,
    demo,
    doctor,
    evaluate,
    export,
    features,
    models,
    pretrain,
    reconstruct,
    segment,
    trial,
)
from beit_mm.commands.arguments import Parser, read_pairs

# In the order of --help. A command is a module with a docstring, `add_arguments(parser)` and `run(args)`. It may have
# `prepare(args)`, which runs before torch is imported, and the variables ENVIRONMENT, which are set then.
COMMANDS = {
    'try': trial,
    'demo': demo,
    'pretrain': pretrain,
    'evaluate': evaluate,
    'classify': classify,
    'segment': segment,
    'features': features,
    'reconstruct': reconstruct,
    'attention': attention,
    'models': models,
    'convert': convert,
    'export': export,
    'check': check,
    'doctor': doctor,
}
LIGHT = (models,)  # run without torch and the hosts


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. A wrong argument ends in one sentence and exit code 2, another mistake in exit code 1."""
    args = parse(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors='backslashreplace')  # for names that the terminal's encoding lacks
    command = COMMANDS[args.command]
    try:
        if command in LIGHT:
            return _run(args)
        getattr(command, 'prepare', lambda args: None)(args)
    except OSError as error:  # such as a full disk
        sys.exit(f'error: {error}')
    for name, value in getattr(command, 'ENVIRONMENT', {}).items():
        os.environ.setdefault(name, value)
    register()
    import warnings

    from beit_mm.engine.runners.ending import run

    # The hosts warn of parts and losses that inference does not use.
    warnings.filterwarnings('ignore', category=UserWarning, module='mm(cv|engine|pretrain|seg)')
    read_pairs(args)
    run(_run, args)


def _run(args: argparse.Namespace) -> None:
    try:
        COMMANDS[args.command].run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # who reads, such as `head`, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the arguments, without torch and the hosts."""
    parser = Parser(prog='beit-mm', description='Use BEiT models. COMMAND --help lists the arguments of a command.')
    parser.add_argument('--version', action='version', version=__version__)
    commands = parser.add_subparsers(required=True, dest='command', metavar='COMMAND')
    for name, module in COMMANDS.items():
        form = argparse.RawDescriptionHelpFormatter
        summary = module.__doc__.partition('\n')[0]
        module.add_arguments(commands.add_parser(name, help=summary, description=module.__doc__, formatter_class=form))
    if '_ARGCOMPLETE' in os.environ:  # a shell asks for the words that may follow
        import argcomplete

        argcomplete.autocomplete(parser)
    if not arguments:
        parser.print_help(sys.stderr)
        sys.exit(2)
    args, rest = parser.parse_known_args(arguments)
    if rest:
        commands.choices[args.command].error(f'unrecognized arguments: {" ".join(rest)}')
    return args


if __name__ == '__main__':
    main()
