"""Write features of images, from the trunk of any of the models.

An .npz file has the arrays `images`, the names, and `features`, float32. A
.csv or .parquet file has a row for each image.

Example:
  beit-mm features photos --model beit-base-p16_22k-to-1k_224 --weights FILE --out features.npz
"""

import argparse

from .arguments import add_images, add_model, output
from .inference import predict, report_skipped

POOLINGS = ('mean', 'cls_token', 'patches')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_images(parser, batch_size=32)
    add = parser.add_argument
    help_of_out = 'an .npz, .csv or .parquet file, or a folder for an .npy file per image'
    a_file = output('.npz', '.csv', '.parquet', or_folder=True)
    add('--out', type=a_file, metavar='OUT', required=True, help=help_of_out)
    add('--own-size', action='store_true', help='take whole images at their own sizes, without a crop')
    add('--pooling', choices=POOLINGS, default='mean', help='of the patches, or the patches themselves; default: mean')
    add('--kind', choices=POOLINGS, dest='pooling', help=argparse.SUPPRESS)  # the name of version 0.1
    add('--blocks', type=int, nargs='+', metavar='N', help='blocks to read, from 0, or back from -1; default: the last')
    add_model(parser)


def run(args: argparse.Namespace) -> None:
    from beit_mm.apis import FeatureInferencer
    from beit_mm.apis.writing import write_features
    from beit_mm.text import show

    blocks = -1 if args.blocks is None else args.blocks
    predictions = predict(args, FeatureInferencer, pooling=args.pooling, blocks=blocks, own_size=args.own_size)
    print(f'{show(args.out)}: features {write_features(predictions, args.out)}')
    report_skipped(predictions)
