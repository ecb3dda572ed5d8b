"""Find the mistakes of a config before a training: python tools/check_config.py CONFIG"""

import argparse

from mmengine.config import DictAction

from beit_mm.checks import check_command
from beit_mm.engine.runners.launch import run


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Find the mistakes of a config before a training.')
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--gpus', type=int, metavar='N', help="processes that will train, to compare the batch with the recipe's"
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override keys of the config, such as train_dataloader.batch_size=32 or a="[1,2]"',
    )
    parser.set_defaults(work_dir=None)  # no run, so no folder for a traceback
    return parser.parse_args()


if __name__ == '__main__':
    run(check_command, parse_args())
