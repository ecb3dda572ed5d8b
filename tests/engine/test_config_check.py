"""The early check of a config: thirty and more mistakes are told with their mend, and what is right passes."""

import time
from pathlib import Path

import mmpretrain
import mmseg
import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from support.seeded_mistakes import ERRORS, FINETUNE, SEGMENT, WARNINGS

from beit_mm.checks import check_config, config_check, Problem
from beit_mm.checks.batch import recipe_accumulation

CONFIGS = Path(__file__).parents[2] / 'configs'
RECIPES = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob('*.py') if '_base_' not in path.parts)
OF_FILES = (' not exist', 'without any')


def load(name: str, options: dict | None = None) -> Config:
    cfg = Config.fromfile(CONFIGS / name)
    cfg.merge_from_dict(options or {})
    return cfg


def without_files(problems: list) -> list:
    """Data and checkpoints are not there where the tests run."""
    return [problem for problem in problems if not any(words in problem.sentence for words in OF_FILES)]


@pytest.mark.parametrize('name', RECIPES)
def test_our_configs_have_no_mistakes(name):
    cfg = load(name)
    start = time.perf_counter()
    problems = check_config(cfg)
    print(f'{name}: {time.perf_counter() - start:.2f} s')
    assert without_files(problems) == []


def assert_told(problems: list, key: str, words: tuple, is_error: bool) -> None:
    sentences = [problem.sentence for problem in problems if problem.key == key and problem.is_error == is_error]
    assert any(all(word in sentence for word in words) for sentence in sentences), [str(each) for each in problems]


@pytest.mark.parametrize('name, options, key, words', [(*mistake[:3], mistake[3:]) for mistake in ERRORS])
def test_a_mistake_is_told_with_its_mend(name, options, key, words):
    assert_told(check_config(load(name, options)), key, words, is_error=True)


@pytest.mark.parametrize('name, options, key, words', [(*mistake[:3], mistake[3:]) for mistake in WARNINGS])
def test_what_may_be_meant_is_a_warning(name, options, key, words):
    problems = without_files(check_config(load(name, options)))
    assert_told(problems, key, words, is_error=False)
    assert not any(problem.is_error for problem in problems)


@pytest.mark.parametrize(
    'name, num_processes, options, words',
    [
        (FINETUNE, 8, {}, ()),
        (FINETUNE, 4, {}, ('4 x 128 images', '512 per update', '1024', '2 times too high', 'optimizer.lr=0.002')),
        (FINETUNE, 16, {}, ('2 times too low', 'optimizer.lr=0.008')),
        (FINETUNE, 4, {'optim_wrapper.accumulative_counts': 2}, ()),
        (FINETUNE, 4, {'auto_scale_lr.enable': True}, ()),
        ('classify/beit_large_224_22k_to_1k.py', 8, {}, ()),
        ('classify/beit_large_224_22k_to_1k.py', 4, {}, ('x 2 accumulated', '256 per update', '512', 'lr=1e-05')),
    ],
)
def test_the_batch_is_compared_with_the_recipes(name, num_processes, options, words):
    problems = without_files(check_config(load(name, options), num_processes=num_processes))
    assert [problem.key for problem in problems] == ['auto_scale_lr.base_batch_size'] * bool(words)
    assert_told(problems, 'auto_scale_lr.base_batch_size', words, False) if words else None


def test_scaling_leaves_out_accumulated_steps():
    options = {'auto_scale_lr.enable': True, 'optim_wrapper.accumulative_counts': 8}
    problems = without_files(check_config(load(FINETUNE, options), num_processes=1))
    assert_told(problems, 'auto_scale_lr.enable', ('8 accumulated', '8 times too low', 'optimizer.lr=0.004'), False)


@pytest.mark.parametrize(
    'files, expected',
    [
        (['auto_scale_lr = dict(base_batch_size=8)'], 1),
        (['optim_wrapper = dict(accumulative_counts=2)\nauto_scale_lr = dict(base_batch_size=8)'], 2),
        (['auto_scale_lr = dict(base_batch_size=8)', 'optim_wrapper = dict(accumulative_counts = 4)'], 1),
        (['optim_wrapper = dict(accumulative_counts=2)', 'auto_scale_lr = dict(base_batch_size=8)', 'a = 1'], 2),
    ],
)
def test_what_a_user_accumulates_is_not_the_recipes(tmp_path, files, expected):
    """A later file than the one with the batch accumulates to reach it."""
    for place, text in enumerate(files):
        base = f"_base_ = '{place - 1}.py'\n" if place else ''
        (tmp_path / f'{place}.py').write_text(base + text)
    assert recipe_accumulation(Config.fromfile(tmp_path / f'{len(files) - 1}.py').text) == expected


@pytest.mark.parametrize('num_processes, norm, is_error', [(1, 'SyncBN', True), (8, 'SyncBN', False), (8, 'BN', True)])
def test_batch_norm_over_one_image(num_processes, norm, is_error):
    options = {'train_dataloader.batch_size': 1, 'model.decode_head.norm_cfg.type': norm}
    problems = without_files(check_config(load(SEGMENT, options), num_processes=num_processes))
    assert any('pool_scales' in problem.sentence for problem in problems) == is_error


