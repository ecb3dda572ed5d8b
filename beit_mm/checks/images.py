"""All images and labels of a config's data sets, read before a training."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope, TRANSFORMS
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from beit_mm.datasets.counts import describe
from beit_mm.datasets.transforms.loading import IGNORED

from .labels import describe_missing
from .problems import Problem
from .samples import leaf_datasets


def check_images(cfg: Config, num_workers: int) -> Iterator[Problem]:
    """Read every image and label of a config's data sets; gives what is wrong as it is found."""
    plain, done = cfg.to_dict(), []
    head = plain['model'].get('decode_head') or plain['model'].get('head') or {}
    num_classes, ignored = head.get('num_classes'), head.get('ignore_index') or IGNORED
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for key, node in leaf_datasets(plain, loader) if plain.get(loader) else ():
            if node in done:
                continue
            done.append(node)
            with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
                steps = [TRANSFORMS.build(step) for step in node.get('pipeline', ()) if 'Load' in str(step['type'])]
                dataset = DATASETS.build(dict(node, pipeline=[]))
            print(f'{key}: {describe(dataset)}', flush=True)
            loaded = _Loaded(dataset, steps, num_classes, ignored)
            batches = DataLoader(loaded, batch_size=32, num_workers=num_workers, collate_fn=list)
            counts: Counter = Counter()
            for batch in track(batches, f'{key}: {len(dataset)} images', transient=True):
                yield from (Problem(key, fault) for fault, _ in batch if fault)
                counts.update(label for _, labels in batch for label in labels)
            if num_classes and counts:
                sentence, is_error = describe_missing(dataset, counts, num_classes, ignored, len(dataset))
                yield from [Problem(key, sentence, is_error)] if sentence else []


class _Loaded(Dataset):
    """What is wrong with each image of a data set, '' for nothing, and its labels.

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
