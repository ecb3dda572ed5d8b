"""Print the classes of images.

A line for each image goes to standard output: its name, then the best classes
with their scores, separated by tabs.

Example:
  beit-mm classify photos --model beit-base-p16_22k-to-1k_224 --weights FILE
"""

import argparse

from .arguments import add_images, add_model, output, positive
from .inference import predict, print_shares, report_skipped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_images(parser, batch_size=32)
    parser.add_argument('--top-k', type=positive, default=5, metavar='N', help='classes that are shown; default: 5')
    parser.add_argument('--out', type=output('.json', '.csv'), metavar='FILE', help='also write a table, .json or .csv')
    add_model(parser)


def run(args: argparse.Namespace) -> None:
    from beit_mm.apis import ClassificationInferencer
    from beit_mm.apis.writing import write_classes

    predictions = predict(args, ClassificationInferencer, top_k=args.top_k)
    for _, result in write_classes(predictions, args.out):
        print_shares(result['image'], zip(result['top_scores'], result['top_classes'], result['top_labels']))
    report_skipped(predictions)
