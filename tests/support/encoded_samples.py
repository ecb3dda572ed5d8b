"""Small encoded images and shards for the tests of sources that hold bytes."""

import io
from pathlib import Path

import numpy as np
import webdataset
from PIL import Image

from beit_mm.datasets import WebDatasetShards

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
