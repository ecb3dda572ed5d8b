"""Train and test all four stages on real images, with a page that shows them.

The images are the handwritten digits and photographs of scikit-learn. On two
cores it takes 8 to 9 minutes. Ctrl-C stops; the same command goes on.

Examples:
  beit-mm demo
  beit-mm demo --v2
"""

import argparse
import importlib.util
import shutil
import sys
import tempfile
import time
from pathlib import Path

from beit_mm.model_index import MIM

START = time.time()
NEEDED = 500  # MB, of data, checkpoints and logs
# Threads that spin while they wait would take the time of the other processes. OpenMP reads it when torch is imported.
ENVIRONMENT = dict(OMP_WAIT_POLICY='PASSIVE', PYTHONWARNINGS='ignore')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument('--full', action='store_true', help='train longer, for higher scores, in under an hour')
    which.add_argument('--v2', action='store_true', help='BEiT v2, with the models of the demonstration as teachers')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='of all weights and draws; default: 0')
    default = 'work_dirs/demo, demo_full with --full, demo_v2 with --v2'
    parser.add_argument(
        '--work-dir', type=Path, metavar='DIR', help=f'for logs, weights and the page; default: {default}'
    )


def prepare(args: argparse.Namespace) -> None:
    """Say where the page is, before torch is imported, or raise OSError."""
    if importlib.util.find_spec('sklearn') is None:
        raise OSError("beit-mm demo needs the images of scikit-learn: pip install 'beit_mm[demo]'")
    args.work_dir = args.work_dir or Path('work_dirs', 'demo_v2' if args.v2 else 'demo_full' if args.full else 'demo')
    for folder in (args.work_dir, Path('data')):
        check_place(folder)
    print(f'Everything will be shown in {(args.work_dir / "index.html").resolve()}: open it in a browser.')
    print('Ctrl-C stops; the same command goes on where it stopped.', flush=True)


def check_place(folder: Path) -> None:
    """OSError if a folder cannot be made or written to, or its disk has too little space."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f'{folder.resolve()} must be a folder that can be written to: {error.strerror}') from error
    free = shutil.disk_usage(folder).free / 1e6
    if free < NEEDED:
        raise OSError(f'{folder.resolve()} must have {NEEDED} MB free, got {free:.0f} MB')


def run(args: argparse.Namespace) -> None:
    sys.path.insert(0, str(MIM / 'tools' / 'demo'))  # what it trains is no part of the package
    from demonstration import Demonstration
    from plans import plan_beit, plan_beit_v2

    root = args.work_dir
    plan = plan_beit_v2(root, args.seed) if args.v2 else plan_beit(root, args.full, args.seed)
    try:
        Demonstration(root, plan, START).run()
    except KeyboardInterrupt:
        print('interrupted: the same command goes on where it stopped', file=sys.stderr)
        sys.exit(130)
