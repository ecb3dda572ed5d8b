"""Samples for a dry run: of the loader's data set, or of a random image."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, TRANSFORMS
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmpretrain.datasets import BaseDataset as ClassificationDataset
from mmpretrain.datasets import CIFAR10, CustomDataset, MultiLabelDataset
from mmseg.datasets import BaseSegDataset
from PIL import Image
from torch.utils.data import Dataset

from beit_mm.config.parts import get, walk
from beit_mm.datasets.bad_images import BadImage
from beit_mm.datasets.listing import check_lines

from .blame import accepted_arguments, blame, find_class
from .problems import Problem

MAX_BAD = 3  # unreadable images at the beginning of a data set, which a training would replace
FOR_PICTURES = ('AutoAugment', 'RandAugment', 'RandomErasing', 'ColorJitter', 'Lighting', 'PhotoMetricDistortion')
OURS = ('RandAugment', 'RandomErasing', 'PhotoMetricDistortion')  # that take any bands
MAX_SIDE = 256  # larger images are cut, to keep a step short
SIDES = (32, 96)  # of the cut images, in pixels


class NotChecked(Exception):
    """A check ends here; `problem` says why, None if something else already does."""

    def __init__(self, problem: Problem | None = None):
        self.problem = problem


class Listed(NamedTuple):
    """A loader's innermost data set.

    Attributes:
        key: where its config stands.
        steps: of its pipeline.
        infos: what it knows of its first images, or of a random one.
        is_real: whether it has listed its images.
    """

    key: str
    dataset: Dataset
    steps: list
    infos: list
    is_real: bool


def list_images(cfg: dict, loader: str, folder: Path, may_list: bool) -> Listed:
    """Build a loader's innermost data set and its pipeline; NotChecked if that fails.

    Args:
        cfg: the whole config.
        loader: key of the loader.
        folder: where a random image may be written.
        may_list: whether the data set may list its images, which takes minutes for millions of files.
    """
    key, node = leaf_datasets(cfg, loader)[0]
    steps = node.get('pipeline') or []
    transforms = [_try(cfg, f'{key}.pipeline.{index}', TRANSFORMS.build, step) for index, step in enumerate(steps)]
    cls = find_class(node, DATASETS)
    is_lazy = cls is not None and 'lazy_init' in accepted_arguments(cls)
    dataset = _try(cfg, key, DATASETS.build, dict(node, pipeline=[], lazy_init=True) if is_lazy else node)
    if isinstance(dataset, (BaseSegDataset, CustomDataset)) and Path(dataset.ann_file).is_file():
        _try(cfg, key, check_lines, dataset)
    may_list = may_list or not is_lazy or isinstance(dataset, BaseSegDataset)  # the files of label maps are few
    infos = _try(cfg, key, _real_infos, dataset) if may_list else []
    if infos:
        return Listed(key, dataset, transforms, infos, is_real=True)
    channels = get(cfg, 'model.backbone.in_channels') or get(cfg, 'model.in_channels') or 3
    return Listed(key, dataset, transforms, [_random_info(dataset, folder, channels)], is_real=False)


def draw(cfg: dict, listed: Listed) -> Any:
    """One sample of a data set through its pipeline; NotChecked if there is none."""
    for info in listed.infos:
        try:
            return _run(cfg, listed.key, listed.steps, info)
        except BadImage as error:
            reason = str(error)
    raise NotChecked(Problem(listed.key, f'none of the first {len(listed.infos)} images can be read: {reason}'))


def leaf_datasets(cfg: dict, loader: str) -> list[tuple[str, dict]]:
    """Keys and configs of a loader's data sets inside of all wrappers."""
    return [
        (key, node)
        for key, node in walk(cfg[loader].get('dataset'), f'{loader}.dataset')
        if key.rstrip('.0123456789').endswith(('dataset', 'datasets')) and not {'dataset', 'datasets'} & set(node)
    ]


def _try(cfg: dict, key: str, function, *arguments):
    try:
        return function(*arguments)
    except Exception as error:
        raise NotChecked(blame(error, cfg, key)) from error


def _real_infos(dataset: Dataset) -> list:
    """What the data set knows of its first images; nothing if its files are missing, which check_files says."""
    try:
        if isinstance(dataset, BaseDataset):
            dataset.full_init()
            return [dataset.get_data_info(index) for index in range(min(MAX_BAD, len(dataset)))]
        return [dataset[0]]
    except (OSError, RuntimeError):  # RuntimeError is MMPretrain's for CIFAR
        return []


def _run(cfg: dict, key: str, transforms: list, info: Any) -> Any:
    for index, transform in enumerate(transforms):
        image = info.get('img') if isinstance(info, dict) else None
        if isinstance(image, np.ndarray) and image.shape[2:] != (3,):
            _check_bands(f'{key}.pipeline.{index}', transform, math.prod(image.shape[2:]))
        try:
            info = transform(info)
        except BadImage:
            raise
        except Exception as error:
            raise NotChecked(blame(error, cfg, f'{key}.pipeline.{index}')) from error
        if info is None:
            raise NotChecked(Problem(f'{key}.pipeline.{index}', 'gave no image', is_error=False))
    return info


