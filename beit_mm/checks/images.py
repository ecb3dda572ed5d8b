"""All images and labels of a config's data sets, read before a training."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope, TRANSFORMS
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from beit_mm.datasets.counts import describe
from beit_mm.datasets.transforms.loading import IGNORED
from beit_mm.errors import hint_at_bands

from .labels import describe_missing
from .problems import Problem, warn
from .samples import leaf_datasets


def check_images(cfg: Config, num_workers: int) -> Iterator[Problem]:
    """Read every image and label of a config's data sets; gives what is wrong as it is found."""
    plain, done = cfg.to_dict(), []
    head = plain['model'].get('decode_head') or plain['model'].get('head') or {}
    num_classes, ignored = head.get('num_classes'), head.get('ignore_index') or IGNORED
    takes = (plain['model'].get('backbone') or plain['model']).get('in_channels', 3)
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
            other_bands: dict[int, list[str]] = {}
            for batch in track(batches, f'{key}: {len(dataset)} images', transient=True):
                for image in batch:
                    counts.update(image.labels)
                    if image.fault:
                        yield Problem(key, image.fault)
                    elif image.bands not in (None, takes):
                        other_bands.setdefault(image.bands, []).append(image.path)
            for bands, paths in other_bands.items():  # a step of the user's own may choose among them
                what = f'{len(paths):,} images are loaded with {bands} bands (such as {paths[0]})'
                yield warn(key, f'{what}, and the model takes {takes}; {hint_at_bands(takes)}')
            if num_classes and counts:
                sentence, is_error = describe_missing(dataset, counts, num_classes, ignored, len(dataset))
                yield from [Problem(key, sentence, is_error)] if sentence else []


class _Image(NamedTuple):
    """What is wrong with an image, '' for nothing, its labels, and its bands if it could be read."""

    path: str
    fault: str = ''
    labels: Sequence[int] = ()
    bands: int | None = None


class _Loaded(Dataset):
    """The images of a data set.

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

    def __getitem__(self, index: int) -> _Image:
        info = self.dataset.get_data_info(index)
        path = str(info.get('img_path', f'image {index}'))
        try:
            for step in self.steps:
                info = step(info)
        except Exception as error:  # decoders have many kinds
            return _Image(path, f'{error}' if path in str(error) else f'{path}: {error}')
        labels = np.unique(info.get('gt_seg_map', info.get('gt_label', ()))).tolist()
        largest = max((label for label in labels if label != self.ignored or 'gt_seg_map' not in info), default=0)
        if self.num_classes and largest >= self.num_classes:
            fault = f'{info.get("seg_map_path", path)}: label {largest}, the head has {self.num_classes} classes'
            return _Image(path, fault, labels)
        shape = np.shape(info.get('img'))
        return _Image(path, '', labels, (*shape, 1)[2] if len(shape) > 1 else None)
