"""The five models of published ImageNet-1k scores: size, evaluation, recipe, and how MMPretrain finds them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import mmcv
import mmpretrain
import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from mmpretrain.apis import ModelHub
from PIL import Image
from support import CONFIGS
from support.recipes import EPOCH_LENGTH, load, on_meta, rates
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

ROOT = CONFIGS.parent
SHRUNK = dict(backbone=dict(embed_dim=32, depth=2, num_heads=2), head=dict(in_channels=32))


class Published(NamedTuple):
    millions: float
    crop_ratio: float
    top1: str
    top5: str


# Parameters and scores of the released weights (PASSL's model zoo, BEiT release).
TABLE = {
    ('base', 224): Published(86.53, 0.9, '85.21', '97.66'),
    ('base', 384): Published(86.74, 1.0, '86.81', '98.14'),
    ('large', 224): Published(304.43, 0.9, '87.48', '98.30'),
    ('large', 384): Published(305.00, 1.0, '88.40', '98.60'),
    ('large', 512): Published(305.67, 1.0, '88.60', '98.66'),
}
each = pytest.mark.parametrize('size, side', TABLE)


def config_name(size: str, side: int) -> str:
    return f'classify/beit_{size}_{side}_22k_to_1k.py'


def model_name(size: str, side: int) -> str:
    return f'beit-{size}-p16_22k-to-1k_{side}'


def count_parameters(cfg: Config) -> int:
    return sum(parameter.numel() for parameter in on_meta(cfg).parameters())


@pytest.fixture
def picture(tmp_path) -> Path:
    """500 pixels wide, 375 high."""
    path = tmp_path / 'picture.JPEG'
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (375, 500, 3), dtype=np.uint8)).save(path)
    return path


def test_the_table_is_all_there_is():
    assert {path.name for path in CONFIGS.glob('classify/*_22k_to_1k.py')} == {
        Path(config_name(*key)).name for key in TABLE
    }


@each
def test_size_is_the_published_one(size, side):
    assert count_parameters(load(config_name(size, side))) / 1e6 == pytest.approx(TABLE[size, side].millions, abs=0.005)


@each
def test_evaluation_crops_as_published(size, side, picture):
    """As the release: the short edge to side / ratio, rounded down, Pillow's bicubic, then the centre."""
    cfg = load(config_name(size, side))
    assert cfg.val_dataloader.dataset.pipeline == cfg.test_dataloader.dataset.pipeline
    found = Compose(cfg.test_dataloader.dataset.pipeline)(dict(img_path=str(picture), gt_label=0))['inputs']
    edge = int(side / TABLE[size, side].crop_ratio)
    pixels = Image.fromarray(mmcv.imread(picture))
    expected = CenterCrop(side)(Resize(edge, interpolation=InterpolationMode.BICUBIC)(pixels))
    assert found.shape == (3, side, side)
    assert np.array_equal(found.permute(1, 2, 0).numpy(), np.asarray(expected))


@each
def test_training_pictures_have_the_size_of_the_test(size, side, picture):
    pipeline = load(config_name(size, side)).train_dataloader.dataset.pipeline
    assert Compose(pipeline)(dict(img_path=str(picture), gt_label=0))['inputs'].shape == (3, side, side)
    kinds = [transform.type for transform in pipeline]
    assert kinds[1:-1] == [
        'beit_mm.RandomResizedCrop',
        'beit_mm.RandomFlip',
        'beit_mm.RandAugment',
        'beit_mm.RandomErasing',
    ]


@each
def test_pixels_become_minus_one_to_one(size, side):
    preprocessor = MODELS.build(load(config_name(size, side)).model.data_preprocessor)
    images = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 3, 4, 4)
    assert preprocessor(dict(inputs=images))['inputs'].unique().tolist() == [-1.0, 1.0]


