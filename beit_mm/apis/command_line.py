"""The commands of `python -m beit_mm`: inference from the shell.

Results go to standard output, a line per image; all else to standard error.
"""

import argparse
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from beit_mm.engine.runners.launch import run
from beit_mm.visualization.overlay import describe_share

from .arguments import (
    add_inference_arguments,
    add_mask_arguments,
    load,
    predict_reconstructions,
    print_reconstruction,
    report_skipped,
    shows_bar,
)
from .classification import classify_each
from .features import extract_features_each, POOLINGS
from .models import list_models
from .predicting import Predictions
from .segmentation import segment_each
from .writing import check_suffix, refuse_inputs, write_classes, write_features, write_label_maps, write_reconstructions

NUM_SHARES = 5


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; what its arguments or files cause ends in one sentence on standard error and exit code 1."""
    args = _parse(arguments)
    # The hosts warn of parts and losses that inference does not use.
    warnings.filterwarnings('ignore', category=UserWarning, module='mm(cv|engine|pretrain|seg)')
    run(args.job, args)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='python -m beit_mm', description='Inference with BEiT.')
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    one = _add(commands, 'classify', _classify, 'the classes of images', batch_size=32)
    one.add_argument('--top-k', type=int, default=5, help='how many of the best classes are shown; default: 5')
    one.add_argument('--out', metavar='FILE', help='a table, .json or .csv')
    one = _add(commands, 'segment', _segment, 'label maps of images and pictures of them', batch_size=1)
    one.add_argument('--out', metavar='FOLDER', required=True, help='where labels/ and overlays/ go')
    one.add_argument('--opacity', type=float, default=0.5, help='of the colours in overlays, 0 to 1; default: 0.5')
    one = _add(commands, 'features', _features, 'features of the trunk, of any model', batch_size=32)
    one.add_argument('--out', metavar='FILE', required=True, help='an .npz file with `images` and `features`')
    one.add_argument('--kind', choices=POOLINGS, default='mean', help='of the features; default: mean')
    one.add_argument(
        '--blocks',
        type=int,
        nargs='+',
        metavar='BLOCK',
        help='blocks of the trunk, counted from 0 or '
        'back from -1, whose features are stacked; default: those of the last',
    )
    one = _add(
        commands, 'reconstruct', _reconstruct, 'images from their visual tokens, some of them predicted', batch_size=8
    )
    one.add_argument('--out', metavar='FOLDER', required=True, help='where a picture per image goes')
    add_mask_arguments(one)
    one = commands.add_parser('models', help='the models that --model knows by name')
    one.set_defaults(job=_models, work_dir=None)
    return parser.parse_args(arguments)


def _add(commands, name: str, job, text: str, batch_size: int) -> argparse.ArgumentParser:
    """A command that takes images and a model."""
    parser = commands.add_parser(name, help=text, description=f'{text[0].upper()}{text[1:]}.')
    add_inference_arguments(parser, batch_size)
    parser.set_defaults(job=job)
    return parser


def _classify(args: argparse.Namespace) -> None:
    table = args.out and check_suffix(args.out, '.json', '.csv')
    predictions = classify_each(load(args), args.images, args.batch_size, args.top_k, shows_bar())
    refuse_inputs(predictions.images, [table] if table else [])
    rows = _results(predictions)
    for row in write_classes(rows, table) if table else rows:
        _print(row['image'], zip(row['top_scores'], row['top_classes'], row['top_labels']))
    report_skipped(predictions)


def _segment(args: argparse.Namespace) -> None:
    if not 0 <= args.opacity <= 1:
        raise ValueError(f'--opacity must lie in 0 to 1, got {args.opacity}')
    model = load(args)
    predictions = segment_each(model, args.images, args.batch_size, shows_bar())
    for row in write_label_maps(predictions, Path(args.out), model.dataset_meta.get('palette'), args.opacity):
        counts = np.bincount(row['labels'].ravel())
        found = np.argsort(-counts, kind='stable')[: min(NUM_SHARES, np.count_nonzero(counts))].tolist()
        names = [row['classes'][label] if row['classes'] else None for label in found]
        _print(row['image'], zip(counts[found] / counts.sum(), names, found))
    report_skipped(predictions)


def _features(args: argparse.Namespace) -> None:
    file = check_suffix(args.out, '.npz')
    blocks = -1 if args.blocks is None else args.blocks
    predictions = extract_features_each(load(args, trunk_only=True), args.images, args.kind, blocks, args.batch_size)
    refuse_inputs(predictions.images, [file])
    print(f'{file}: features {write_features(_results(predictions), file)}')
    report_skipped(predictions)


def _reconstruct(args: argparse.Namespace) -> None:
    predictions = predict_reconstructions(args)
    for row in write_reconstructions(predictions, Path(args.out)):
        print_reconstruction(row)
    report_skipped(predictions)


def _models(args: argparse.Namespace) -> None:
    for name, config in list_models().items():
        print(f'{name}\t{config}')


def _results(predictions: Predictions) -> Iterator[dict]:
    return (prediction for _, prediction in predictions)


def _print(name: str, parts: Iterable[tuple]) -> None:
    """An image and its classes, tab-separated; a class without a name by its number."""
    columns = [f'{describe_share(share)} {label if known is None else known}' for share, known, label in parts]
    print(name, *columns, sep='\t', flush=True)
