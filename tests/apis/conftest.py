"""A tiny classifier, segmentor and pre-trained model, and a folder of images."""

from pathlib import Path

import pytest
from PIL import Image
from support.tiny import CLASSIFIER, draw, make, SEGMENTOR, Tiny, TOKENIZER, TRUNK


@pytest.fixture(scope='session')
def classifier(tmp_path_factory) -> Tiny:
    """Of the 1000 classes of ImageNet, at 32 x 32 pixels."""
    return make(
        tmp_path_factory.mktemp('classifier'),
        'classify/beit_base_224_22k_to_1k.py',
        CLASSIFIER,
        'model.backbone.init_cfg',
    )


@pytest.fixture(scope='session')
def segmentor(tmp_path_factory) -> Tiny:
    """Of 7 classes, in windows of 32 x 32 pixels every 20."""
    return make(tmp_path_factory.mktemp('segmentor'), 'beit_segment.py', SEGMENTOR, 'model.backbone.init_cfg')


@pytest.fixture(scope='session')
def pretrained(tmp_path_factory) -> Tiny:
    """A masked image model with its tokenizer."""
    return make(
        tmp_path_factory.mktemp('pretrained'),
        'beit_pretrain.py',
        {**TRUNK, **TOKENIZER},
        'model.target.tokenizer.init_cfg',
    )


@pytest.fixture(scope='session')
def photos(tmp_path_factory) -> Path:
    """Three images and two that are none: a/1.jpg, a/2.png (grey), b/1.jpg, b/broken.jpg, b/notes.txt."""
    folder = tmp_path_factory.mktemp('photos')
    (folder / 'a').mkdir()
    (folder / 'b').mkdir()
    Image.fromarray(draw(60, 80)).save(folder / 'a' / '1.jpg')
    Image.fromarray(draw(45, 41, seed=1)).convert('L').save(folder / 'a' / '2.png')
    Image.fromarray(draw(60, 80, seed=2)).save(folder / 'b' / '1.jpg')
    (folder / 'b' / 'broken.jpg').write_bytes((folder / 'b' / '1.jpg').read_bytes()[:300])
    (folder / 'b' / 'notes.txt').write_text('no image')
    return folder


@pytest.fixture(scope='session')
def reconstructing(pretrained):
    return pretrained.load()


@pytest.fixture
def files(photos) -> list[Path]:
    return [photos / 'a' / '1.jpg', photos / 'a' / '2.png', photos / 'b' / '1.jpg']