@each
def test_recipe_is_the_releases(size, side):
    """Its guide to fine-tuning: 30 epochs of 512 images, 5 to warm up, lr 2e-5, no Mixup."""
    cfg = load(config_name(size, side))
    depth, decay, drop_path, layer_scale, batch, accumulated = {
        'base': (12, 0.85, 0.1, 0.1, 64, 1),
        'large': (24, 0.9, 0.4, 1e-5, 32, 2),
    }[size]
    assert cfg.model.backbone.drop_path_rate == drop_path
    assert cfg.model.backbone.layer_scale_init_value == layer_scale
    assert cfg.model.backbone.init_cfg.checkpoint == f'checkpoints/beit_{size}_patch16_224_pt22k_ft22k.pth'
    assert cfg.model.head.loss.label_smooth_val == 0.1
    assert cfg.train_dataloader.batch_size == batch
    # The Runner scales by what one step reads.
    assert cfg.auto_scale_lr.base_batch_size == 8 * batch == 512 // accumulated
    model = on_meta(cfg)
    assert model.data_preprocessor.batch_augments is None
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    assert wrapper._accumulative_counts == accumulated
    groups = wrapper.optimizer.param_groups
    assert max(group['lr'] for group in groups) == pytest.approx(2e-5)
    assert min(group['lr'] for group in groups) == pytest.approx(2e-5 * decay ** (depth + 1))
    assert {group['weight_decay'] for group in groups} == {0.0, 1e-8}
    assert cfg.train_cfg.max_epochs == 30
    found = rates(config_name(size, side), 30 * EPOCH_LENGTH)
    assert found[0] < 1e-12
    assert found.argmax() in (5 * EPOCH_LENGTH - 1, 5 * EPOCH_LENGTH)
    assert found.max() == pytest.approx(2e-5)
    assert found[-1] == pytest.approx(1e-6, rel=0.01)


@each
def test_header_states_scores_and_command(size, side):
    name, published = config_name(size, side), TABLE[size, side]
    header = (CONFIGS / name).read_text().split('_base_ =')[0]
    assert f'{published.top1} % top-1, {published.top5} % top-5 at crop ratio {published.crop_ratio}' in header
    assert f'python tools/test.py configs/{name} beit_{size}_patch16_{side}_pt22k_ft22kto1k.pth\n' in header


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
def test_model_index_lists_the_table(folder, hub):
    register(folder)
    assert set(hub) > {model_name(*key) for key in TABLE}
    for key, published in TABLE.items():
        entry = hub[model_name(*key)]
        assert Path(entry.config).resolve() == CONFIGS / config_name(*key)
        assert entry.metadata.data['Parameters'] == count_parameters(load(config_name(*key)))
        assert entry.metadata.data['Crop Ratio'] == published.crop_ratio
        (result,) = entry.results
        assert (result.task, result.dataset) == ('Image Classification', 'ImageNet-1k')
        assert result.metrics == {'Top 1 Accuracy': float(published.top1), 'Top 5 Accuracy': float(published.top5)}


def test_every_entry_of_the_index_is_what_its_config_says(hub):
    """The size of the model it builds, and the score in the header."""
    register(ROOT)
    for name, entry in hub.items():
        config = Path(entry.config).relative_to(CONFIGS).as_posix()
        assert entry.metadata.data['Parameters'] == count_parameters(load(config)), name
        header = (CONFIGS / config).read_text().split('_base_ =')[0]
        scores = [score for result in entry.results or [] for score in result.metrics.values()]
        stated = all(f'{score} % ' in header or f'{score:.2f} % ' in header for score in scores)
        assert stated and bool(scores) == ('pretrain' not in name), name


def test_a_model_comes_by_its_name(hub, tmp_path):
    register(ROOT / 'beit_mm' / '.mim')
    name = model_name('base', 224)
    first = mmpretrain.get_model(name, **SHRUNK)
    torch.save(dict(state_dict=first.state_dict()), tmp_path / 'weights.pth')
    second = mmpretrain.get_model(name, pretrained=str(tmp_path / 'weights.pth'), **SHRUNK)
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())
    assert len(second._dataset_meta['classes']) == 1000


def test_testing_needs_no_start_file(tmp_path, picture):
    """ImageNet's layout with two pictures; `checkpoints/` does not exist."""
    name = config_name('large', 384)
    for index in range(1000):
        (tmp_path / 'data' / 'imagenet' / 'val' / f'n{index:08}').mkdir(parents=True)
    for index in (3, 700):
        (tmp_path / 'data' / 'imagenet' / 'val' / f'n{index:08}' / 'picture.JPEG').write_bytes(picture.read_bytes())
    cfg = load(name)
    cfg.merge_from_dict(dict(model=SHRUNK))
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), tmp_path / 'weights.pth')
    options = [f'model.{part}.{key}={value}' for part, values in SHRUNK.items() for key, value in values.items()]
    result = subprocess.run(
        [
            sys.executable,
            ROOT / 'tools' / 'test.py',
            CONFIGS / name,
            'weights.pth',
            '--cfg-options',
            *options,
            'test_dataloader.num_workers=0',
            'test_dataloader.persistent_workers=False',
        ],
        cwd=tmp_path,
        env=dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', PYTHONWARNINGS='ignore'),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout[-1000:] + result.stderr[-1000:]
    assert 'accuracy/top5' in result.stdout