def test_amp_without_a_gpu_is_an_error_only_where_it_trains(monkeypatch):
    monkeypatch.setattr('beit_mm.checks.schedules.get_device', lambda: 'cpu')
    cfg = load(FINETUNE, {'optim_wrapper.type': 'AmpOptimWrapper', 'optim_wrapper.dtype': 'bfloat16'})
    for is_training in (False, True):
        problems = without_files(check_config(cfg, is_training=is_training))
        assert_told(problems, 'optim_wrapper.type', ('needs a GPU', 'beit_mm.AutocastOptimWrapper'), is_training)


def test_only_the_loaders_in_use_are_checked():
    options = {f'test_dataloader.dataset.{key}': 1 for key in ('pipelin', 'data_rot')}
    cfg = load(FINETUNE, options)
    assert len(without_files(check_config(cfg))) == 2
    assert without_files(check_config(cfg, ('train_dataloader', 'val_dataloader'))) == []


def test_helper_variables_pass():
    cfg = load(
        FINETUNE,
        dict(
            max_epochs=1,
            norm_cfg=dict(type='BN'),
            test_pipeline=[],
            dataset_type='ImageNet',
            width=3,
            img_ratios=[1.0],
            train_dataloaders=None,
        ),
    )
    cfg.train_dataloaders = cfg.train_dataloader  # used elsewhere, so it may be meant
    assert without_files(check_config(cfg)) == []


HOSTS = [
    (mmpretrain, 'beit/beit_beit-base-p16_8xb256-amp-coslr-300e_in1k.py'),
    (mmpretrain, 'resnet/resnet50_8xb32_in1k.py'),
    (mmpretrain, 'swin_transformer/swin-base_16xb64_in1k.py'),
    (mmpretrain, 'mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py'),
    (mmpretrain, 'vision_transformer/vit-base-p16_32xb128-mae_in1k.py'),
    (mmpretrain, 'simclr/simclr_resnet50_16xb256-coslr-200e_in1k.py'),
    (mmseg, 'beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py'),
    (mmseg, 'pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'),
    (mmseg, 'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'),
    (mmseg, 'bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024.py'),
]


@pytest.mark.parametrize('host, name', HOSTS)
def test_the_hosts_own_configs_have_no_errors(host, name):
    cfg = Config.fromfile(Path(host.__file__).parent / '.mim' / 'configs' / name)
    problems = without_files(check_config(cfg))
    assert [str(problem) for problem in problems if problem.is_error] == []
    assert not any('not checked in full' in problem.sentence for problem in problems)


def test_a_check_that_an_unusual_config_defeats_is_a_warning(monkeypatch):
    def defeated(plan):
        raise KeyError('unforeseen')
        yield

    monkeypatch.setattr(config_check, 'CHECKS', (defeated, *config_check.CHECKS))
    problems = without_files(check_config(load(FINETUNE, {'model.head.num_clases': 10})))
    assert [problem.key for problem in problems] == ['model.head.num_clases', 'config']
    assert 'not checked in full' in problems[1].sentence and 'unforeseen' in problems[1].sentence


def test_checking_changes_nothing():
    cfg = load(SEGMENT)
    before = cfg.pretty_text, DefaultScope.get_current_instance()
    check_config(cfg)
    assert (cfg.pretty_text, DefaultScope.get_current_instance()) == before


def test_a_problem_reads_as_a_sentence():
    assert str(Problem('a.b', 'must be 1, got 2; set b=1')) == 'a.b: must be 1, got 2; set b=1'
    assert str(Problem('load_from', 'names nothing')) == 'load_from names nothing'


def test_pure_python_configs(tmp_path):
    """Types that are imported classes, in a config with `read_base`."""
    (tmp_path / 'base.py').write_text("""
from beit_mm.models import BEiT
from mmpretrain.models import ImageClassifier, LinearClsHead
head = dict(type=LinearClsHead, num_classes=9, in_channels=8)
model = dict(type=ImageClassifier, backbone=dict(type=BEiT), head=head)
""")
    (tmp_path / 'config.py').write_text("""
from mmengine.config import read_base
with read_base():
    from .base import *
model.backbone.update(embed_dims=64)
default_scope = 'mmpretrain'
""")
    problems = check_config(Config.fromfile(tmp_path / 'config.py'))
    assert_told(problems, 'model.backbone.embed_dims', ('BEiT takes no such', 'mean embed_dim?'), is_error=True)
    assert_told(problems, 'model.head.in_channels', ('embed_dim=768', 'set in_channels=768'), is_error=True)
    assert len(problems) == 2


def test_a_config_without_a_file():
    problems = check_config(Config(dict(default_scope='mmseg', model=dict(type='beit_mm.BEiT', img_size=[224, 224]))))
    assert problems == []
