"""Find the mistakes of a config before a training: python tools/misc/check_config.py CONFIG"""

import argparse
import sys

from beit_mm.checks import check_config
from beit_mm.config.flatten import drop_scope_stamps
from beit_mm.config.reading import Options, read_config
from beit_mm.engine.runners.ending import run
from beit_mm.text import show


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Find the mistakes of a config before a training.')
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--gpus', type=int, metavar='N', help="processes that will train, to compare the batch with the recipe's"
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Options,
        metavar='KEY=VALUE',
        help='override keys of the config, such as train_dataloader.batch_size=32 or a="[1,2]"',
    )
    parser.set_defaults(work_dir=None)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Print every problem; exit with 1 if one is an error."""
    cfg = read_config(args.config, args.cfg_options)
    drop_scope_stamps(cfg)
    counts: dict[str, str] = {}
    problems = check_config(cfg, num_processes=args.gpus, options=args.cfg_options, counts=counts)
    for loader, text in counts.items():
        print(f'{loader}: {text}')
    for problem in problems:
        print(f'{"error" if problem.is_error else "warning"}: {show(problem)}')
    num_errors = sum(problem.is_error for problem in problems)
    mistakes = f'{num_errors} mistake{"s" if num_errors > 1 else ""}' if num_errors else 'no mistakes found'
    print(f'{args.config}: {mistakes}')
    if num_errors:
        sys.exit(1)


if __name__ == '__main__':
    run(main, parse_args())
