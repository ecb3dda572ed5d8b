"""What the commands share that run a model on images: results on standard output, a tab-separated line per image."""

import argparse
import sys
from collections.abc import Iterable

from .arguments import load


def predict(args: argparse.Namespace, inferencer: type, **options):
    """Results of an inferencer with the model and the images of the arguments."""
    loaded = load(inferencer, args, **options)
    # A bar would only disturb the lines on a terminal.
    return loaded.each(args.images, args.batch_size, progress=not sys.stdout.isatty())


def print_shares(name: str, shares: Iterable[tuple]) -> None:
    """Print an image and its classes, tab-separated; a class without a name by its number."""
    from beit_mm.visualization.sheets import describe_share

    columns = [f'{describe_share(share)} {label if known is None else known}' for share, known, label in shares]
    print_line(name, *columns)


def print_line(*cells: str) -> None:
    from beit_mm.text import show_cell

    print(*map(show_cell, cells), sep='\t', flush=True)


def report_skipped(predictions) -> None:
    """Name the images that could not be read, on standard error."""
    from beit_mm.text import show

    for name, reason in predictions.skipped.items():
        print(f'skipped {show(name)}: {show(reason)}', file=sys.stderr)
    if predictions.left_out:
        print(f'left out: {show(predictions.left_out)}', file=sys.stderr)
    if predictions.skipped:
        print(f'{len(predictions.skipped)} of {len(predictions)} images could not be read', file=sys.stderr)
