"""A data set for training: every sample has its own random draws, and bad images are replaced."""

from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from beit_mm.registry import DATASETS

from .bad_images import BadImages
from .seeds import seed_generators, SeededIndex


@DATASETS.register_module(name=['SeededDataset', 'KeyedDataset'])
class SeededDataset(Dataset):
    """Any data set, read by the indices and seeds of a SeededSampler.

    EpochTrainLoop and IterTrainLoop wrap the config's data set in it. `dataset` is the data set inside. The properties
    below are those that the hosts' hooks read from a loader's data set.

    Args:
        dataset: config of the data set, or the data set.
        bad_image_list: file for the names of images that cannot be read.
        max_bad_share: largest share of the images that may be on the list.
    """

    def __init__(self, dataset: dict | Dataset, bad_image_list: str | Path, max_bad_share: float):
        self.dataset: Any = dataset
        if isinstance(dataset, dict):
            self.dataset = DATASETS.build(dataset)
        self.bad_images = BadImages(len(self.dataset), bad_image_list, max_bad_share)

    def __getitem__(self, sample: SeededIndex) -> Any:
        seed_generators(sample.seed)
        return self.bad_images.read(self.dataset, sample.index, sample.seed)

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def metainfo(self) -> dict:
        return self.dataset.metainfo

    @property
    def CLASSES(self) -> tuple[str, ...] | None:  # read by MMPretrain's ClassNumCheckHook
        return self.dataset.CLASSES

    def get_gt_labels(self) -> Any:
        """The labels of all samples, for MMPretrain's SetAdaptiveMarginsHook."""
        return self.dataset.get_gt_labels()
