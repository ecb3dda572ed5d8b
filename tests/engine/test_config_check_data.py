"""The early check of what lies on the disk: labels against the head, and names in checkpoints."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from safetensors.torch import save_file
from support import CONFIGS
from support.config_check import check, check_maps, finetune, only, write_folders, write_maps

from beit_mm.checks import check_config
from beit_mm.checks.weights import our_names

EVERY = dict(a=[0, 1, 150, 255], b=list(range(151)))


def test_labels_in_range_pass(tmp_path):
    assert check_maps(tmp_path, EVERY) == []
    assert check_maps(tmp_path, dict(a=[0, 149, 255], b=[3]), reduce_zero_label=False) == []


def test_a_label_outside_of_the_head_is_named_with_its_file(tmp_path):
    problems = check_maps(tmp_path, dict(EVERY, c=[3, 151]))
    assert {problem.key for problem in problems} == {'model.decode_head.num_classes'} and len(problems) == 2
    for words in ('label 151', 'training/c.png', '1 to 150 with reduce_zero_label=True', 'set num_classes=151'):
        assert words in problems[0].sentence


def test_one_label_too_many_may_be_the_unlabelled_one(tmp_path):
    problems = check_maps(tmp_path, EVERY, reduce_zero_label=False)
    assert 'label 150' in problems[0].sentence and 'set reduce_zero_label=True' in problems[0].sentence


def test_zero_that_is_a_class_is_a_warning(tmp_path):
    problems = check_maps(tmp_path, dict(a=list(range(150))))
    assert {(problem.key, problem.is_error) for problem in problems} == {
        (f'{loader}_dataloader.dataset.reduce_zero_label', False) for loader in ('train', 'val')
    }
    assert 'set reduce_zero_label=False if 0 is a class' in problems[0].sentence


def test_zero_means_the_same_in_training_and_validation(tmp_path):
    problems = check('beit_segment.py', {'val_dataloader.dataset.reduce_zero_label': False})
    only(problems, 'val_dataloader.dataset.reduce_zero_label', 'True in train_dataloader.dataset', 'set both alike')


def test_fewer_classes_in_the_head_than_names(tmp_path):
    problems = check('own_data/segment.py', {'model.decode_head.num_classes': 2, 'model.auxiliary_head.num_classes': 2})
    assert {problem.key for problem in problems} == {'model.decode_head.num_classes'}
    assert '3 class names' in problems[0].sentence and 'set num_classes=3' in problems[0].sentence


def test_label_maps_in_colour_are_told(tmp_path):
    problems = check_maps(tmp_path, dict(a=[[1, 2, 3]]))
    assert problems[0].key == 'train_dataloader.dataset'
    assert 'a.png' in problems[0].sentence and 'gray or palette PNG' in problems[0].sentence


def test_palette_maps_are_read_by_index(tmp_path):
    write_maps(tmp_path, dict(a=[0, 1, 150]))
    for path in tmp_path.glob('annotations/*/a.png'):
        image = Image.fromarray(np.array([[0, 1, 150]], dtype=np.uint8)).convert('P')
        image.putpalette([255] * 768)
        image.save(path)
    options = {f'{loader}.dataset.data_root': str(tmp_path) for loader in ('train_dataloader', 'val_dataloader')}
    assert check('beit_segment.py', options) == []


def test_own_class_names_map_labels(tmp_path):
    """Names that are some of the data set's: the others are ignored, so no label lies outside."""
    options = {f'model.{head}.num_classes': 2 for head in ('decode_head', 'auxiliary_head')}
    for loader in ('train_dataloader', 'val_dataloader'):
        options[f'{loader}.dataset.data_root'] = str(write_maps(tmp_path, EVERY))
        options[f'{loader}.dataset.metainfo'] = dict(classes=('wall', 'sky'))
    assert check('beit_segment.py', options) == []


def test_as_many_class_folders_as_classes_pass(tmp_path):
    assert finetune(write_folders(tmp_path, train='abc', val='abc')) == []


def test_more_class_folders_than_classes(tmp_path):
    problems = finetune(write_folders(tmp_path, train='abcd', val='abcd'))
    assert problems[0].key == 'model.head.num_classes'
    assert 'labels 0 to 3' in problems[0].sentence and 'set num_classes=4' in problems[0].sentence


def test_class_folders_that_differ_shift_labels(tmp_path):
    only(
        finetune(write_folders(tmp_path, train='abc', val='ac')),
        'val_dataloader.dataset',
        'train_dataloader.dataset',
        'b is in one alone',
        'use beit_mm.ClassFolders',
    )


def test_class_names_that_are_not_the_folders(tmp_path):
    options = write_folders(tmp_path, train='abc', val='abc')
    options['train_dataloader.dataset']['metainfo'] = dict(classes=['a', 'b'])
    only(
        finetune(options),
        'train_dataloader.dataset.metainfo.classes',
        '3 class folders',
        '2 class names',
        'a name for each',
    )
    options = write_folders(tmp_path / 'ours', train='abc', val='ac')
    for loader in ('train_dataloader', 'val_dataloader'):
        options[f'{loader}.dataset'].update(type='beit_mm.ClassFolders', metainfo=dict(classes=['c', 'b', 'x']))
    problems = finetune(options)
    assert 'the folder a in' in problems[0].sentence and 'name the folders as the classes' in problems[0].sentence


