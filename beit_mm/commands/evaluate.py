"""Say what a pre-training was worth, with few labels and with many.

It compares what beit-mm pretrain has written with random weights, and with
other weights that you name: by nearest neighbours and a linear classifier on
frozen features, and by fine-tuning, each with 1, 10 and 100 % of the labelled
images. Scores, a plot and pictures are in DIR/evaluate/index.html. Stopped,
the same command goes on.

Example:
  beit-mm evaluate work_dirs/pretrain_photos --labels photos_by_class
"""

import argparse
from pathlib import Path

from .arguments import existing, found_weights, known_model, positive
from .pretrain import a_folder, ENVIRONMENT

__all__ = ['ENVIRONMENT', 'add_arguments', 'run']


class Weights(argparse.Action):
    """Collects pairs of a model and its weights."""

    def __call__(self, parser, namespace, values, option_string=None):
        try:
            pair = known_model(values[0]), found_weights(values[1])
        except argparse.ArgumentTypeError as error:
            parser.error(f'argument {option_string}: {error}')
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), pair])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('folder', type=existing, metavar='DIR', help='what beit-mm pretrain has written')
    add(
        '--labels',
        type=a_folder,
        required=True,
        metavar='FOLDER',
        help='labelled images: a folder for each class, or such folders in train and val',
    )
    add('--seeds', type=positive, default=3, metavar='N', help='how often all is drawn and trained anew; default: 3')
    add('--no-finetune', action='store_true', help='only score frozen features, which is quick')
    also = "other weights to compare, such as the release's, and their model's name or config; may be repeated"
    add('--also', action=Weights, nargs=2, default=[], metavar=('MODEL', 'WEIGHTS'), help=also)


def run(args: argparse.Namespace) -> None:
    from beit_mm.pretraining.evaluation import Evaluation
    from beit_mm.pretraining.evaluation_page import write_evaluation

    evaluation = Evaluation(Path(args.folder), args.labels, args.seeds, not args.no_finetune, args.also)
    evaluation.run()
    write_evaluation(evaluation)
