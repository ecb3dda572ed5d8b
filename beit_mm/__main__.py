"""The commands of `python -m beit_mm`: inference from the shell.

Results go to standard output, a line per image; everything else goes to standard error. A command imports what it needs
when it runs, so that the parser needs the standard library only.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from pathlib import Path

EXAMPLE = 'Lines for each image go to standard output. More, with examples: docs/inference.md.'
NUM_SHARES = 5  # classes of a label map that are printed


class Options(argparse.Action):
    """KEY=VALUE words to a dict. MMEngine is imported when there are such words."""

    def __call__(self, parser, namespace, values, option_string=None):
        from beit_mm.config.reading import Options

        Options(self.option_strings, self.dest, nargs='+')(parser, namespace, values, option_string)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. A mistake of the user ends in one sentence on standard error and exit code 1."""
    args = _parse(arguments)
    import warnings

    from beit_mm.engine.runners.ending import run

    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors='backslashreplace')  # for names that the terminal's encoding lacks
    # The hosts warn of parts and losses that inference does not use.
    warnings.filterwarnings('ignore', category=UserWarning, module='mm(cv|engine|pretrain|seg)')
    run(args.command, args)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python -m beit_mm', description='Run a BEiT model on images. COMMAND --help lists its options.'
    )
    commands = parser.add_subparsers(required=True, metavar='COMMAND')

    add = _add(commands, classify, 'print the classes of images', 32)
    add('--top-k', type=int, default=5, help='number of classes that are shown; default: 5')
    add('--out', metavar='FILE', help='also write a table, .json or .csv')

    add = _add(commands, segment, 'write label maps of images and pictures of them', 1)
    add('--out', metavar='FOLDER', required=True, help='where labels/ and overlays/ are written')
    add('--probabilities', action='store_true', help='also write probabilities/: all classes per pixel, .npy')
    add('--opacity', type=float, default=0.5, help='opacity of the colors in overlays, 0 to 1; default: 0.5')

    add = _add(commands, features, 'write features of images, from the trunk of any of the models', 32)
    add('--out', metavar='OUT', required=True, help='an .npz file, or a folder for an .npy file per image')
    add('--own-size', action='store_true', help='take whole images at their own sizes, without a crop')
    add('--kind', choices=('mean', 'cls_token', 'patches'), default='mean', help='what to write; default: mean')
    add('--blocks', type=int, nargs='+', metavar='N', help='blocks to read, from 0, or back from -1; default: the last')

    add = _add(commands, reconstruct, 'mask patches of images, predict their visual tokens and decode them', 8)
    add('--out', metavar='OUT', required=True, help='a folder for a picture per image, or one .png, .jpg or .pdf')
    add('--json', metavar='FILE', help='also write masks, tokens and numbers of all images')
    add('--tokenizer', nargs='+', metavar='FILE', help="if --weights has none, its file or OpenAI's two .pkl files")
    add('--mask', choices=('blockwise', 'random'), default='blockwise', help='masks; default: blockwise')
    add('--num-masked', type=int, metavar='N', help="masked patches in every image; default: the config's share")
    add('--size', type=int, nargs=2, metavar=('H', 'W'), help='resize images to this; default: each in its ratio')
    add('--seed', type=int, default=0, help='seed of the masks; default: 0')

    parser_of_models = commands.add_parser('models', help='list the models that --model knows by name')
    parser_of_models.set_defaults(command=models, work_dir=None)
    return parser.parse_args(arguments)


def _add(commands, command, text: str, batch_size: int):
    """Add a command that takes images and a model; returns the function that adds an argument."""
    parser = commands.add_parser(
        command.__name__, help=text, description=f'{text[0].upper()}{text[1:]}.', epilog=EXAMPLE
    )
    add = parser.add_argument
    add('images', nargs='+', metavar='IMAGE', help='image files, or folders with images')
    add(
        '--model',
        required=True,
        metavar='NAME_OR_CONFIG',
        help='a config file, or a name from `python -m beit_mm models`',
    )
    add(
        '--weights',
        metavar='FILE',
        help="weights of any project that docs/weights.md lists; default: the name's public ones",
    )
    add(
        '--batch-size',
        type=int,
        default=batch_size,
        metavar='N',
        help=f'images computed at once; default: {batch_size}',
    )
    add('--ema', action='store_true', help='use the averaged weights of the file, such as `model_ema`')
    add('--device', help='cpu, cuda or cuda:1; default: the GPU if there is one')
    add('--cfg-options', nargs='+', action=Options, metavar='KEY=VALUE', help='change keys of the config')
    parser.set_defaults(command=command, work_dir=None)  # there is no run, so there is no folder for a traceback
    return add


