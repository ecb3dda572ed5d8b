"""Draw the self-attention of points of an image.

Example:
  beit-mm attention cat.jpg --model beit-base-p16_22k-to-1k_224 --weights FILE --points 120,80
"""

import argparse
from pathlib import Path

from .arguments import add_model, existing, load, output, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('image', type=existing, metavar='IMAGE', help='an image file')
    where = parser.add_mutually_exclusive_group()
    where.add_argument('--points', type=point, nargs='+', metavar='X,Y', help='points in pixels of the image')
    grid = dict(type=positive, nargs=2, default=(2, 3), metavar=('ROWS', 'COLUMNS'))
    where.add_argument('--grid', **grid, help='a grid of points instead; default: 2 3')
    blocks = 'blocks to read, from 0, or back from -1; default: the last'
    add('--blocks', type=int, nargs='+', default=[-1], metavar='N', help=blocks)
    heads = "heads to draw after their mean, from 0, or 'all'; default: only the mean"
    add('--heads', type=head, nargs='+', default=[], metavar='N', help=heads)
    size = 'resize the image to this; default: its own ratio, at most 4 to 1, with the shorter side as in training'
    add('--size', type=positive, nargs=2, metavar=('H', 'W'), help=size)
    figure = dict(type=output('.png', '.pdf', '.svg'), default=Path('attention.png'), metavar='FILE')
    add('--out', **figure, help='the figure, .png, .pdf or .svg; default: attention.png')
    npz = "also write the maps of all heads: 'points' (P, 2) and for every block 'block_N' (P, heads, h, w)"
    add('--npz', type=output('.npz'), metavar='FILE', help=npz)
    add_model(parser)


def point(text: str) -> tuple[int, int]:
    try:
        x, y = (int(number) for number in text.split(','))
    except ValueError:
        raise argparse.ArgumentTypeError(f'must be X,Y in whole pixels, such as 120,80, got {text}') from None
    return x, y


def head(text: str) -> str | int:
    if text != 'all' and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be numbers of heads, from 0, or 'all', got {text}")
    return text if text == 'all' else int(text)


def run(args: argparse.Namespace) -> None:
    import numpy as np

    from beit_mm.apis.images import find_images
    from beit_mm.apis.models import load_for_inference
    from beit_mm.apis.writing import refuse_inputs
    from beit_mm.datasets.images import count_channels, find_loader, read_image
    from beit_mm.files import atomic_write
    from beit_mm.text import show
    from beit_mm.visualization import attention_figure, grid_points, point_attention_maps

    refuse_inputs(find_images(args.image), [args.out, *([args.npz] if args.npz else [])])
    model = load(load_for_inference, args, trunk_only=True)
    channels = count_channels(model)
    image = read_image(args.image, find_loader(model, channels), channels)
    points = args.points or grid_points(image.shape[:2], *args.grid)
    maps = point_attention_maps(model, image, points, args.blocks, args.size)
    heads = range(next(iter(maps.values())).shape[1]) if 'all' in args.heads else args.heads
    figure = attention_figure(image, points, maps, heads)
    with atomic_write(args.out) as temporary:
        figure.savefig(temporary)
    print(f'wrote {show(args.out)}')
    if args.npz:
        arrays = {f'block_{block}': values.cpu() for block, values in maps.items()}
        with atomic_write(args.npz) as temporary:
            np.savez(temporary, points=points, **arrays)
        print(f'wrote {show(args.npz)}')
