"""Labels, classes and heads that do not fit together, before a training and by beit-mm check --data."""

from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image
from support import CONFIGS
from support.tools import command

from beit_mm.checks import check_config


def scenes(folder: Path, values: list[list[int]], classes: list[str], reduces: bool = False, **options) -> Config:
    """A config of segmentation with a label map of each list of values, for training and for validation."""
    for split in ('training', 'validation'):
        for kind in ('images', 'annotations'):
            (folder / kind / split).mkdir(parents=True)
        for index, row in enumerate(values):
            Image.new('RGB', (96, 96)).save(folder / 'images' / split / f'{index}.jpg')
            labels = np.resize(np.repeat(np.uint8(row), 24), (96, 96))
            Image.fromarray(labels).save(folder / 'annotations' / split / f'{index}.png')
    loaders = [f'{name}_dataloader.dataset' for name in ('train', 'val', 'test')]
    text = [f"_base_ = '{CONFIGS}/demo/segment.py'", f'num_classes = {len(classes)}']
    text += ['head = dict(num_classes=num_classes, loss_decode=dict(class_weight=None))']
    text += ['model = dict(decode_head=head, auxiliary_head=head)']
    (folder / 'config.py').write_text('\n'.join(text))
    cfg = Config.fromfile(folder / 'config.py')
    cfg.merge_from_dict({f'{loader}.data_root': str(folder) for loader in loaders})
    cfg.merge_from_dict({f'{loader}.reduce_zero_label': reduces for loader in loaders})
    cfg.merge_from_dict(
        {f'{loader}.metainfo': dict(classes=classes, palette=[[0, 0, 0]] * len(classes)) for loader in loaders}
    )
    cfg.merge_from_dict({f'{loader}.pipeline.1.num_classes': len(classes) for loader in loaders})
    cfg.merge_from_dict(options)
    cfg.dump(folder / 'config.py')
    return cfg


NO_START = {'model.backbone.init_cfg': None}
OURS = ('beit_mm.LoadAnnotations', 'beit_mm.RandomCrop')
TWO, THREE = ['ground', 'road'], ['ground', 'road', 'house']
MAPS = {
    'foreground as 255': (
        [[0, 255]] * 3,
        TWO,
        False,
        'road (1) in 3 label maps; 255, which',
        'store 1 instead of 255',
        True,
    ),
    'one of three classes as 255': (
        [[0, 1, 255]],
        THREE,
        False,
        'house (2) in 1 label maps; 255',
        'instead of 255',
        False,
    ),
    'label 0 left out': ([[0, 1]], TWO, True, 'road (1)', 'reduce_zero_label=True leaves out label 0', True),
    'a class that never occurs': ([[0, 1]] * 2, THREE, False, 'house (2) in 2 label maps', 'remove the class', False),
    'two classes that never occur, and ignored pixels': (
        [[0, 1, 255]],
        [*THREE, 'tree'],
        False,
        'house (2), tree (3) in 1 label maps; add some',
        'remove the class',
        False,
    ),
    'all classes': ([[0, 1], [2, 2]], THREE, False, '', '', False),
    'all classes and ignored pixels': ([[0, 255], [1, 0]], TWO, False, '', '', False),
}


@pytest.mark.parametrize('name', MAPS)
def test_a_class_in_no_label_map_is_named_with_the_cause(name, tmp_path, capsys):
    values, classes, reduces, words, mend, is_error = MAPS[name]
    cfg = scenes(tmp_path, values, classes, reduces)
    problems = check_config(cfg, ('train_dataloader', 'val_dataloader'), lists=('val_dataloader',))
    named = [problem for problem in problems if 'no label of' in problem.sentence]
    assert [problem.key for problem in named] == ['train_dataloader.dataset', 'val_dataloader.dataset'][
        : 2 * bool(words)
    ]
    assert all(words in each.sentence and mend in each.sentence and each.is_error == is_error for each in named)

    if is_error:
        with pytest.raises(SystemExit, match='1'):
            command('check', tmp_path / 'config.py', '--data', '--workers', 0)
    else:
        command('check', tmp_path / 'config.py', '--data', '--workers', 0)
    lines = [line for line in capsys.readouterr().out.splitlines() if 'no label of' in line]
    assert len(lines) == len(named)  # validation and test have the same data
    assert all(line.startswith('error: ' if is_error else 'warning: ') and words in line for line in lines)


