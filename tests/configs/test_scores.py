"""The five models of published ImageNet-1k scores: evaluation, headers, and how MMPretrain finds them."""

from pathlib import Path
from typing import NamedTuple

import mmcv
import mmpretrain
import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmengine.registry import MODELS
from mmpretrain.apis import ModelHub
from PIL import Image
from support import CONFIGS, ROOT
from support.recipes import count_parameters, header, load, test
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

SMALL = dict(backbone=dict(embed_dim=32, depth=2, num_heads=2), head=dict(in_channels=32))


class Published(NamedTuple):
    crop_ratio: float
    top1: str
    top5: str


# Scores of the released weights (PASSL's model zoo, BEiT release).
TABLE = {
    ('base', 224): Published(0.9, '85.21', '97.66'),
    ('base', 384): Published(1.0, '86.81', '98.14'),
    ('large', 224): Published(0.9, '87.48', '98.30'),
    ('large', 384): Published(1.0, '88.40', '98.60'),
    ('large', 512): Published(1.0, '88.60', '98.66'),
}


def config_name(size: str, side: int) -> str:
    return f'classify/beit_{size}_{side}_22k_to_1k.py'


def model_name(size: str, side: int) -> str:
    return f'beit-{size}-p16_22k-to-1k_{side}'


@pytest.fixture
def image(tmp_path) -> Path:
    """500 pixels wide, 375 high."""
    path = tmp_path / 'image.JPEG'
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (375, 500, 3), dtype=np.uint8)).save(path)
    return path


@pytest.mark.parametrize('size, side', TABLE)
def test_evaluation_and_header_are_as_published(size, side, image):
    """As the release: the short edge to side / ratio, rounded down, Pillow's bicubic, then the centre."""
    name, published = config_name(size, side), TABLE[size, side]
    cfg, text = load(name), header(name)
    assert cfg.val_dataloader.dataset.pipeline == cfg.test_dataloader.dataset.pipeline
    actual = Compose(cfg.test_dataloader.dataset.pipeline)(dict(img_path=str(image), gt_label=0))['inputs']
    edge = int(side / published.crop_ratio)
    pixels = Image.fromarray(mmcv.imread(image))
    expected = CenterCrop(side)(Resize(edge, interpolation=InterpolationMode.BICUBIC)(pixels))
    assert actual.shape == (3, side, side)
    assert np.array_equal(actual.permute(1, 2, 0).numpy(), np.asarray(expected))
    assert f'{published.top1} % top-1, {published.top5} % top-5 at crop ratio {published.crop_ratio}' in text
    assert f'python tools/test.py configs/{name} beit_{size}_patch16_{side}_pt22k_ft22kto1k.pth\n' in text
    start = cfg.model.backbone.init_cfg.checkpoint
    assert start == f'checkpoints/beit_{size}_patch16_224_pt22k_ft22k.pth'


@pytest.fixture
def hub(monkeypatch) -> dict:
    """MMPretrain's table of models, empty and without its own."""
    monkeypatch.setattr(ModelHub, '_models_dict', {})
    monkeypatch.setattr(ModelHub, '_ModelHub__mmpretrain_registered', True)
    return ModelHub._models_dict


def register(folder: Path) -> None:
    ModelHub.register_model_index(folder / 'model-index.yml', config_prefix=folder)


# The checkout, and what a wheel carries.
@pytest.mark.parametrize('folder', [ROOT, ROOT / 'beit_mm' / '.mim'])
def test_every_entry_of_the_index_is_what_its_config_says_and_the_table_is_in_it(folder, hub):
    """The size of the model that it builds, and the score in the header."""
    register(folder)
    for name, entry in hub.items():
        config = Path(entry.config).resolve().relative_to(CONFIGS).as_posix()
        assert entry.metadata.data['Parameters'] == count_parameters(config), name
        scores = [score for result in entry.results or [] for score in result.metrics.values()]
        stated = all(f'{score} % ' in header(config) or f'{score:.2f} % ' in header(config) for score in scores)
        assert stated and bool(scores) == ('pretrain' not in name), name
    names = {Path(config_name(*key)).name for key in TABLE}
    assert {path.name for path in CONFIGS.glob('classify/*_22k_to_1k.py')} == names
    for key, published in TABLE.items():
        entry = hub[model_name(*key)]
        assert Path(entry.config).resolve() == CONFIGS / config_name(*key)
        assert entry.metadata.data['Crop Ratio'] == published.crop_ratio
        (result,) = entry.results
        assert (result.task, result.dataset) == ('Image Classification', 'ImageNet-1k')
        assert result.metrics == {'Top 1 Accuracy': float(published.top1), 'Top 5 Accuracy': float(published.top5)}


def test_a_model_comes_by_its_name(hub, tmp_path):
    register(ROOT / 'beit_mm' / '.mim')
    name = model_name('base', 224)
    first = mmpretrain.get_model(name, **SMALL)
    torch.save(dict(state_dict=first.state_dict()), tmp_path / 'weights.pth')
    second = mmpretrain.get_model(name, pretrained=str(tmp_path / 'weights.pth'), **SMALL)
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())
    assert len(second._dataset_meta['classes']) == 1000


def test_testing_needs_no_start_file(in_data, tmp_path):
    """The folder `checkpoints`, which the config names, does not exist."""
    name = config_name('large', 384)
    cfg = load(name)
    cfg.merge_from_dict(dict(model=SMALL))
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), tmp_path / 'weights.pth')
    assert not Path(cfg.model.backbone.init_cfg.checkpoint).exists()
    assert 'accuracy/top5' in test(name, tmp_path / 'weights.pth', tmp_path, **{'model.backbone.depth': 2})
