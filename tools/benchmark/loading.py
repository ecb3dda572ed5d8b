"""JPEG files to what a model is fed, on one core."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from measuring import compare, Row
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from photographs import write_photographs, write_scenes
from PIL import Image
from steps import config_file
from torchvision import transforms
from torchvision.transforms import functional, InterpolationMode

import beit_mm

MASKS = 200  # in a round, for each image of the other sections
HOSTS_MASK = dict(
    type='BEiTMaskGenerator', input_size=(14, 14), num_masking_patches=75, max_num_patches=None, min_num_patches=16
)
MMPRETRAIN_TWO_VIEWS = [
    dict(type='LoadImageFromFile'),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.0),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandomResizedCropAndInterpolationWithTwoPic', size=224, second_size=112, interpolation='bicubic',
         second_interpolation='lanczos', scale=(0.08, 1.0)),
    HOSTS_MASK,
    dict(type='PackInputs')]  # yapf: disable
MMPRETRAIN_CLASSIFICATION = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=224, backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandAugment', policies='timm_increasing', num_policies=2, total_level=10, magnitude_level=9,
         magnitude_std=0.5, hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic')),
    dict(type='RandomErasing', erase_prob=0.25, mode='rand', min_area_ratio=0.02, max_area_ratio=1 / 3,
         fill_color=[103.53, 116.28, 123.675], fill_std=[57.375, 57.12, 58.395]),
    dict(type='PackInputs')]  # yapf: disable
MMSEGMENTATION = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs')]  # yapf: disable


class ReleasesSteps:
    """The release's order of steps with Pillow and torchvision, normalising included; its mask is ours."""

    def __init__(self, mask: Callable[[dict], dict]):
        self.jitter = transforms.ColorJitter(0.4, 0.4, 0.4)
        self.mask = mask

    def __call__(self, sample: dict) -> dict:
        image = Image.open(io.BytesIO(Path(sample['img_path']).read_bytes())).convert('RGB')
        image = self.jitter(image)
        if np.random.random() < 0.5:
            image = functional.hflip(image)
        box = transforms.RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3))
        first = functional.resized_crop(image, *box, [224, 224], InterpolationMode.BICUBIC)
        second = functional.resized_crop(image, *box, [112, 112], InterpolationMode.LANCZOS)
        first = functional.normalize(functional.to_tensor(first), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        return dict(inputs=first, views=functional.to_tensor(second), **self.mask({}))


def compare_loading(folder: Path, rounds: int = 5, count: int = 64) -> list[Row]:
    """The training pipelines of the recipes and one mask alone, on one core, against the hosts' and the release's.

    Args:
        folder: where the photographs are written.
        rounds: how often each candidate is timed.
        count: images in a round.
    """
    photographs = [dict(img_path=str(path), gt_label=0) for path in write_photographs(folder)]
    (folder / 'scenes').mkdir()
    scenes = [
        dict(img_path=str(path), seg_map_path=str(path.with_suffix('.png')), label_map=None, reduce_zero_label=True)
        for path in write_scenes(folder / 'scenes')
    ]
    threads, opencv_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)  # as in the workers of MMEngine's loaders
    try:
        rows = _compare('two views and a mask, one core', two_views(), photographs, rounds, count)
        rows += _compare('one blockwise mask', masks(), [{}], rounds, MASKS * count)
        rows += _compare('classification, one core', classification(), photographs, rounds, count)
        rows += _compare('segmentation, one core', segmentation(), scenes, rounds, count)
        return rows
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(opencv_threads)


def two_views() -> dict[str, Callable[[dict], dict]]:
    """A photograph's path to two views and a mask, by name."""
    cfg = Config.fromfile(config_file(beit_mm, 'beit_pretrain.py'))
    ours = _pipeline(cfg)
    release_order = [*cfg.release_order, *cfg.train_dataloader.dataset.pipeline[-2:]]
    return {'ours': ours, 'ours, in the release\'s order': _compose('mmpretrain', release_order),
            'the release\'s steps': ReleasesSteps(ours.transforms[-2]),
            'MMPretrain': _compose('mmpretrain', MMPRETRAIN_TWO_VIEWS)}  # yapf: disable


def masks() -> dict[str, Callable[[dict], dict]]:
    """75 of 14 x 14 patches."""
    ours = _pipeline(Config.fromfile(config_file(beit_mm, 'beit_pretrain.py'))).transforms[-2]
    return {'ours': ours, 'MMPretrain': _compose('mmpretrain', [HOSTS_MASK]).transforms[0]}


def classification() -> dict[str, Callable[[dict], dict]]:
    """A photograph's path to 224 x 224 pixels with RandAugment and erasing; draws and their order are the same."""
    return {'ours': _pipeline(Config.fromfile(config_file(beit_mm, 'beit_finetune.py'))),
            'MMPretrain': _compose('mmpretrain', MMPRETRAIN_CLASSIFICATION)}  # yapf: disable


def segmentation() -> dict[str, Callable[[dict], dict]]:
    """A photograph and its label map to 512 x 512 pixels; draws and their order are the same."""
    return {'ours': _pipeline(Config.fromfile(config_file(beit_mm, 'beit_segment.py'))),
            'MMSegmentation': _compose('mmseg', MMSEGMENTATION)}  # yapf: disable


def _pipeline(cfg: Config) -> Compose:
    return _compose(cfg.default_scope, cfg.train_dataloader.dataset.pipeline)


def _compose(scope: str, steps: list[dict]) -> Compose:
    with DefaultScope.overwrite_default_scope(scope):
        return Compose(steps)


def _compare(
    section: str, candidates: dict[str, Callable[[dict], dict]], samples: Sequence[dict], rounds: int, count: int
) -> list[Row]:

    def read(candidate: Callable[[dict], dict]) -> None:
        for index in range(count):
            candidate(dict(samples[index % len(samples)], seg_fields=[]))  # a list that MMSegmentation appends to

    return compare(
        section,
        {name: lambda candidate=candidate: read(candidate) for name, candidate in candidates.items()},
        rounds,
        count,
    )
