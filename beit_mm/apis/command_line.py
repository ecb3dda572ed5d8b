"""The commands of `python -m beit_mm`: inference from the shell.

Results go to standard output, a line per image; all else to standard error.
"""
import argparse
import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Iterable, Iterator, Optional, Sequence

import numpy as np
import torch
from mmengine.config import DictAction
from mmengine.model import BaseModel

from ..engine.launch import run
from ..visualization.overlay import describe_share
from .classification import classify_each
from .features import KINDS, extract_features_each
from .models import list_models, load_model
from .predicting import Predictions
from .reconstruction import GENERATORS, reconstruct_each
from .segmentation import segment_each
from .writing import check_suffix, write_classes, write_features, write_label_maps, write_reconstructions

NUM_SHARES = 5


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Run a command; what its arguments or files cause ends in one sentence on standard error and exit code 1."""
    args = _parse(arguments)
    # The hosts warn of parts and losses that inference does not use.
    warnings.filterwarnings('ignore', category=UserWarning, module='mm(cv|engine|pretrain|seg)')
    run(args.job, args)


def _parse(arguments: Optional[Sequence[str]]) -> argparse.Namespace:
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
    one.add_argument('--kind', choices=KINDS, default='mean', help='of the features; default: mean')
    one.add_argument('--blocks', type=int, nargs='+', metavar='BLOCK', help='blocks of the trunk, counted from 0 or '
                     'back from -1, whose features are stacked; default: those of the last')
    one = _add(commands, 'reconstruct', _reconstruct, 'images from their visual tokens, some of them predicted',
               batch_size=8)
    one.add_argument('--out', metavar='FOLDER', required=True, help='where a picture per image goes')
    one.add_argument('--tokenizer', nargs='+', metavar='FILE', help="where the weights hold no tokenizer: its file, or "
                     "OpenAI's two, encoder.pkl and decoder.pkl")
    one.add_argument('--mask', choices=list(GENERATORS), default='blockwise', help='default: blockwise')
    one.add_argument('--num-masked', type=int, metavar='N', help='patches to mask; default: the share of the config')
    one.add_argument('--size', type=int, nargs=2, metavar=('HEIGHT', 'WIDTH'), help="of the images for the trunk; "
                     "default: the shorter side as in training, in the image's own ratio")
    one.add_argument('--seed', type=int, default=0, help='of the masks; default: 0')
    one = commands.add_parser('models', help='the models that --model knows by name')
    one.set_defaults(job=_models, work_dir=None)
    return parser.parse_args(arguments)


def _add(commands, name: str, job, text: str, batch_size: int) -> argparse.ArgumentParser:
    """A command that takes images and a model."""
    parser = commands.add_parser(name, help=text, description=f'{text[0].upper()}{text[1:]}.')
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='files or folders')
    parser.add_argument('--model', required=True, help='a config file, or a name that `models` lists')
    parser.add_argument('--weights', required=True, metavar='FILE', help='a checkpoint in any layout')
    parser.add_argument('--batch-size', type=int, default=batch_size, help=f'default: {batch_size}')
    parser.add_argument('--device', type=_device, help='such as cuda:1 or cpu; default: the GPU if there is one')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='override keys of the config, such as model.head.num_classes=10')
    parser.set_defaults(job=job, work_dir=None)  # no run, so no folder for a traceback
    return parser


def _device(text: str) -> torch.device:
    try:
        device = torch.device(text)
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f'must be a device such as cuda:1 or cpu, got {text}') from error
    if device.type == 'cuda' and (device.index or 0) >= torch.cuda.device_count():
        raise argparse.ArgumentTypeError(f'must be one of {torch.cuda.device_count()} GPUs or cpu, got {text}')
    return device


def _load(args: argparse.Namespace, **options) -> BaseModel:
    with redirect_stdout(sys.stderr):  # what was loaded is no result
        return load_model(args.model, args.weights, args.device, options=args.cfg_options, **options)


def _shows_bar() -> bool:
    """Whether a bar says more than the lines on a terminal do."""
    return not sys.stdout.isatty()


def _classify(args: argparse.Namespace) -> None:
    table = args.out and check_suffix(args.out, '.json', '.csv')
    predictions = classify_each(_load(args), args.images, args.batch_size, args.top_k, _shows_bar())
    rows = _results(predictions)
    for row in write_classes(rows, table) if table else rows:
        _print(row['image'], zip(row['top_scores'], row['top_classes'], row['top_labels']))
    _report_skipped(predictions)


def _segment(args: argparse.Namespace) -> None:
    if not 0 <= args.opacity <= 1:
        raise ValueError(f'--opacity must lie in 0 to 1, got {args.opacity}')
    model = _load(args)
    predictions = segment_each(model, args.images, args.batch_size, _shows_bar())
    for row in write_label_maps(predictions, Path(args.out), model.dataset_meta.get('palette'), args.opacity):
        counts = np.bincount(row['labels'].ravel())
        found = np.argsort(-counts, kind='stable')[:min(NUM_SHARES, np.count_nonzero(counts))].tolist()
        names = [row['classes'][label] if row['classes'] else None for label in found]
        _print(row['image'], zip(counts[found] / counts.sum(), names, found))
    _report_skipped(predictions)


def _features(args: argparse.Namespace) -> None:
    file = check_suffix(args.out, '.npz')
    blocks = -1 if args.blocks is None else args.blocks
    predictions = extract_features_each(_load(args, trunk_only=True), args.images, args.kind, blocks, args.batch_size)
    print(f'{file}: features {write_features(_results(predictions), file)}')
    _report_skipped(predictions)


def _reconstruct(args: argparse.Namespace) -> None:
    predictions = reconstruct_each(_load(args, tokenizer=args.tokenizer), args.images, args.num_masked, args.mask,
                                   args.seed, args.size and tuple(args.size), args.batch_size, _shows_bar())
    for row in write_reconstructions(predictions, Path(args.out)):
        print(row['image'], f'token accuracy {100 * row["token_accuracy"]:.1f} %',
              f'perplexity {row["perplexity"]:.1f}', sep='\t', flush=True)
    _report_skipped(predictions)


def _models(args: argparse.Namespace) -> None:
    for name, config in list_models().items():
        print(f'{name}\t{config}')


def _results(predictions: Predictions) -> Iterator[dict]:
    return (prediction for _, prediction in predictions)


def _print(name: str, parts: Iterable[tuple]) -> None:
    """An image and its classes, tab-separated; a class without a name by its number."""
    columns = [f'{describe_share(share)} {label if known is None else known}' for share, known, label in parts]
    print(name, *columns, sep='\t', flush=True)


def _report_skipped(predictions: Predictions) -> None:
    for name, reason in predictions.skipped.items():
        print(f'skipped {name}: {reason}', file=sys.stderr)
    if predictions.skipped:
        print(f'{len(predictions.skipped)} of {len(predictions)} images could not be read', file=sys.stderr)
