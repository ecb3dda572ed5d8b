"""Convert weights from any known layout to another, and print what went where.

Example:
  beit-mm convert beit_base_patch16_224_pt22k.pth FOLDER --to transformers
"""

import argparse

from .arguments import existing

LAYOUTS = ('beit_mm', 'release', 'timm', 'transformers', 'mmpretrain', 'mmsegmentation', 'passl')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('source', type=existing, metavar='IN', help='a checkpoint, or a folder of transformers')
    add('target', metavar='OUT', help='a new .pth or .safetensors file; for transformers a folder, for passl .pdparams')
    add('--to', required=True, choices=LAYOUTS, help='the layout to write')
    add('--out-indices', type=int, nargs=4, metavar='N', help='blocks, from 0, that a segmentor reads (transformers)')


def run(args: argparse.Namespace) -> None:
    from beit_mm.checkpoint.converting import convert
    from beit_mm.text import show

    for line in convert(args.source, args.target, args.to, args.out_indices):
        print(show(line))
