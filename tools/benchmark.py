"""Time ours against the implementations that one could pick instead; prints a table, and writes JSON if asked."""
import argparse
import json
import tempfile
from pathlib import Path

import torch

from beit_mm import benchmark
from beit_mm.engine.launch import run

SECTIONS = ('loading', 'pretraining', 'trunks', 'segmentation')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('sections', nargs='*', metavar='SECTION', help=f'{", ".join(SECTIONS)}; default: all')
    parser.add_argument('--rounds', type=int, default=3, help='how often each candidate is timed')
    parser.add_argument('--batch', type=int, default=8, help='images of a training step (segmentation: 2)')
    parser.add_argument('--width', type=int, default=768, help='width of the trunk, a multiple of 64')
    parser.add_argument('--depth', type=int, default=12, help='blocks of the trunk')
    parser.add_argument('--size', type=int, default=640, help='window of the segmentor')
    parser.add_argument('--json', type=Path, help='where to write all figures')
    parser.set_defaults(work_dir=None)
    args = parser.parse_args()
    unknown = set(args.sections) - set(SECTIONS)
    if unknown:
        parser.error(f'sections are {", ".join(SECTIONS)}, got {", ".join(sorted(unknown))}')
    return args


def main(args: argparse.Namespace) -> None:
    sizes = dict(rounds=args.rounds, width=args.width, depth=args.depth)
    rows = []
    for section in args.sections or SECTIONS:
        if section == 'loading':
            with tempfile.TemporaryDirectory() as folder:
                rows += benchmark.compare_loading(Path(folder), args.rounds)
        elif section == 'pretraining':
            rows += benchmark.compare_pretraining(batch=args.batch, **sizes)
        elif section == 'trunks':
            rows += benchmark.compare_trunks(batch=args.batch, **sizes)
        else:
            rows += benchmark.compare_segmentation(size=args.size, **sizes)
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else f'{torch.get_num_threads()} CPU threads'
    print(f'{machine}, torch {torch.__version__}\n\n{benchmark.as_table(rows)}')
    if args.json:
        args.json.write_text(json.dumps(dict(machine=machine, torch=torch.__version__,
                                             rows=[row.as_dict() for row in rows]), indent=2))


if __name__ == '__main__':
    run(main, parse_args())
