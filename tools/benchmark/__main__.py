"""Time ours against the implementations that one could pick instead; prints a table, and writes JSON if asked."""

import argparse
import json
from pathlib import Path

import torch
from measuring import as_table
from sections import SECTIONS, Sizes

from beit_mm.engine.runners.launch import run


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('sections', nargs='*', metavar='SECTION', help=f'{", ".join(SECTIONS)}; default: all')
    parser.add_argument('--rounds', type=int, default=3, help='how often each candidate is timed')
    parser.add_argument(
        '--batch',
        type=int,
        help='images of a step; scaling starts there, segmentation takes 2; default: 128 on a GPU, 4 on a CPU',
    )
    parser.add_argument(
        '--width',
        type=int,
        help='width of the trunk, a multiple of 64; default: 768 on a GPU, 384 on a CPU (scaling: 192)',
    )
    parser.add_argument('--depth', type=int, default=12, help='blocks of the trunk')
    parser.add_argument(
        '--size',
        type=int,
        help='side of images of trunks and of the window of segmentation, a '
        'multiple of 16; default: 224, and 640 on a GPU or 512 on a CPU',
    )
    parser.add_argument('--json', type=Path, help='where to write all figures')
    parser.set_defaults(work_dir=None)
    args = parser.parse_args()
    unknown = set(args.sections) - set(SECTIONS)
    if unknown:
        parser.error(f'sections are {", ".join(SECTIONS)}, got {", ".join(sorted(unknown))}')
    return args


def main(args: argparse.Namespace) -> None:
    sizes = Sizes(args.rounds, args.batch, args.width, args.depth, args.size)
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU'
    about = dict(machine=machine, threads=torch.get_num_threads(), torch=torch.__version__, **vars(sizes))
    print(', '.join(f'{name} {value}' for name, value in about.items()), flush=True)
    rows = []
    for section in args.sections or SECTIONS:
        rows += SECTIONS[section](sizes)
    print(f'\n{as_table(rows)}')
    if args.json:
        args.json.write_text(json.dumps(dict(about, rows=[row.as_dict() for row in rows]), indent=2))


if __name__ == '__main__':
    run(main, parse_args())
