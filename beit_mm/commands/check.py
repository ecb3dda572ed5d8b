"""Find the mistakes of a config or of data before a training.

A small copy of a config's model is built and trained for a step on samples of
its data. With --data, all images and labels of the config are read instead. The
name of a published data set compares its folder with the published counts. The
exit code is 1 if anything is wrong.

Examples:
  beit-mm check configs/beit_pretrain.py --gpus 8
  beit-mm check imagenet
"""

import argparse
import os
import sys
from collections.abc import Iterator
from os.path import isfile
from pathlib import Path

from beit_mm.text import hint_at_path

from .arguments import add_cfg_options, at_least, existing, positive

# Where the recipes look for the published data sets, and by folder how many class folders and files they have.
PUBLISHED = dict(
    imagenet=('data/imagenet', {'train': (1000, 1_281_167), 'val': (1000, 50_000)}),
    imagenet22k=('data/imagenet22k', {'train': (21_841, 14_197_087)}),
    cifar100=('data/cifar100', {'cifar-100-python': (0, 4)}),
    ade20k=(
        'data/ade/ADEChallengeData2016',
        {
            f'{kind}/{split}': (0, count)
            for split, count in (('training', 20_210), ('validation', 2_000))
            for kind in ('images', 'annotations')
        },
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('what', type=config_or_name, metavar='CONFIG_OR_NAME', help=f'a config file, or one of {", ".join(PUBLISHED)}')
    add(
        'root',
        nargs='?',
        type=existing,
        metavar='ROOT',
        help='folder of the published data set; default: where the recipes look',
    )
    add('--gpus', type=positive, metavar='N', help="processes that will train, to compare the batch with the recipe's")
    add('--data', action='store_true', help='read all images and labels of the config')
    add('--workers', type=at_least(0), metavar='N', help='processes of --data, 0 for none; default: one per core')
    add_cfg_options(add)


def config_or_name(text: str) -> str:
    if text not in PUBLISHED and not isfile(text):
        hint = hint_at_path(text) if '.' in text else ''
        raise argparse.ArgumentTypeError(f'must be a config file or one of {", ".join(PUBLISHED)}, got {text}{hint}')
    return text


def run(args: argparse.Namespace) -> None:
    from beit_mm.text import show

    count = 0
    for problem in find_problems(args):
        print(f'{"error" if problem.is_error else "warning"}: {problem}', flush=True)
        count += problem.is_error
    mistakes = f'{count} mistake{"s" if count > 1 else ""}' if count else 'no mistakes found'
    print(f'{show(args.what)}: {mistakes}')
    if count:
        sys.exit(1)


def find_problems(args: argparse.Namespace) -> Iterator:
    """Problems of the config, of its data, or of a published data set."""
    from beit_mm.checks import check_config, check_images, Problem
    from beit_mm.config.flatten import drop_scope_stamps
    from beit_mm.config.reading import read_config
    from beit_mm.errors import UserError

    if args.what in PUBLISHED:
        root, folders = PUBLISHED[args.what]
        yield from (Problem(folder, sentence) for folder, sentence in compare_counts(Path(args.root or root), folders))
        return
    if args.root:
        raise UserError(f'only a published data set has a ROOT, got {args.root} for {args.what}')
    cfg = read_config(args.what, args.cfg_options)
    drop_scope_stamps(cfg)
    if args.data:
        yield from check_images(cfg, len(os.sched_getaffinity(0)) if args.workers is None else args.workers)
        return
    counts: dict[str, str] = {}
    problems = check_config(cfg, num_processes=args.gpus, options=args.cfg_options, counts=counts)
    for loader, text in counts.items():
        print(f'{loader}: {text}')
    yield from problems


def compare_counts(root: Path, folders: dict[str, tuple[int, int]]) -> Iterator[tuple[str, str]]:
    """Folders of a data set, and how each differs from the published counts of class folders and of files."""
    for name, (num_classes, num_files) in folders.items():
        folder = root / name
        if not folder.is_dir():
            inner = next((path for path in sorted(root.glob('*')) if (path / name).is_dir()), None)
            yield str(folder), 'expected a folder, got none' + (f'; give {inner} as ROOT' if inner else '')
            continue
        classes = sum(entry.is_dir() for entry in os.scandir(folder))
        files = sum(len(names) for _, _, names in os.walk(folder, followlinks=True))
        for what, expected, got in (('class folders', num_classes, classes), ('files', num_files, files)):
            if got != expected:
                yield str(folder), f'expected {expected:,} {what}, got {got:,}; a part is missing or doubled'
