"""The early check of a config: mistakes are reported at the key that is wrong, and what is right passes."""

import random
from argparse import Namespace
from pathlib import Path

import mmpretrain
import mmseg
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope, MODELS
from PIL import Image
from support import CONFIGS
from support.seeded_mistakes import ERRORS, FINETUNE, PRETRAIN, SEGMENT, TOKENIZER, WARNINGS

from beit_mm.checks import check_before_training, check_config, ConfigMistakes, course
from beit_mm.engine.runners.ending import run
from beit_mm.models import BEiT

RECIPES = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob('*.py') if '_base_' not in path.parts)
OF_FILES = (' not exist', 'without any')
# One for each structure; the others run in `make test-long`.
STRUCTURES = (FINETUNE, PRETRAIN, SEGMENT, TOKENIZER, 'classify/linear_probe_base_224_1k.py', 'demo/finetune.py')


def load(name: str, options: dict | None = None) -> Config:
    cfg = Config.fromfile(CONFIGS / name)
    cfg.merge_from_dict(options or {})
    return cfg


def without_files(problems: list) -> list:
    """Data and checkpoints are not there where the tests run."""
    return [problem for problem in problems if not any(words in problem.sentence for words in OF_FILES)]


def mark(name: str, is_short: bool) -> list:
    return [] if is_short else [pytest.mark.long]


@pytest.mark.parametrize('name', [pytest.param(name, marks=mark(name, name in STRUCTURES)) for name in RECIPES])
def test_our_configs_have_no_mistakes(name):
    assert without_files(check_config(load(name))) == []


def test_weights_of_a_teacher_are_no_mistake_in_the_small_copy(tmp_path):
    cfg = load('demo/v2/tokenizer.py', {'model.teacher.trunk.init_cfg.checkpoint': str(tmp_path / 'teacher.pth')})
    trunk = MODELS.build({**cfg.model.teacher.trunk, 'init_cfg': None})
    torch.save({f'backbone.{name}': tensor for name, tensor in trunk.state_dict().items()}, tmp_path / 'teacher.pth')
    assert without_files(check_config(cfg)) == []


@pytest.mark.parametrize('channels', [1, 4, 13])
@pytest.mark.parametrize('name', [SEGMENT, PRETRAIN])
def test_images_of_other_numbers_of_bands_are_no_mistake(name, channels):
    parts = ['model.backbone', *(['model.target.tokenizer'] if name == PRETRAIN else [])]
    options = {f'{part}.in_channels': channels for part in parts}
    options |= {f'model.data_preprocessor.{key}': [100.0] * channels for key in ('mean', 'std')}
    load_image = dict(type='beit_mm.LoadImage', color_type='unchanged')
    cfg = load(name, {**options, 'train_dataloader.dataset.pipeline.0': load_image})
    assert without_files(check_config(cfg, ('train_dataloader',))) == []


def assert_reported(problems: list, key: str, words: tuple, is_error: bool) -> None:
    """At the key, or at a part of what stands there."""
    sentences = [
        problem.sentence
        for problem in problems
        if f'{problem.key}.'.startswith(f'{key}.') and problem.is_error == is_error
    ]
    assert any(all(word in sentence for word in words) for sentence in sentences), [str(each) for each in problems]


def cases(mistakes: list) -> list:
    return [pytest.param(*row, marks=mark(row.recipe, row.recipe != SEGMENT)) for row in mistakes]


@pytest.mark.parametrize('name, options, key, words', cases(ERRORS))
def test_a_mistake_is_an_error_at_its_key(name, options, key, words):
    assert_reported(check_config(load(name, options)), key, words, is_error=True)


@pytest.mark.parametrize('name, options, key, words', cases(WARNINGS))
def test_what_may_be_meant_is_a_warning(name, options, key, words):
    problems = without_files(check_config(load(name, options)))
    assert_reported(problems, key, words, is_error=False)
    assert not any(problem.is_error for problem in problems)


HOSTS = [
    (mmpretrain, 'resnet/resnet50_8xb32_in1k.py'),
    (mmpretrain, 'beit/beit_beit-base-p16_8xb256-amp-coslr-300e_in1k.py'),
    (mmpretrain, 'swin_transformer/swin-base_16xb64_in1k.py'),
    (mmpretrain, 'mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py'),
    (mmpretrain, 'vision_transformer/vit-base-p16_32xb128-mae_in1k.py'),
    (mmpretrain, 'simclr/simclr_resnet50_16xb256-coslr-200e_in1k.py'),
    (mmseg, 'beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py'),
    (mmseg, 'pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'),
    (mmseg, 'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'),
    (mmseg, 'bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024.py'),
]


