"""JPEG files to what a model is fed, on one core."""

import io
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import cv2
import mmpretrain
import mmseg
import numpy as np
import pretraining
import torch
import trunks
from measuring import compare, Row, Sizes
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from photographs import write_photographs, write_scenes
from PIL import Image
from steps import config_file
from torchvision import transforms
from torchvision.transforms import functional, InterpolationMode

import beit_mm

IMAGES = 64  # in a round
MASKS = 200  # in a round, for each image of the other sections
Candidates = dict[str, Callable[[dict], dict]]


class ReleasesSteps:
    """The release's order of steps with Pillow and torchvision, normalising included; its mask is ours."""

    def __init__(self, mask: Callable[[dict], dict]):
        self.jitter = transforms.ColorJitter(0.4, 0.4, 0.4)
        self.mask = mask

    def __call__(self, sample: dict) -> dict:
        image = self.jitter(Image.open(io.BytesIO(Path(sample['img_path']).read_bytes())).convert('RGB'))
        if np.random.random() < 0.5:
            image = functional.hflip(image)
        box = transforms.RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3))
        first = functional.resized_crop(image, *box, [224, 224], InterpolationMode.BICUBIC)
        second = functional.resized_crop(image, *box, [112, 112], InterpolationMode.LANCZOS)
        first = functional.normalize(functional.to_tensor(first), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        return dict(inputs=first, views=functional.to_tensor(second), **self.mask({}))


def candidates() -> dict[str, Candidates]:
    """By section, then by name: from the path of a photograph (and of its label map) to what a model is fed.

    All are training pipelines of recipes. In classification and segmentation the draws and their order are the same on
    both sides.
    """
    config = Config.fromfile(config_file(beit_mm, 'beit_pretrain.py'))
    two_views, hosts_two_views = _pipeline(beit_mm, 'beit_pretrain.py'), _pipeline(mmpretrain, pretraining.HOSTS_RECIPE)
    mask, hosts_mask = (pipeline.transforms[-2] for pipeline in (two_views, hosts_two_views))
    with DefaultScope.overwrite_default_scope(config.default_scope):
        release_order = Compose([*config.release_order, *two_views.transforms[-2:]])
    return {
        'two views and a mask, one core': {
            'ours': two_views,
            "ours, in the release's order": release_order,
            "the release's steps": ReleasesSteps(mask),
            'MMPretrain': hosts_two_views,
        },
        'one blockwise mask': {'ours': mask, 'MMPretrain': hosts_mask},
        'classification, one core': {
            'ours': _pipeline(beit_mm, 'beit_finetune.py'),
            'MMPretrain': _pipeline(mmpretrain, trunks.HOSTS_RECIPE),
        },
        'segmentation, one core': {
            'ours': _pipeline(beit_mm, 'beit_segment.py'),
            'MMSegmentation': _pipeline(mmseg, '_base_/datasets/ade20k.py'),
        },
    }


def _pipeline(package: ModuleType, name: str) -> Compose:
    config = Config.fromfile(config_file(package, name))
    with DefaultScope.overwrite_default_scope(config.get('default_scope', package.__name__)):
        return Compose(config.train_dataloader.dataset.pipeline)


def compare_loading(sizes: Sizes, images: int = IMAGES) -> list[Row]:
    """The training pipelines of the recipes and one mask alone, on one core, against the hosts' and the release's."""
    threads, opencv_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)  # as in the workers of MMEngine's loaders
    try:
        with tempfile.TemporaryDirectory() as photographs, tempfile.TemporaryDirectory() as scenes:
            samples = [dict(img_path=str(path), gt_label=0) for path in write_photographs(Path(photographs))]
            labelled = [scene(path) for path in write_scenes(Path(scenes))]
            rows = []
            for section, pipelines in candidates().items():
                count = MASKS * images if 'one blockwise mask' in section else images
                of_section = labelled if 'segmentation' in section else samples
                reads = {name: _reader(pipeline, of_section, count) for name, pipeline in pipelines.items()}
                rows += compare(section, reads, sizes.rounds, count)
            return rows
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(opencv_threads)


def scene(path: Path) -> dict:
    """A photograph with its label map, as MMSegmentation's data sets give them."""
    return dict(img_path=str(path), seg_map_path=str(path.with_suffix('.png')), label_map=None, reduce_zero_label=True)


def _reader(pipeline: Callable[[dict], dict], samples: Sequence[dict], count: int) -> Callable[[], None]:

    def read() -> None:
        for index in range(count):
            pipeline(dict(samples[index % len(samples)], seg_fields=[]))  # a list that MMSegmentation appends to

    return read
