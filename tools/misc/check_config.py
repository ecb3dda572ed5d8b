"""Find the mistakes of a config before a training: python tools/misc/check_config.py CONFIG"""

import argparse
import sys
from pathlib import Path

from mmengine.config import Config, DictAction

from beit_mm.checks import check_config
from beit_mm.config.flatten import drop_scope_stamps
from beit_mm.config.parts import merge_options
from beit_mm.engine.runners.launch import run
from beit_mm.errors import UserError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Find the mistakes of a config before a training.')
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--gpus', type=int, metavar='N', help="processes that will train, to compare the batch with the recipe's"
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override keys of the config, such as train_dataloader.batch_size=32 or a="[1,2]"',
    )
    parser.set_defaults(work_dir=None)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Print every problem; exit with 1 if one is an error."""
    if not Path(args.config).is_file():
        raise FileNotFoundError(f'no config file at {args.config}')
    try:
        cfg = Config.fromfile(args.config)
    except (ImportError, RuntimeError, SyntaxError, NameError, AttributeError) as error:
        reason = ' '.join(str(error).split())
        raise UserError(f'{args.config} cannot be read: {type(error).__name__}: {reason}') from error
    drop_scope_stamps(cfg)
    merge_options(cfg, args.cfg_options, args.config, '--cfg-options')
    problems = check_config(cfg, num_processes=args.gpus)
    for problem in problems:
        print(f'{"error" if problem.is_error else "warning"}: {problem}')
    num_errors = sum(problem.is_error for problem in problems)
    mistakes = f'{num_errors} mistake{"s" if num_errors > 1 else ""}' if num_errors else 'no mistakes found'
    print(f'{args.config}: {mistakes}')
    if num_errors:
        sys.exit(1)


if __name__ == '__main__':
    run(main, parse_args())
