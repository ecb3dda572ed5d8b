"""Write the report of a work directory again, or of runs that were killed."""

import argparse
import os
import signal
from pathlib import Path

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # while torch is imported; not ignored, as by nohup
    signal.signal(signal.SIGINT, lambda *_: (os.write(2, b'interrupted\n'), os._exit(130)))

from beit_mm.engine.runners.ending import run
from beit_mm.text import show
from beit_mm.visualization.report import write_report


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Write the report of the runs in a work directory.')
    parser.add_argument('run', type=Path, metavar='WORK_DIR', help='work directory of a training or test')
    parser.add_argument('--out', type=Path, metavar='FILE', help='the page; default: WORK_DIR/report.html')
    parser.set_defaults(work_dir=None)  # no run, so no folder for a traceback
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    print(show(write_report(args.run, args.out)))


if __name__ == '__main__':
    run(main, parse_args())