def test_more_than_255_classes_with_label_0_left_out(tmp_path):
    cfg = scenes(tmp_path, [[0]], [f'class {index}' for index in range(299)], True, **NO_START)
    for path in tmp_path.glob('annotations/*/*.png'):
        Image.fromarray((np.arange(96 * 96, dtype=np.uint16) % 300).reshape(96, 96)).save(path)
    nodes = [cfg.model.decode_head, cfg.model.auxiliary_head, cfg.val_evaluator, cfg.test_evaluator]
    loaders = (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader)
    nodes += [step for loader in loaders for step in loader.dataset.pipeline if step.type in OURS]
    for node in nodes:
        node.ignore_index = 65535
    cfg.model.data_preprocessor.seg_pad_val = 65535
    loaders = ('train_dataloader', 'val_dataloader')
    assert not [problem for problem in check_config(cfg, loaders) if problem.is_error]
    cfg.val_dataloader.dataset.pipeline[1] = dict(type='LoadAnnotations')
    words = "in MMSegmentation's LoadAnnotations of val_dataloader, got 65535; or use beit_mm.LoadAnnotations"
    assert any(words in problem.sentence for problem in check_config(cfg, loaders))


LOADING = [dict(type='beit_mm.LoadAnnotations', num_classes=2), dict(type='LoadAnnotations')]


@pytest.mark.parametrize('loading, name', zip(LOADING, ('pipeline.1.num_classes', 'reduce_zero_label')))
def test_labels_that_count_from_one_stand_at_the_head_first_and_at_the_data_set_of_their_file(loading, name, tmp_path):
    cfg = scenes(tmp_path, [[1, 2]], TWO, **NO_START)
    cfg.val_dataloader.dataset.pipeline[1] = loading
    problems = check_config(cfg, ('train_dataloader', 'val_dataloader'))
    keys = ['train_dataloader.dataset.pipeline.1.num_classes', f'val_dataloader.dataset.{name}']
    assert [problem.key for problem in problems] == ['model.decode_head.num_classes'] * 2 + keys
    assert 'set reduce_zero_label=True if 0 means unlabelled' in problems[0].sentence


@pytest.mark.parametrize(
    'loss, words',
    [
        (dict(type='FocalLoss'), 'FocalLoss fails on CPUs'),
        (dict(type='CrossEntropyLoss', use_sigmoid=True, class_weight=[1.0, 2.0]), 'set use_sigmoid=False'),
        (dict(type='CrossEntropyLoss', avg_non_ignore=True, class_weight=[1.0, 2.0]), 'set it to False'),
        (dict(type='LovaszLoss'), "reduction should be 'none' when per_image is False"),
        (dict(type='OhemCrossEntropy'), 'its forward takes no weight, with which the model calls it'),
    ],
)
def test_losses_that_fail_inside_mmsegmentation(loss, words, tmp_path):
    cfg = scenes(tmp_path, [[0, 1]], TWO, **NO_START)
    cfg.model.decode_head.loss_decode = loss
    (problem,) = [problem for problem in check_config(cfg, ('train_dataloader',)) if problem.is_error]
    assert problem.key.startswith('model.decode_head.loss_decode') and words in problem.sentence


def test_a_class_folder_without_an_image_is_named(tmp_path):
    for split in ('train', 'val'):
        for name in ('cat', 'dog', 'owl')[: 3 if split == 'train' else 2]:
            (tmp_path / split / name).mkdir(parents=True)
            if name != 'owl':
                Image.new('RGB', (96, 96)).save(tmp_path / split / name / 'a.jpg')
    cfg = Config.fromfile(CONFIGS / 'demo' / 'finetune.py')
    for split in ('train', 'val'):
        pipeline = cfg[f'{split}_dataloader'].dataset.pipeline
        dataset = dict(type='beit_mm.ClassFolders', data_root=str(tmp_path), data_prefix=split, pipeline=pipeline)
        cfg[f'{split}_dataloader'].dataset = dict(dataset, metainfo=dict(classes=['cat', 'dog', 'owl']))
    cfg.model.head.num_classes = cfg.model.data_preprocessor.num_classes = 3
    problems = check_config(cfg, ('train_dataloader', 'val_dataloader'))
    named = {problem.key: problem.sentence for problem in problems if not problem.is_error}
    assert 'no label of owl (2) in 2 images' in named['train_dataloader.dataset']
    assert 'no label of owl (2) in 2 images' in named['val_dataloader.dataset']


def test_a_hidden_folder_is_no_class(tmp_path):
    for name in ('cat', 'dog'):
        (tmp_path / name).mkdir()
        Image.new('RGB', (96, 96)).save(tmp_path / name / 'a.jpg')
    (tmp_path / '.ipynb_checkpoints').mkdir()
    cfg = Config.fromfile(CONFIGS / 'demo' / 'finetune.py')
    cfg.model.backbone.init_cfg = None
    pipeline = cfg.train_dataloader.dataset.pipeline
    cfg.train_dataloader.dataset = dict(type='CustomDataset', data_root=str(tmp_path), pipeline=pipeline)
    for count in (2, 3):
        cfg.model.head.num_classes = cfg.model.data_preprocessor.num_classes = count
        problems = check_config(cfg, ('train_dataloader',))
        first = next(problem.sentence for problem in problems if problem.is_error)
        assert "the hidden folder '.ipynb_checkpoints' is no class: remove it" in first