@pytest.mark.parametrize(
    'host, name', [pytest.param(*row, marks=mark(row[1], 'resnet50_8xb32' in row[1])) for row in HOSTS]
)
def test_the_hosts_own_configs_have_no_errors(host, name):
    cfg = Config.fromfile(Path(host.__file__).parent / '.mim' / 'configs' / name)
    problems = without_files(check_config(cfg))
    assert [str(problem) for problem in problems if problem.is_error] == []


@pytest.mark.parametrize(
    'num_processes, options, words',
    [
        (8, {}, ()),
        (4, {}, ('4 x 128 images', '512 per update', '1024', '2 times too high', 'optimizer.lr=0.002')),
        (16, {}, ('2 times too low', 'optimizer.lr=0.008')),
        (1, {'train_dataloader.batch_size': 1}, ('1,024 times too high',)),
        (4, {'optim_wrapper.accumulative_counts': 2}, ()),
        (4, {'auto_scale_lr.enable': True}, ()),
        (1, {'auto_scale_lr.enable': True, 'optim_wrapper.accumulative_counts': 8}, ('8 times too low', 'lr=0.004')),
    ],
)
def test_the_batch_is_compared_with_the_recipes(num_processes, options, words):
    cfg = load(FINETUNE, options)
    problems = list(course.check_batch(cfg.to_dict(), num_processes, cfg.text))
    assert len(problems) == bool(words) and all(word in problems[0].sentence for word in words)


@pytest.mark.parametrize(
    'files, expected',
    [
        (['auto_scale_lr = dict(base_batch_size=8)'], 1),
        (['optim_wrapper = dict(accumulative_counts=2)\nauto_scale_lr = dict(base_batch_size=8)'], 2),
        (['auto_scale_lr = dict(base_batch_size=8)', 'optim_wrapper = dict(accumulative_counts = 4)'], 1),
    ],
)
def test_what_a_user_accumulates_does_not_change_the_recipes_batch(tmp_path, files, expected):
    for index, text in enumerate(files):
        base = f"_base_ = '{index - 1}.py'\n" if index else ''
        (tmp_path / f'{index}.py').write_text(base + text)
    assert course.recipe_accumulation(Config.fromfile(tmp_path / f'{len(files) - 1}.py').text) == expected


def test_checking_changes_nothing():
    cfg = load('demo/finetune.py')

    def state():
        draws = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        return draws, cfg.pretty_text, DefaultScope.get_current_instance(), dict(MMLogger._instance_dict)

    before = state()
    check_config(cfg)
    assert state() == before


def test_a_check_that_fails_itself_is_a_warning(monkeypatch):
    def fail(*_):
        raise KeyError('unforeseen')
        yield

    monkeypatch.setattr(course, 'check_course', fail)
    problems = without_files(check_config(load('demo/finetune.py', {'model.head.num_clases': 10})))
    assert [problem.key for problem in problems] == ['model.head.num_clases', 'config']
    assert 'not checked in full' in problems[1].sentence and 'unforeseen' in problems[1].sentence


def test_an_error_of_our_own_code_is_no_mistake_of_the_config(monkeypatch, capsys, tmp_path):
    """The check says so and goes on; a training then ends with the traceback."""

    def fail(self, images):
        raise ValueError('unforeseen')

    monkeypatch.setattr(BEiT, 'forward', fail)
    problems = without_files(check_config(load('demo/finetune.py')))
    assert [(problem.key, problem.is_error) for problem in problems] == [('model.backbone', False)]
    assert 'ValueError: unforeseen' in problems[0].sentence and 'bug of beit_mm' in problems[0].sentence
    with pytest.raises(SystemExit, match='1'):
        run(fail, Namespace(work_dir=str(tmp_path)))
    output = capsys.readouterr().err
    assert 'Traceback' in output and 'bug' in output and not output.startswith('error: ')


def test_a_full_disk_is_no_mistake_of_the_config(monkeypatch):
    def fail(self, images):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(BEiT, 'forward', fail)
    problems = without_files(check_config(load('demo/finetune.py')))
    assert problems and not any(problem.is_error for problem in problems)


def test_the_traceback_of_a_mistake_has_what_the_check_met(digits):
    cfg = load(
        'demo/finetune.py',
        {
            'train_dataloader.dataset.data_root': f'{digits}/imagenet',
            'model.head.in_channels': 7,
            'model.backbone.init_cfg': None,
        },
    )
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    with pytest.raises(ConfigMistakes) as error:
        check_before_training(cfg, 1)
    assert isinstance(error.value.__cause__, RuntimeError)


