"""JPEG files to what a model is fed, on one core."""
import io
from pathlib import Path
from typing import Callable, Dict, List

import numpy as np
import torch
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode, functional

from .measuring import Row, compare

MASK = dict(type='beit_mm.BlockwiseMaskGenerator', grid=(14, 14), num_masked=75, min_block_size=16, min_aspect=0.3)
OURS = [
    dict(type='beit_mm.LoadImage', imdecode_backend='simplejpeg'),
    dict(type='beit_mm.TwoViewRandomResizedCrop', resize_backend='torch', flip_prob=0.5),
    dict(type='beit_mm.DrawColorJitter', brightness=0.4, contrast=0.4, saturation=0.4),
    MASK,
    dict(type='beit_mm.PackTwoViews')]  # yapf: disable
OURS_IN_THE_RELEASES_ORDER = [
    dict(type='LoadImageFromFile', imdecode_backend='pillow'),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4),
    dict(type='RandomFlip', prob=0.5),
    dict(type='beit_mm.TwoViewRandomResizedCrop'),
    MASK,
    dict(type='beit_mm.PackTwoViews')]  # yapf: disable
MMPRETRAIN = [
    dict(type='LoadImageFromFile'),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.0),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandomResizedCropAndInterpolationWithTwoPic', size=224, second_size=112, interpolation='bicubic',
         second_interpolation='lanczos', scale=(0.08, 1.0)),
    dict(type='BEiTMaskGenerator', input_size=(14, 14), num_masking_patches=75, max_num_patches=None,
         min_num_patches=16),
    dict(type='PackInputs')]  # yapf: disable


def write_photographs(folder: Path, count: int = 16) -> List[Path]:
    """Photographs of ImageNet's size, 500 x 375 pixels and about 60 KB, cut from scikit-learn's two."""
    from sklearn.datasets import load_sample_images
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    paths = []
    for index in range(count):
        shift = 4 * index
        picture = photographs[index % 2].crop((shift, 0, shift + 567, 425)).resize((500, 375), Image.BICUBIC)
        paths.append(folder / f'{index}.jpg')
        picture.save(paths[-1], quality=90)
    return paths


class ReleasesSteps:
    """The release's order of steps with Pillow and torchvision, normalising included; its mask is ours."""

    def __init__(self):
        self.jitter = transforms.ColorJitter(0.4, 0.4, 0.4)
        self.mask = Compose([MASK])

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


def compare_loading(folder: Path, rounds: int = 5, count: int = 64) -> List[Row]:
    """Two views and a mask of photographs, on one core.

    Args:
        folder: where the photographs are written.
        rounds: how often each candidate is timed.
        count: images in a round.
    """
    init_default_scope('mmpretrain')
    paths = write_photographs(folder)
    pipelines: Dict[str, Callable] = {
        'ours': Compose(OURS), 'ours, in the release\'s order': Compose(OURS_IN_THE_RELEASES_ORDER),
        'the release\'s steps': ReleasesSteps(), 'MMPretrain': Compose(MMPRETRAIN)}  # yapf: disable

    def read(pipeline):
        for index in range(count):
            pipeline(dict(img_path=str(paths[index % len(paths)])))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return compare('two views and a mask, one core',
                       {name: lambda pipeline=pipeline: read(pipeline) for name, pipeline in pipelines.items()},
                       rounds, count)
    finally:
        torch.set_num_threads(threads)
