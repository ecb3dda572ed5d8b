"""Problems that the early check reports of small data."""

from pathlib import Path

import numpy as np
from mmengine.config import Config
from PIL import Image

from beit_mm.checks import check_config
from support import CONFIGS


def check(name: str, options: dict) -> list:
    """Problems other than missing files, in training and validation."""
    cfg = Config.fromfile(CONFIGS / name)
    cfg.merge_from_dict(options)
    problems = check_config(cfg, ('train_dataloader', 'val_dataloader'))
    return [problem for problem in problems if 'not exist' not in problem.sentence]


def only(problems: list, key: str, *words: str, is_error: bool = True) -> None:
    assert [(problem.key, problem.is_error) for problem in problems] == [(key, is_error)], [str(p) for p in problems]
    assert all(word in problems[0].sentence for word in words), problems[0].sentence


def write_maps(root: Path, labels: dict) -> Path:
    """Label maps of one row, and an image for each, in ADE20K's layout."""
    for split in ('training', 'validation'):
        for kind in ('images', 'annotations'):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for name, values in labels.items():
            values = np.array([values], dtype=np.uint8)
            Image.fromarray(np.zeros((*values.shape[:2], 3), np.uint8)).save(root / 'images' / split / f'{name}.jpg')
            Image.fromarray(values).save(root / 'annotations' / split / f'{name}.png')
    return root


def check_maps(root: Path, labels: dict, **more) -> list:
    write_maps(root, labels)
    options = {
        f'{loader}.dataset.{key}': value
        for loader in ('train_dataloader', 'val_dataloader')
        for key, value in dict(data_root=str(root), **more).items()
    }
    return check('beit_segment.py', options)


def write_folders(root: Path, **splits) -> dict:
    """Options of a fine-tuning on class folders."""
    for split, names in splits.items():
        for name in names:
            (root / split / name).mkdir(parents=True)
            (root / split / name / 'a.jpg').touch()
    options = {'model.head.num_classes': 3, 'model.data_preprocessor.num_classes': 3, 'val_evaluator.topk': (1,)}
    for loader, split in (('train_dataloader', 'train'), ('val_dataloader', 'val')):
        options[f'{loader}.dataset'] = dict(type='CustomDataset', data_root=str(root), data_prefix=split, split=None)
    return options


def finetune(options: dict) -> list:
    cfg = Config.fromfile(CONFIGS / 'beit_finetune.py')
    pipelines = {loader: cfg[loader].dataset.pipeline for loader in ('train_dataloader', 'val_dataloader')}
    for loader, pipeline in pipelines.items():
        dataset = options.pop(f'{loader}.dataset')
        dataset.pop('split', None)
        cfg[loader].dataset = dict(dataset, pipeline=pipeline)
    cfg.merge_from_dict(options)
    problems = check_config(cfg, pipelines)
    return [problem for problem in problems if 'not exist' not in problem.sentence]