def test_a_model_of_the_users_own(tmp_path, monkeypatch):
    """A trunk of another package."""
    (tmp_path / 'own_trunk.py').write_text("""
from mmengine.model import BaseModule
from torch import nn
class OwnTrunk(BaseModule):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Conv2d(3, width, 16, 16)
    def forward(self, images):
        return (self.layer(images).mean((2, 3)),)
""")
    monkeypatch.syspath_prepend(tmp_path)
    from own_trunk import OwnTrunk

    cfg = load('demo/finetune.py')
    cfg.model.backbone = dict(type=OwnTrunk, width=24)
    cfg.model.head.in_channels = 32
    cfg.optim_wrapper.pop('paramwise_cfg', None)
    problems = without_files(check_config(cfg))
    assert [problem.key for problem in problems if problem.is_error] == ['model.head.in_channels']
    assert 'set in_channels=24' in problems[0].sentence


def errors(cfg: Config) -> list:
    problems = without_files(check_config(cfg, ('train_dataloader', 'val_dataloader')))
    return [problem for problem in problems if problem.is_error]


def with_class_folders(root: Path, **splits) -> Config:
    """demo/finetune.py on folders of classes, with an image in each."""
    cfg = load('demo/finetune.py')
    for split, names in splits.items():
        for name in names:
            (root / split / name).mkdir(parents=True)
            Image.new('RGB', (96, 96)).save(root / split / name / 'a.jpg')
        pipeline = cfg[f'{split}_dataloader'].dataset.pipeline
        dataset = dict(type='CustomDataset', data_root=str(root), data_prefix=split, pipeline=pipeline)
        cfg[f'{split}_dataloader'].dataset = dataset
    return cfg


def test_labels_beyond_the_head(tmp_path):
    names = [f'{index:02}' for index in range(12)]
    cfg = with_class_folders(tmp_path, train=names, val=names)
    problems = without_files(check_config(cfg, ('train_dataloader', 'val_dataloader')))
    assert {problem.key for problem in problems} == {'model.head.num_classes'}
    assert 'label 11' in problems[0].sentence and 'set num_classes=12' in problems[0].sentence


def test_class_folders_that_differ_shift_labels(tmp_path):
    cfg = with_class_folders(tmp_path, train='abc', val='ac')
    problems = errors(cfg)
    assert [problem.key for problem in problems] == ['val_dataloader.dataset']
    assert 'train_dataloader.dataset (b)' in problems[0].sentence and 'beit_mm.ClassFolders' in problems[0].sentence


def test_a_data_set_that_cannot_be_listed_is_an_error_at_its_key(tmp_path):
    cfg = with_class_folders(tmp_path, train='abc', val='abc')
    cfg.train_dataloader.dataset.metainfo = dict(classes=['a', 'b'])
    problems = errors(cfg)
    assert [problem.key for problem in problems] == ['train_dataloader.dataset.metainfo.classes']
    assert 'subfolders (3)' in problems[0].sentence


IGNORING = {f'model.{head}_head.ignore_index': 250 for head in ('decode', 'auxiliary')}
IGNORING |= {f'{split}_dataloader.dataset.pipeline.1.ignore_index': 250 for split in ('train', 'val', 'test')}
IGNORING |= {f'{split}_evaluator.ignore_index': 250 for split in ('val', 'test')}
IGNORING |= {'model.data_preprocessor.seg_pad_val': 250}


@pytest.mark.parametrize(
    'label, reduces, options, key, words',
    [
        (3, (True, False), {}, 'val_dataloader.dataset.reduce_zero_label', 'another class'),
        (200, (True, True), {}, 'model.decode_head.num_classes', 'a.png has the label 200'),
        (250, (False, False), {}, 'model.decode_head.num_classes', 'set ignore_index=250 in the heads if it means un'),
        (250, (False, False), {}, 'train_dataloader.dataset.pipeline', 'ignore_index must be 250 here and in the'),
        (250, (False, False), IGNORING, None, None),
    ],
)
def test_label_maps(tmp_path, label, reduces, options, key, words):
    """A label 0 with two meanings, labels that the head does not have, and one that it ignores."""
    for split in ('training', 'validation'):
        for kind in ('images', 'annotations'):
            (tmp_path / kind / split).mkdir(parents=True)
        Image.new('RGB', (100, 100)).save(tmp_path / 'images' / split / 'a.jpg')
        Image.new('L', (100, 100), label).save(tmp_path / 'annotations' / split / 'a.png')
    for loader, value in zip(('train', 'val'), reduces):
        dataset = f'{loader}_dataloader.dataset'
        options = {**options, f'{dataset}.data_root': str(tmp_path), f'{dataset}.reduce_zero_label': value}
    problems = errors(load('demo/segment.py', options))
    assert bool(problems) == bool(key), problems
    if key:
        assert any(problem.key.startswith(key) and words in problem.sentence for problem in problems), problems
