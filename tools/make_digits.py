"""Make the embedded demonstration data: an ImageNet folder and an ADE20K folder of handwritten digits."""

import argparse
import sys
from pathlib import Path

from beit_mm.datasets.digits import write_classification, write_segmentation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, default=Path('data/digits'), help='folder to fill (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--size', type=int, default=96, help='side of the pictures in pixels (default: %(default)s)')
    args = parser.parse_args()
    try:
        for name, write in (('imagenet', write_classification), ('ade20k', write_segmentation)):
            counts = write(args.out / name, seed=args.seed, size=args.size)
            print(f'{args.out / name}: ' + ', '.join(f'{count} {key}' for key, count in counts.items()))
    except ValueError as error:
        sys.exit(str(error))


if __name__ == '__main__':
    main()
