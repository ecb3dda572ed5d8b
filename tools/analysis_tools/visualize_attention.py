"""Draw the self-attention of points of an image."""

import argparse
from pathlib import Path

import numpy as np

from beit_mm.apis import load_model
from beit_mm.apis.images import find_images
from beit_mm.apis.writing import refuse_inputs
from beit_mm.datasets.images import count_channels, loader_for, read_image
from beit_mm.engine.runners.ending import run
from beit_mm.files import atomic_write
from beit_mm.text import show
from beit_mm.visualization import attention_figure, grid_points, point_attention_maps


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('image', metavar='IMAGE', help='an image file')
    parser.add_argument(
        '--model', required=True, metavar='NAME_OR_CONFIG', help='a config file, or a name in model-index.yml'
    )
    parser.add_argument('--weights', required=True, metavar='FILE', help='a checkpoint in any layout')
    parser.add_argument('--ema', action='store_true', help='use the averaged weights of the file, such as `model_ema`')
    where = parser.add_mutually_exclusive_group()
    where.add_argument('--points', type=_point, nargs='+', metavar='X,Y', help='points in pixels of the image')
    where.add_argument(
        '--grid',
        type=int,
        nargs=2,
        default=(2, 3),
        metavar=('ROWS', 'COLUMNS'),
        help='a grid of points instead; default: 2 3',
    )
    parser.add_argument(
        '--block',
        type=int,
        nargs='+',
        default=[-1],
        metavar='N',
        help='blocks, counted from 0 or back from -1; default: the last',
    )
    parser.add_argument(
        '--heads',
        type=_head,
        nargs='+',
        default=[],
        metavar='N',
        help="heads to draw after their mean, counted from 0, or 'all'; default: only the mean",
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='size that the image is resized to, multiples of the patch size; default: its own '
        "ratio, at most 4 to 1, with the shorter side as in the model's training",
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('attention.png'),
        metavar='FILE',
        help='the figure, .png, .pdf or .svg; overwritten (default: %(default)s)',
    )
    parser.add_argument(
        '--npz',
        type=Path,
        metavar='FILE',
        help="also write the maps of all heads: 'points' (P, 2) and for every block 'block_N' (P, heads, h, w)",
    )
    parser.add_argument('--device', help="where to compute, such as 'cpu' or 'cuda:1'; default: a GPU if there is one")
    parser.set_defaults(work_dir=None)  # there is no run, so there is no folder for a traceback
    return parser.parse_args()


def _point(text: str) -> tuple[int, int]:
    try:
        x, y = (int(number) for number in text.split(','))
    except ValueError:
        raise argparse.ArgumentTypeError(f'a point must be X,Y in whole pixels, such as 120,80, got {text}') from None
    return x, y


def _head(text: str) -> str | int:
    if text != 'all' and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a head must be a number, counted from 0, or 'all', got {text}")
    return text if text == 'all' else int(text)


def main(args: argparse.Namespace) -> None:
    refuse_inputs(find_images(args.image), [args.out] + ([args.npz] if args.npz else []))
    model = load_model(args.model, args.weights, args.device, trunk_only=True, ema=args.ema)
    channels = count_channels(model)
    image = read_image(args.image, loader_for(channels), channels)
    points = args.points or grid_points(image.shape[:2], *args.grid)
    maps = point_attention_maps(model, image, points, args.block, args.size)
    heads = range(next(iter(maps.values())).shape[1]) if 'all' in args.heads else args.heads
    figure = attention_figure(image, points, maps, heads)
    with atomic_write(args.out) as temporary:
        figure.savefig(temporary, format=args.out.suffix[1:] or 'png')
    print(f'wrote {show(args.out)}')
    if args.npz:
        arrays = {f'block_{block}': values.cpu() for block, values in maps.items()}
        # An open file, because NumPy would add .npz to other names.
        with atomic_write(args.npz) as temporary, open(temporary, 'wb') as file:
            np.savez(file, points=points, **arrays)
        print(f'wrote {show(args.npz)}')


if __name__ == '__main__':
    run(main, parse_args())
