"""A data set for training whose samples are drawn by their keys, and whose bad images are replaced."""

from pathlib import Path

from torch.utils.data import Dataset

from beit_mm.registry import DATASETS

from .bad_images import BadImages
from .samplers import SampleKey, seed_generators


@DATASETS.register_module()
class KeyedDataset(Dataset):
    """Any data set, read by the keys of a KeyedSampler; in all else it is the data set inside.

    EpochTrainLoop and IterTrainLoop put it around the data set of the config.

    Args:
        dataset: config of the data set, or the data set.
        bad_image_list: file for the names of images that cannot be read.
        max_bad_share: of the images that may be on it.
    """

    def __init__(self, dataset: dict | Dataset, bad_image_list: str | Path, max_bad_share: float):
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.bad_images = BadImages(len(self.dataset), bad_image_list, max_bad_share)

    def __getitem__(self, key: SampleKey):
        seed_generators(key.seed)
        return self.bad_images.read(self.dataset, key.index, key.seed)

    def __len__(self) -> int:
        return len(self.dataset)

    def __setattr__(self, name: str, value) -> None:
        object.__setattr__(self if name in ('dataset', 'bad_images') else self.dataset, name, value)

    def __getattr__(self, name: str):
        # `dataset` is not there yet while a worker unpickles this; a loader would give keys to `__getitems__`.
        if name == 'dataset' or name.startswith('__'):
            raise AttributeError(name)
        return getattr(self.dataset, name)
