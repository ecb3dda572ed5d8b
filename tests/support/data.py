"""Small data: in the layouts of ImageNet-1k, ImageNet-22k, CIFAR-100 and ADE20K, and encoded images and shards."""

import hashlib
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from mmpretrain.datasets import CIFAR100
from PIL import Image

from beit_mm.datasets import WebDatasetShards
from support.tools import leave_text_as_it_is

CLASSES_22K = 5
CLASSES_ADE20K = 4  # labelled among its 150
SIDES = (80, 100)  # of the pictures: height, width


def write_pixels(path: Path, rng: np.random.Generator, shape: tuple[int, ...], top: int = 256) -> None:
    """Random whole numbers below `top` as a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, top, shape, dtype=np.uint8)).save(path)


def write_folders(folder: Path, num_classes: int, num_images: int) -> None:
    """A folder for every class, the first of them with an image each."""
    rng = np.random.default_rng(0)
    for label in range(num_classes):
        (folder / f'n{label:08}').mkdir(parents=True)
    for label in range(num_images):
        write_pixels(folder / f'n{label % num_classes:08}' / f'n{label:08}_{label}.JPEG', rng, (*SIDES, 3))


def write_cifar(folder: Path) -> None:
    """The pickles of the Python archive."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ('train', 'test'):
        content = dict(
            data=rng.integers(0, 256, (16, 3 * 32 * 32), dtype=np.uint8),
            batch_label=name,
            fine_labels=rng.integers(0, 100, 16).tolist(),
            coarse_labels=[0] * 16,
            filenames=[f'{index}.png' for index in range(16)],
        )
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    names = dict(fine_label_names=list(CIFAR100.METAINFO['classes']), coarse_label_names=['all'])
    (folder / 'meta').write_bytes(pickle.dumps(names, protocol=2))


def write_ade20k(folder: Path) -> None:
    """Pictures and label maps: 0 is unlabelled, classes count from 1."""
    rng = np.random.default_rng(0)
    for split, count in (('training', 8), ('validation', 2)):
        for index in range(count):
            name = f'ADE_{split[:-3]}_{index:08}'
            write_pixels(folder / 'images' / split / f'{name}.jpg', rng, (*SIDES, 3))
            write_pixels(folder / 'annotations' / split / f'{name}.png', rng, SIDES, CLASSES_ADE20K + 1)


def write_all(folder: Path) -> None:
    """`data` with all four where the recipes look for them, and own images."""
    for split in ('train', 'val'):
        write_folders(folder / 'data' / 'imagenet' / split, 1000, 8)
        write_folders(folder / 'data' / 'imagenet22k' / split, CLASSES_22K, 8)
    write_folders(folder / 'data' / 'own' / 'images', 2, 8)
    write_ade20k(folder / 'data' / 'ade' / 'ADEChallengeData2016')
    write_cifar(folder / 'data' / 'cifar100' / 'cifar-100-python')


def write_own(folder: Path, classes: list[str], num_labels: int = 3) -> None:
    """Classification and segmentation of a user's own, as docs/own_data.md lays them out, and images in a subfolder."""
    rng = np.random.default_rng(0)
    for index in range(4):
        write_pixels(folder / 'images' / 'nested' / f'{index}.jpg', rng, (*SIDES, 3))
        for split in ('train', 'val'):
            write_pixels(folder / 'segment' / 'images' / split / f'{index}.jpg', rng, (*SIDES, 3))
            write_pixels(folder / 'segment' / 'labels' / split / f'{index}.png', rng, SIDES, num_labels)
    for name in classes:
        for split, index in (('train', 0), ('train', 1), ('val', 2)):
            write_pixels(folder / 'classify' / split / name / f'{index}.jpg', rng, (*SIDES, 3))


def enter(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Make a folder with all small data the working directory, and let CIFAR-100 accept the small files."""
    files = {
        path.name: hashlib.md5(path.read_bytes()).hexdigest()
        for path in (folder / 'data' / 'cifar100' / 'cifar-100-python').iterdir()
    }
    patch.setattr(CIFAR100, 'train_list', [['train', files['train']]])
    patch.setattr(CIFAR100, 'test_list', [['test', files['test']]])
    patch.setattr(CIFAR100, 'meta', dict(CIFAR100.meta, md5=files['meta']))
    leave_text_as_it_is(patch.setattr)
    patch.chdir(folder)


# Encoded images and shards

HEIGHT, WIDTH = 40, 56
CLASSES = ['cat', 'dog', 'owl']
PATTERN = 'train-{000000..000002}.tar'  # what write_shards writes


def jpeg(seed: int, **kwargs) -> bytes:
    """A smooth picture, so that images differ after decoding too."""
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    target = io.BytesIO()
    Image.fromarray(pixels).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(target, 'JPEG', **kwargs)
    return target.getvalue()


def write_shards(folder: Path, count: int = 10, per_shard: int = 4, labels: bool = True) -> list[Path]:
    """Sample i is jpeg(i) of class i % 3, written by webdataset itself."""
    import webdataset

    folder.mkdir(parents=True, exist_ok=True)
    with webdataset.ShardWriter(f'{folder}/train-%06d.tar', maxcount=per_shard, verbose=0) as writer:
        for index in range(count):
            label = dict(cls=index % 3) if labels else {}
            writer.write({'__key__': f'{index:06d}', 'jpg': jpeg(index), **label})
    return sorted(folder.glob('*.tar'))


def build_shards(shards: list[Path], **kwargs) -> WebDatasetShards:
    return WebDatasetShards(PATTERN, data_root=str(shards[0].parent), **dict(dict(classes=CLASSES), **kwargs))


def samples(dataset) -> list[tuple]:
    """Encoded image and label of every sample, in order."""
    return [(info['img_bytes'], info.get('gt_label')) for info in map(dataset.get_data_info, range(len(dataset)))]
