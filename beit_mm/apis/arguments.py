"""What the commands of `python -m beit_mm` and the tools of inference share: arguments, and lines of text."""

import argparse
import sys
from contextlib import redirect_stdout

from mmengine.config import DictAction
from mmengine.model import BaseModel

from .predicting import Predictions, ready_model
from .reconstruction import GENERATORS, reconstruct_each


def add_inference_arguments(parser: argparse.ArgumentParser, batch_size: int) -> None:
    """Images, a model and how it computes; `batch_size` is the default."""
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='files or folders')
    parser.add_argument(
        '--model',
        required=True,
        metavar='NAME_OR_CONFIG',
        help='a config file, or a name that `python -m beit_mm models` lists',
    )
    parser.add_argument('--weights', required=True, metavar='FILE', help='a checkpoint in any layout')
    parser.add_argument('--batch-size', type=int, default=batch_size, metavar='N', help=f'default: {batch_size}')
    parser.add_argument('--device', help='such as cuda:1 or cpu; default: the GPU if there is one')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override keys of the config, such as model.head.num_classes=10',
    )
    parser.set_defaults(work_dir=None)  # no run, so no folder for a traceback


def add_mask_arguments(parser: argparse.ArgumentParser) -> None:
    """What `predict_reconstructions` reads beside the arguments of all inference."""
    parser.add_argument(
        '--tokenizer',
        nargs='+',
        metavar='FILE',
        help="where the weights hold no tokenizer: its file, or OpenAI's two, encoder.pkl and decoder.pkl",
    )
    parser.add_argument('--mask', choices=list(GENERATORS), default='blockwise', help='default: blockwise')
    parser.add_argument(
        '--num-masked',
        type=int,
        metavar='N',
        help="patches to mask of every image; default: the config's share, 75 of 196 in the paper",
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='of the images for the trunk, '
        "multiples of the patch size; default: the shorter side as in training, in the image's own "
        'ratio, at most 4 to 1',
    )
    parser.add_argument('--seed', type=int, default=0, help='of the masks; default: 0')


def load(args: argparse.Namespace, trunk_only: bool = False, tokenizer: list | None = None) -> BaseModel:
    """The model that the arguments of all inference name."""
    with redirect_stdout(sys.stderr):  # what was loaded is no result
        return ready_model(args.model, args.weights, args.device, args.cfg_options, trunk_only, tokenizer)


def predict_reconstructions(args: argparse.Namespace) -> Predictions:
    """reconstruct_each as the arguments of add_inference_arguments and add_mask_arguments say."""
    return reconstruct_each(
        load(args, tokenizer=args.tokenizer),
        args.images,
        args.num_masked,
        args.mask,
        args.seed,
        args.size and tuple(args.size),
        args.batch_size,
        shows_bar(),
    )


def shows_bar() -> bool:
    """Whether a bar says more than the lines on a terminal do."""
    return not sys.stdout.isatty()


def print_reconstruction(row: dict) -> None:
    """A prediction of reconstruct_each in a line, tab-separated."""
    print(
        row['image'],
        f'{row["mask"].sum()} of {row["mask"].size} patches masked',
        f'token accuracy {100 * row["token_accuracy"]:.1f} %',
        f'perplexity {row["perplexity"]:.1f}',
        sep='\t',
        flush=True,
    )


def report_skipped(predictions: Predictions) -> None:
    """The images that could not be read, on standard error."""
    for name, reason in predictions.skipped.items():
        print(f'skipped {name}: {reason}', file=sys.stderr)
    if predictions.skipped:
        print(f'{len(predictions.skipped)} of {len(predictions)} images could not be read', file=sys.stderr)
