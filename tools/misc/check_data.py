"""Check data before a training: python tools/misc/check_data.py imagenet|imagenet22k|cifar100|ade20k|CONFIG"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from mmengine.registry import DATASETS, DefaultScope, TRANSFORMS
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from beit_mm.checks.labels import describe_missing
from beit_mm.checks.samples import leaf_datasets
from beit_mm.config.flatten import drop_scope_stamps
from beit_mm.config.reading import read_config
from beit_mm.datasets.counts import describe
from beit_mm.datasets.transforms.loading import IGNORED
from beit_mm.engine.runners.ending import run
from beit_mm.text import hint_at_path, show

WARNING = 'warning: '
# Where the recipes look for the published data sets, and by folder how many class folders and files they have.
LAYOUTS = dict(
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


def check_layout(root: Path, folders: dict[str, tuple[int, int]]) -> Iterator[str]:
    """What differs between the folders of a data set and the published counts of class folders and of files."""
    for name, (num_classes, num_files) in folders.items():
        folder = root / name
        if not folder.is_dir():
            inner = next((path for path in sorted(root.glob('*')) if (path / name).is_dir()), None)
            yield f'{folder}: expected a folder, got none' + (f'; give {inner} as ROOT' if inner else '')
            continue
        classes = sum(entry.is_dir() for entry in os.scandir(folder))
        files = sum(len(names) for _, _, names in os.walk(folder, followlinks=True))
        for what, expected, got in (('class folders', num_classes, classes), ('files', num_files, files)):
            if got != expected:
                yield f'{folder}: expected {expected:,} {what}, got {got:,}; a part is missing or doubled'


class Loading(Dataset):
    """What is wrong with each image of a data set, and its labels. It is loaded by the steps of its pipeline that load.

    Args:
        dataset: of MMEngine, listed.
        steps: the steps of its pipeline that load.
        num_classes, ignored: of the head, and the label of pixels that it leaves out; None if there is no head.
    """

    def __init__(self, dataset, steps: list, num_classes: int | None, ignored: int):
        self.dataset = dataset
        self.ignored = ignored
        self.steps = steps
        self.num_classes = num_classes

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[str, list[int]]:
        info = self.dataset.get_data_info(index)
        path = info.get('img_path', f'image {index}')
        try:
            for step in self.steps:
                info = step(info)
        except Exception as error:  # decoders have many kinds
            return (f'{error}' if str(path) in str(error) else f'{path}: {error}'), []
        labels = np.unique(info.get('gt_seg_map', info.get('gt_label', ()))).tolist()
        largest = max((label for label in labels if label != self.ignored or 'gt_seg_map' not in info), default=0)
        if self.num_classes and largest >= self.num_classes:
            fault = f'{info.get("seg_map_path", path)}: label {largest}, the head has {self.num_classes} classes'
            return fault, labels
        return '', labels


def check_config_data(path: str, num_workers: int) -> Iterator[str]:
    """What is wrong with the images and labels of a config's data sets; warnings begin with `warning: `."""
    cfg = read_config(path)
    drop_scope_stamps(cfg)
    plain, done = cfg.to_dict(), []
    head = plain['model'].get('decode_head') or plain['model'].get('head') or {}
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for key, node in leaf_datasets(plain, loader) if plain.get(loader) else ():
            if node in done:
                continue
            done.append(node)
            with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
                steps = [step for step in node.get('pipeline', ()) if 'Load' in str(step['type'])]
                dataset = DATASETS.build(dict(node, pipeline=[]))
                num_classes, ignored = head.get('num_classes'), head.get('ignore_index') or IGNORED
                checked = Loading(dataset, [TRANSFORMS.build(step) for step in steps], num_classes, ignored)
            print(f'{key}: {describe(dataset)}', flush=True)
            batches = DataLoader(checked, batch_size=32, num_workers=num_workers, collate_fn=list)
            counts: Counter = Counter()
            for batch in track(batches, f'{key}: {len(dataset)} images', transient=True):
                yield from (f'{key}: {fault}' for fault, _ in batch if fault)
                counts.update(label for _, labels in batch for label in labels)
            if num_classes and counts:
                sentence, is_wrong = describe_missing(dataset, counts, num_classes, ignored, len(dataset))
                yield from [f'{"" if is_wrong else WARNING}{key}: {sentence}'] if sentence else []


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('data', help=f'config file, or one of {", ".join(LAYOUTS)}')
    parser.add_argument('root', nargs='?', help='folder of the published data set; default: where the recipes look')
    parser.add_argument('--workers', type=int, default=len(os.sched_getaffinity(0)), help='default: %(default)s')
    parser.set_defaults(work_dir=None)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Print all that is wrong; exit with 1 if anything is."""
    if args.data in LAYOUTS:
        default, folders = LAYOUTS[args.data]
        faults = check_layout(Path(args.root or default), folders)
    elif Path(args.data).is_file():
        faults = check_config_data(args.data, args.workers)
    else:
        hint = hint_at_path(args.data) if '.' in args.data else ''
        raise FileNotFoundError(f'{args.data} must be a config file or one of {", ".join(LAYOUTS)}{hint}')
    count = 0
    for fault in faults:
        is_warning = fault.startswith(WARNING)
        print(f'{"" if is_warning else "wrong: "}{show(fault)}', flush=True)
        count += not is_warning
    print(f'{args.data}: {count} wrong')
    if count:
        sys.exit(1)


if __name__ == '__main__':
    run(main, parse_args())