def _check_bands(key: str, transform: Any, bands: int) -> None:
    """Refuse steps of the hosts that fail at other images than pictures, or drop or mix bands without a word."""
    name = type(transform).__name__
    if type(transform).__module__.startswith('beit_mm.'):
        return
    if name in FOR_PICTURES:
        mend = f'use beit_mm.{name}' if name in OURS else 'leave it out'
        raise NotChecked(Problem(key, f'{name} takes images of three bands, got {bands}; {mend}'))
    if bands > 1 and getattr(transform, 'backend', None) == 'pillow':
        why = f'for images of {bands} bands: Pillow takes a fourth for transparency, and no more'
        raise NotChecked(Problem(f'{key}.backend', f"must be 'cv2' {why}; set backend='cv2'"))


def _random_info(dataset: Dataset, folder: Path, channels: int) -> dict:
    """What a data set of a known kind would give, of a random image."""
    generator = np.random.default_rng(0)
    suffix = {1: '.jpg', 3: '.jpg', 4: '.png'}.get(channels, '.npy')  # no picture has more bands
    image, labels = folder / f'image{suffix}', folder / 'labels.png'
    if not image.exists():
        if suffix == '.npy':
            np.save(image, generator.integers(0, 256, (480, 640, channels), np.uint8))
        else:
            pixels = generator.integers(0, 256, (12, 16, channels), np.uint8).squeeze()
            Image.fromarray(pixels).resize((640, 480), Image.Resampling.BILINEAR).save(image)
        Image.fromarray(generator.integers(1, 3, (480, 640), np.uint8)).save(labels)
    info = dict(img_path=str(image), gt_label=0, sample_idx=0)
    if isinstance(dataset, CIFAR10):
        return dict(info, img=generator.integers(0, 256, (32, 32, 3), np.uint8))
    if isinstance(dataset, BaseSegDataset):
        maps = dict(label_map=dataset.label_map, reduce_zero_label=dataset.reduce_zero_label)
        return dict(info, seg_map_path=str(labels), seg_fields=[], **maps)
    if isinstance(dataset, ClassificationDataset) and not isinstance(dataset, MultiLabelDataset):
        return info
    raise NotChecked


def collate(cfg: dict, loader: str, sample: Any, num_images: int) -> Any:
    """A batch of copies of a sample, by the loader's own function; NotChecked if the loader cannot be built."""
    node = cfg[loader]
    samples = _Samples([sample] * max(num_images, 2))
    try:
        built = Runner.build_dataloader(dict(node, dataset=samples), seed=0)
    except Exception as error:
        problem = blame(error, cfg, loader)
        is_error = isinstance(error, (ValueError, TypeError, KeyError))  # a sampler may ask more of a data set
        raise NotChecked(problem._replace(is_error=problem.is_error and is_error)) from error
    return _try(cfg, f'{loader}.collate_fn', built.collate_fn, [sample] * num_images)


class _Samples(list, Dataset):  # type: ignore[misc]  # both have __add__
    """A list that loaders take for a data set."""


def sides(sample: Any) -> tuple[int, ...]:
    """Sizes to cut large images to, one after the other while a model refuses them."""
    images = sample.get('inputs') if isinstance(sample, dict) else None
    is_large = isinstance(images, torch.Tensor) and max(images.shape[1:]) > MAX_SIDE
    return SIDES if is_large else SIDES[:1]


def cut_size(side: int, most: int) -> int:
    """A side of at most about 2 * `most` pixels, by multiples of 64, so that patches and strides fit as before."""
    return side if side <= MAX_SIDE else most + side % 64


def cut(sample: Any, most: int) -> Any:
    """A sample with its upper left corner alone, where it is large and made of one image and its labels."""
    images = sample.get('inputs') if isinstance(sample, dict) else None
    if not isinstance(images, torch.Tensor) or images.ndim != 3 or set(sample) != {'inputs', 'data_samples'}:
        return sample
    is_padded_later = 'gt_sem_seg' in sample['data_samples']
    height, width = (min(side, most) if is_padded_later else cut_size(side, most) for side in images.shape[1:])
    if (height, width) == tuple(images.shape[1:]):
        return sample
    data_sample = sample['data_samples'].clone()
    if 'gt_sem_seg' in data_sample:
        data_sample.gt_sem_seg = PixelData(data=data_sample.gt_sem_seg.data[:, :height, :width])
    data_sample.set_metainfo(dict(img_shape=(height, width), ori_shape=(height, width)))
    return dict(inputs=images[:, :height, :width], data_samples=data_sample)
