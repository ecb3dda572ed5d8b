"""Pre-train on a folder of your own images in the time that you give.

It looks at the images, measures training steps on this machine, chooses the
sizes of a tokenizer and of a BEiT and the lengths of their trainings, writes
these as configs into a folder, and trains by them as tools/train.py does.
Ctrl-C saves; --resume goes on.

Example:
  beit-mm pretrain photos --minutes 30 --labels photos_by_class
"""

import argparse
import os
import time
from pathlib import Path

from .arguments import existing

START = time.monotonic()  # before torch is imported
MIN_MINUTES = 1.0
# Threads that spin while they wait would take the time of the loaders. OpenMP reads it when torch is imported.
ENVIRONMENT = dict(OMP_WAIT_POLICY='PASSIVE')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('folder', type=a_folder, metavar='FOLDER', help='images, also in subfolders, without labels')
    add('--minutes', type=minutes, default=30.0, metavar='N', help='time for everything; default: 30')
    add(
        '--labels',
        type=a_folder,
        metavar='FOLDER2',
        help='labelled images for a score: a folder for each class, or such folders in train and val',
    )
    out = 'a new folder for configs, logs and weights; default: work_dirs/pretrain_<name of FOLDER>'
    add('--out', type=Path, metavar='DIR', help=out)
    add('--resume', action='store_true', help='go on with the configs in DIR, which may have been changed')


def a_folder(text: str) -> str:
    if os.path.isfile(existing(text)):
        raise argparse.ArgumentTypeError(f'must be a folder, got the file {text}')
    text = text.rstrip('/') or '/'
    return f'./{text}' if text.startswith('~') else text  # MMPretrain would take it for a home; the shell has done so


def minutes(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not MIN_MINUTES <= number < float('inf'):
        raise argparse.ArgumentTypeError(f'must be a number of at least {MIN_MINUTES:g}, got {text}')
    return number


def run(args: argparse.Namespace) -> None:
    from beit_mm.pretraining import Pretraining, resume

    out = args.out or Path('work_dirs', f'pretrain_{Path(args.folder).resolve().name}')
    launcher = 'pytorch' if 'TORCHELASTIC_RUN_ID' in os.environ else 'none'
    if args.resume:
        resume(args.folder, out, launcher)
    else:
        Pretraining(args.folder, out, args.minutes, START, launcher).run(args.labels)