def test_lines_of_an_annotation_file(tmp_path):
    options = write_folders(tmp_path, train='abc', val='abc')
    (tmp_path / 'lines.txt').write_text('a/a.jpg 0\nb/with space.jpg 7\n')
    options['train_dataloader.dataset']['ann_file'] = 'lines.txt'
    only(finetune(options), 'model.head.num_classes', 'labels 0 to 7', 'lines.txt:2', 'set num_classes=8')


def test_a_data_set_with_more_classes_than_the_head(tmp_path):
    options = write_folders(tmp_path, train='abc', val='abc')
    options['train_dataloader.dataset'] = dict(type='CIFAR100', data_root=str(tmp_path), split='train')
    only(finetune(options), 'model.head.num_classes', 'CIFAR100', 'set num_classes=100')


# Names of a trunk in three layouts, which all become `backbone.blocks...`.
LAYOUTS = dict(
    release={'model': {'cls_token': 0, 'blocks.0.attn.qkv.weight': 0}},
    ours={'state_dict': {'backbone.cls_token': 0, 'backbone.blocks.0.attn.qkv.weight': 0}},
    host={'state_dict': {'backbone.cls_token': 0, 'backbone.layers.0.attn.qkv.weight': 0}},
)


def save(path: Path, content: dict) -> str:
    def tensors(node):
        return {name: tensors(value) if isinstance(value, dict) else torch.zeros(1) for name, value in node.items()}

    torch.save(tensors(content), path)
    return str(path)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_a_prefix_is_found_in_any_layout(tmp_path, layout):
    path = save(tmp_path / 'a.pth', LAYOUTS[layout])
    assert 'backbone.blocks.0.attn.qkv.weight' in our_names(path)
    assert check('beit_finetune.py', {'model.backbone.init_cfg.checkpoint': path}) == []


def test_a_prefix_that_matches_nothing(tmp_path):
    path = save(tmp_path / 'a.pth', LAYOUTS['ours'])
    options = {'model.backbone.init_cfg.checkpoint': path, 'model.backbone.init_cfg.prefix': 'bakbone'}
    only(
        check('beit_finetune.py', options),
        'model.backbone.init_cfg.prefix',
        'bakbone. is not in',
        path,
        'mean backbone.?',
    )
    options['model.backbone.init_cfg.checkpoint'] = save(tmp_path / 'b.pth', {'encoder.w': 0, 'decoder.w': 0})
    only(
        check('beit_finetune.py', options),
        'model.backbone.init_cfg.prefix',
        'it holds decoder., encoder.',
        'name another',
    )


def test_safetensors_are_told_by_their_head(tmp_path):
    path = tmp_path / 'a.safetensors'
    save_file({'trunk.w': torch.zeros(1)}, path)
    assert our_names(str(path)) == {'trunk.w'}
    only(
        check('beit_finetune.py', {'model.backbone.init_cfg.checkpoint': str(path)}),
        'model.backbone.init_cfg.prefix',
        'it holds trunk.',
    )


def test_load_from_without_a_name_of_the_model(tmp_path):
    options = {'model.backbone.init_cfg': None, 'load_from': save(tmp_path / 'a.pth', {'encoder.blocks.w': 0})}
    only(
        check('beit_finetune.py', options),
        'load_from',
        'does not fit this BEiT trunk: 0 of its',
        'it holds encoder.',
        'name a checkpoint of this model',
    )
    options['load_from'] = save(tmp_path / 'b.pth', LAYOUTS['ours'])
    assert check('beit_finetune.py', options) == []


@pytest.mark.parametrize('content', [b'', b'PK\3\4 no archive', b'{"a": 1}'])
def test_files_whose_names_cannot_be_read_are_left_to_the_loader(tmp_path, content):
    for name in ('a.pth', 'a.safetensors'):
        (tmp_path / name).write_bytes(content)
        assert our_names(str(tmp_path / name)) is None


def test_shards_that_are_missing(tmp_path):
    (tmp_path / 'train-000.tar').touch()
    options = write_folders(tmp_path, train='abc', val='abc')
    options['train_dataloader.dataset'] = dict(
        type='beit_mm.WebDatasetShards', data_root=str(tmp_path), shards=['train-000.tar', 'train-001.tar']
    )
    cfg = Config.fromfile(CONFIGS / 'beit_finetune.py')
    pipeline = cfg.train_dataloader.dataset.pipeline
    cfg.train_dataloader.dataset = dict(options['train_dataloader.dataset'], pipeline=pipeline)
    problems = [problem for problem in check_config(cfg, ['train_dataloader']) if 'shards' in problem.key]
    only(problems, 'train_dataloader.dataset.shards', '1 of 2 files', 'train-001.tar', 'set data_root')
