"""Check the layout of a data set before a training: python tools/check_data.py imagenet"""

import argparse

from beit_mm.checks.data_layouts import check_data_command, LAYOUTS
from beit_mm.engine.runners.launch import run


def count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f'must be 0 or more, got {text}')
    return number


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('layout', choices=list(LAYOUTS), help='the data set')
    parser.add_argument(
        'root',
        nargs='?',
        help='its folder; default: where the recipes look, ' + ', '.join(layout.root for layout in LAYOUTS.values()),
    )
    parser.add_argument(
        '--open',
        type=count,
        default=100,
        metavar='N',
        help='images of each split to open, always the same ones; default: %(default)s',
    )
    parser.set_defaults(work_dir=None)  # no run, so no folder for a traceback
    return parser.parse_args()


if __name__ == '__main__':
    run(check_data_command, parse_args())
