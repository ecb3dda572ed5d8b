"""Convert BEiT weights from any layout to another and print what went where."""

import argparse

from beit_mm.checkpoint.converting import convert
from beit_mm.engine.runners.ending import run
from beit_mm.models.weight_layouts import LAYOUTS
from beit_mm.text import show


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', metavar='IN', help='a checkpoint, or a folder of transformers')
    parser.add_argument(
        'target',
        metavar='OUT',
        help='a .pth or .safetensors file; a folder for transformers, a .pdparams file for passl',
    )
    parser.add_argument('--to', required=True, choices=list(LAYOUTS), help='the layout to write')
    parser.add_argument(
        '--out-indices', type=int, nargs=4, help='blocks, from 0, that a segmentor reads (transformers)'
    )
    parser.set_defaults(work_dir=None)  # no run, so no folder for a traceback
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    for line in convert(args.source, args.target, args.to, args.out_indices):
        print(show(line))


if __name__ == '__main__':
    run(main, parse_args())
