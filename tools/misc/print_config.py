"""Print a config without its bases, or write that to a file: python tools/misc/print_config.py CONFIG"""

import argparse
import os
import signal
import sys
from contextlib import redirect_stdout

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # while torch is imported; not ignored, as by nohup
    signal.signal(signal.SIGINT, lambda *_: (os.write(2, b'interrupted\n'), os._exit(130)))

with redirect_stdout(sys.stderr):  # the hosts print while they are imported
    from beit_mm.config import flatten as print_config
    from beit_mm.config.reading import Options
    from beit_mm.engine.runners.ending import run
    from beit_mm.hiding import hide_secrets


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, with `_base_` or with `read_base`')
    parser.add_argument('--out', metavar='FILE', help='write a .py file, secrets included, instead of printing')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Options,
        metavar='KEY=VALUE',
        help='override keys of the config, such as train_dataloader.batch_size=32 or a="[1,2]"',
    )
    parser.set_defaults(work_dir=None)  # no run, so no folder for a traceback
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    cfg = print_config.flatten(args.config, args.cfg_options)
    if args.out is None:
        print(hide_secrets(cfg.pretty_text), end='')
    else:
        print_config.write(cfg, args.out, f'{args.config}, without its bases (tools/misc/print_config.py).')


if __name__ == '__main__':
    run(main, parse_args())
