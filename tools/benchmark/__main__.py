"""Time ours against the implementations that one could pick instead; prints tables, and writes JSON if asked."""

import argparse
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # while torch is imported; not ignored, as by nohup
    signal.signal(signal.SIGINT, lambda *_: (os.write(2, b'interrupted\n'), os._exit(130)))

import timm
import torch
from cpu_tables import origin, put, tables
from limits import compare_limits
from loading import compare_loading
from measuring import Sizes
from pretraining import compare_pretraining
from scaling import compare_scaling
from segmentation import compare_segmentation
from trunks import compare_trunks

from beit_mm.doctor import machine
from beit_mm.engine.runners.ending import run

ON_GPU = torch.cuda.is_available()
SIZES = dict(batch=128 if ON_GPU else 4, width=768 if ON_GPU else 384, depth=12, size=224)
# A section and what its default sizes have instead.
SECTIONS = dict(
    limits=(compare_limits, {}),
    loading=(compare_loading, {}),
    pretraining=(compare_pretraining, {}),
    trunks=(compare_trunks, {}),
    segmentation=(compare_segmentation, dict(batch=2, size=640 if ON_GPU else 512)),
    scaling=(compare_scaling, dict(batch=32 if ON_GPU else 1, width=768 if ON_GPU else 192)),
)
HELP = dict(
    batch='images of a step; scaling starts there; default: 128 on a GPU, 4 on a CPU; segmentation: 2',
    width='width of the trunk, a multiple of 64; default: 768 on a GPU, 384 on a CPU (scaling: 192)',
    depth='blocks of the trunk; default: 12',
    size='side of images and of the window of segmentation, a multiple of 16; default: 224; segmentation: 640 on a '
    'GPU, 512 on a CPU',
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('sections', nargs='*', metavar='SECTION', help=f'{", ".join(SECTIONS)}; default: all')
    parser.add_argument('--rounds', type=int, default=3, help='how often each candidate is timed; default: 3')
    for name, text in HELP.items():
        parser.add_argument(f'--{name}', type=int, help=text)
    parser.add_argument('--json', type=Path, help='where to write all figures')
    parser.add_argument('--table', type=Path, metavar='FIGURES.json', help='print the tables of a JSON, no more')
    parser.add_argument('--page', type=Path, help='with --table: write them into a page, between its markers')
    parser.set_defaults(work_dir=None)
    args = parser.parse_args()
    unknown = set(args.sections) - set(SECTIONS)
    if unknown:
        parser.error(f'sections are {", ".join(SECTIONS)}, got {", ".join(sorted(unknown))}')
    return args


def main(args: argparse.Namespace) -> None:
    if args.table:
        text = tables(json.loads(args.table.read_text()))
        return put(text, 'CPU', args.page) if args.page else print(text)
    asked = {name: getattr(args, name) for name in SIZES if getattr(args, name) is not None}
    facts = dict(
        machine.describe(machine.find_device(None)), timm=timm.__version__,
        instructions=torch.backends.cpu.get_cpu_capability())  # yapf: disable
    figures = dict(origin(), rounds=args.rounds, facts=facts, rows=[])
    for name in args.sections or SECTIONS:
        compare, defaults = SECTIONS[name]
        print(f'{name} ...', file=sys.stderr, flush=True)
        rows = compare(Sizes(args.rounds, **{**SIZES, **defaults, **asked}))
        figures['rows'] += map(asdict, rows)
        if args.json:
            args.json.write_text(json.dumps(figures, indent=1))
    print(tables(figures))


if __name__ == '__main__':
    run(main, parse_args())