def classify(args: argparse.Namespace) -> None:
    from beit_mm.apis import ClassificationInferencer
    from beit_mm.apis.writing import check_suffix, write_classes

    table = check_suffix(args.out, '.json', '.csv') if args.out else None
    predictions = _predict(args, ClassificationInferencer, top_k=args.top_k)
    for _, result in write_classes(predictions, table):
        _print_shares(result['image'], zip(result['top_scores'], result['top_classes'], result['top_labels']))
    _report_skipped(predictions)


def segment(args: argparse.Namespace) -> None:
    import numpy as np

    from beit_mm.apis import SegmentationInferencer
    from beit_mm.apis.writing import write_label_maps
    from beit_mm.errors import UserError

    if not 0 <= args.opacity <= 1:
        raise UserError(f'--opacity must be 0 to 1, got {args.opacity}')
    predictions = _predict(args, SegmentationInferencer, probabilities=args.probabilities)
    palette = predictions.inferencer.model.dataset_meta.get('palette')
    for _, result in write_label_maps(predictions, Path(args.out), palette, args.opacity):
        labels, counts = np.unique(result['labels'], return_counts=True)
        largest = np.argsort(-counts, kind='stable')[:NUM_SHARES].tolist()
        names = [result['classes'][labels[index]] if result['classes'] else None for index in largest]
        _print_shares(result['image'], zip(counts[largest] / counts.sum(), names, labels[largest]))
    _report_skipped(predictions)


def features(args: argparse.Namespace) -> None:
    from beit_mm.apis import FeatureInferencer
    from beit_mm.apis.writing import check_suffix, write_features
    from beit_mm.text import show

    file = check_suffix(args.out, '.npz') if Path(args.out).suffix else Path(args.out)
    blocks = -1 if args.blocks is None else args.blocks
    predictions = _predict(args, FeatureInferencer, kind=args.kind, blocks=blocks, own_size=args.own_size)
    print(f'{show(file)}: features {write_features(predictions, file)}')
    _report_skipped(predictions)


def reconstruct(args: argparse.Namespace) -> None:
    from beit_mm.apis import ReconstructionInferencer
    from beit_mm.apis.writing import write_reconstructions

    options = {name: getattr(args, name) for name in ('tokenizer', 'num_masked', 'mask', 'seed', 'size')}
    predictions = _predict(args, ReconstructionInferencer, **options)
    for _, result in write_reconstructions(predictions, Path(args.out), args.json and Path(args.json)):
        masked = f'{result["mask"].sum()} of {result["mask"].size} patches masked'
        accuracy = f'token accuracy {100 * result["token_accuracy"]:.1f} %'
        _print_line(result['image'], masked, accuracy, f'perplexity {result["perplexity"]:.1f}')
    _report_skipped(predictions)


def models(args: argparse.Namespace) -> None:
    from beit_mm.apis import list_models

    for name, config in list_models().items():
        print(f'{name}\t{config}')


def _predict(args: argparse.Namespace, inferencer: type, **options):
    """Results of an inferencer with the model and the images of the arguments."""
    with redirect_stdout(sys.stderr):  # the log of loading is no result
        loading = dict(device=args.device, options=args.cfg_options, ema=args.ema)
        loaded = inferencer(args.model, args.weights, **loading, **options)
    # A bar would only disturb the lines on a terminal.
    return loaded.each(args.images, args.batch_size, progress=not sys.stdout.isatty())


def _print_shares(name: str, shares: Iterable[tuple]) -> None:
    """Print an image and its classes, tab-separated; a class without a name by its number."""
    from beit_mm.visualization.sheets import describe_share

    columns = [f'{describe_share(share)} {label if known is None else known}' for share, known, label in shares]
    _print_line(name, *columns)


def _print_line(*cells: str) -> None:
    from beit_mm.text import show_cell

    print(*map(show_cell, cells), sep='\t', flush=True)


def _report_skipped(predictions) -> None:
    from beit_mm.text import show

    for name, reason in predictions.skipped.items():
        print(f'skipped {show(name)}: {show(reason)}', file=sys.stderr)
    if predictions.left_out:
        print(f'left out: {show(predictions.left_out)}', file=sys.stderr)
    if predictions.skipped:
        print(f'{len(predictions.skipped)} of {len(predictions)} images could not be read', file=sys.stderr)


if __name__ == '__main__':
    main()
