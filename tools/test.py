"""Evaluate a checkpoint: python tools/test.py CONFIG CHECKPOINT"""

import os
import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # while torch is imported; not ignored, as by nohup
    signal.signal(signal.SIGINT, lambda *_: (os.write(2, b'interrupted\n'), os._exit(130)))

import argparse

from beit_mm.config.reading import Options, Parser
from beit_mm.engine.runners.ending import run
from beit_mm.engine.runners.launch import test


def parse_args() -> argparse.Namespace:
    parser = Parser(description='Evaluate a checkpoint.')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='where the scores go; default: work_dirs/<name of the config>')
    parser.add_argument('--out', help='write predictions: a .pkl file, or for segmentation a folder of label maps')
    parser.add_argument('--show-dir', help='draw predictions into this folder')
    parser.add_argument('--tta', action='store_true', help="test-time augmentation, the config's tta_pipeline")
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Options,
        metavar='KEY=VALUE',
        help='override keys of the config, such as test_dataloader.batch_size=1 or a="[1,2]"',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


if __name__ == '__main__':
    run(test, parse_args)
