"""Mask patches of images, predict their visual tokens by a pre-trained model, and decode these: a sheet and numbers."""

import argparse
from pathlib import Path

from beit_mm.apis.arguments import (
    add_inference_arguments,
    add_mask_arguments,
    predict_reconstructions,
    print_reconstruction,
    report_skipped,
)
from beit_mm.apis.writing import check_suffix, MAX_ROWS, write_sheet
from beit_mm.engine.runners.launch import run


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_inference_arguments(parser, batch_size=8)
    add_mask_arguments(parser)
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('reconstruction.png'),
        metavar='FILE',
        help='the sheet, .png, '
        f'.jpg or .pdf, a row for each of the first {MAX_ROWS} images; overwritten (default: '
        '%(default)s)',
    )
    parser.add_argument('--json', type=Path, metavar='FILE', help='also write masks, tokens and numbers of all images')
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    check_suffix(args.out, '.png', '.jpg', '.pdf')
    predictions = predict_reconstructions(args)
    num_read = 0
    for num_read, row in enumerate(write_sheet(predictions, args.out, args.json), start=1):
        print_reconstruction(row)
    report_skipped(predictions)
    print(f'wrote {args.out}' + (f', the first {MAX_ROWS} of {num_read} images' if num_read > MAX_ROWS else ''))
    if args.json:
        print(f'wrote {args.json}')


if __name__ == '__main__':
    run(main, parse_args())
