"""The demonstration: train and test all four stages on real images, with a page that shows them as they learn.

python tools/demo [--full | --v2] [--seed N] [--work-dir FOLDER]
"""

import argparse
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # while torch is imported; not ignored, as by nohup
    signal.signal(signal.SIGINT, lambda *_: (os.write(2, b'interrupted\n'), os._exit(130)))

NEEDED = 500  # MB, of data, checkpoints and logs


def main() -> None:
    """Say where the page is and what is wrong with the place; then import torch and begin."""
    parser = argparse.ArgumentParser(prog='tools/demo', description=__doc__.splitlines()[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument('--full', action='store_true', help='train longer, for higher scores')
    which.add_argument('--v2', action='store_true', help='BEiT v2, with the models of the demonstration as teachers')
    parser.add_argument('--seed', type=int, default=0, help='of all weights and draws; default: 0')
    parser.add_argument(
        '--work-dir', type=Path, help='default: work_dirs/demo, demo_full with --full, demo_v2 with --v2'
    )
    args = parser.parse_args()
    folder = 'demo_v2' if args.v2 else 'demo_full' if args.full else 'demo'
    start, root = time.time(), args.work_dir or Path('work_dirs', folder)
    for folder in (root, Path('data')):
        check_place(folder)
    print(f'Everything will be shown in {(root / "index.html").resolve()}: open it in a browser.')
    print('Ctrl-C stops; the same command goes on where it stopped.', flush=True)
    # Threads that spin while they wait would take the time of the other processes. OpenMP reads it when it is loaded.
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
    os.environ.setdefault('PYTHONWARNINGS', 'ignore')
    importlib.import_module('beit_mm')  # first, as it keeps the hosts quiet
    from demonstration import Demonstration
    from plans import plan_beit, plan_beit_v2

    plan = plan_beit_v2(root, args.seed) if args.v2 else plan_beit(root, args.full, args.seed)
    Demonstration(root, plan, start).run()


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


if __name__ == '__main__':
    try:
        main()
    except (ValueError, OSError) as error:  # such as a data folder that holds other files
        sys.exit(f'error: {error}')
    except KeyboardInterrupt:
        print('interrupted: the same command goes on where it stopped', file=sys.stderr)
        sys.exit(130)
