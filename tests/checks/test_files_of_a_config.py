"""The checks of data folders and checkpoints before a run."""

import pytest
from mmengine.config import Config

from beit_mm.checks import check_checkpoints, check_data


@pytest.fixture
def data(tmp_path):
    """A data set as the configs below name it."""
    for folder in ('train', 'images/training', 'annotations/training', 'meta'):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / 'file').touch()
        (tmp_path / folder / 'picture.jpg').touch()
        (tmp_path / folder / 'labels.png').touch()
    (tmp_path / 'checkpoint.pth').touch()
    return tmp_path


def loader(data, **kwargs) -> dict:
    return dict(dataset=dict(type='Any', data_root=str(data), **kwargs))


GOOD = [
    dict(),
    dict(data_prefix='train'),
    dict(split='train'),
    dict(data_prefix=dict(img_path='images/training', seg_map_path='annotations/training')),
    dict(data_prefix='train', ann_file='meta/file'),
    dict(data_prefix=dict(img_path='train'), ann_file=''),
]


@pytest.mark.parametrize('dataset', GOOD)
def test_data_that_is_there_passes(data, dataset):
    cfg = Config(dict(train_dataloader=loader(data, **dataset), val_dataloader=None))
    check_data(cfg, ('train_dataloader', 'val_dataloader', 'test_dataloader'))


@pytest.mark.parametrize(
    'dataset, missing',
    [
        (dict(data_prefix='trian'), 'trian'),
        (dict(split='val'), 'val'),
        (dict(data_prefix=dict(img_path='images/training', seg_map_path='annotations/val')), 'annotations/val'),
    ],
)
def test_a_missing_folder_is_named_with_its_key(data, dataset, missing):
    cfg = Config(dict(train_dataloader=loader(data, **dataset)))
    with pytest.raises(FileNotFoundError) as error:
        check_data(cfg, ('train_dataloader',))
    assert str(error.value) == (
        f'train_dataloader.dataset names a data folder that does not exist: {data / missing}; '
        f'set data_prefix to a folder in data_root={data}'
    )


def test_a_missing_root_is_named_with_its_key(data):
    cfg = Config(dict(val_dataloader=loader(data / 'nowhere', data_prefix='train')))
    with pytest.raises(FileNotFoundError) as error:
        check_data(cfg, ('val_dataloader',))
    assert str(error.value) == (
        f'val_dataloader.dataset names a data folder that does not exist: {data / "nowhere"}; '
        f'set data_root to where the data is'
    )


def test_an_empty_folder_is_named_with_its_key(data):
    for file in (data / 'train').iterdir():
        file.unlink()
    (data / 'train' / 'class_without_pictures').mkdir()
    cfg = Config(dict(train_dataloader=loader(data, data_prefix='train')))
    with pytest.raises(FileNotFoundError) as error:
        check_data(cfg, ('train_dataloader',))
    assert str(error.value) == (
        f'train_dataloader.dataset names a data folder without any file: {data / "train"}; put data there'
    )


def test_a_segmentation_folder_without_files_of_its_kind_is_named(data):
    prefix = dict(img_path='images/training', seg_map_path='annotations/training')
    cfg = Config(dict(train_dataloader=loader(data, data_prefix=prefix, img_suffix='.tif')))
    with pytest.raises(FileNotFoundError, match='train_dataloader.dataset .* without any .tif file: .*images/training'):
        check_data(cfg, ('train_dataloader',))
    (data / 'annotations' / 'training' / 'labels.png').unlink()
    cfg = Config(dict(train_dataloader=loader(data, data_prefix=prefix)))
    with pytest.raises(FileNotFoundError, match='without any .png file: .*annotations/training'):
        check_data(cfg, ('train_dataloader',))


def test_a_missing_annotation_file_is_named_with_its_key(data):
    cfg = Config(dict(train_dataloader=loader(data, data_prefix='train', ann_file='meta/train.txt')))
    with pytest.raises(FileNotFoundError) as error:
        check_data(cfg, ('train_dataloader',))
    assert str(error.value) == (
        f'train_dataloader.dataset.ann_file names a file that does not exist: {data / "meta" / "train.txt"}; '
        f'give its path from data_root on'
    )


def test_data_sets_within_data_sets_are_looked_at(data):
    inner = [dict(type='Any', data_root=str(data)), dict(type='Any', data_root=str(data / 'nowhere'))]
    cfg = Config(
        dict(
            train_dataloader=dict(
                dataset=dict(type='RepeatDataset', dataset=dict(type='ConcatDataset', datasets=inner))
            )
        )
    )
    with pytest.raises(FileNotFoundError, match='train_dataloader.dataset.dataset.datasets.1 names .*nowhere'):
        check_data(cfg, ('train_dataloader',))


def test_only_the_loaders_in_use_are_looked_at(data):
    cfg = Config(dict(train_dataloader=loader(data), test_dataloader=loader(data / 'nowhere')))
    check_data(cfg, ('train_dataloader',))
    with pytest.raises(FileNotFoundError):
        check_data(cfg, ('test_dataloader',))


@pytest.mark.parametrize('remote', ['s3://bucket/imagenet', 'petrel://imagenet'])
def test_data_elsewhere_is_not_looked_for(remote):
    check_data(Config(dict(train_dataloader=loader(remote, data_prefix='train'))), ('train_dataloader',))


def test_checkpoints_that_are_there_pass(data):
    path = str(data / 'checkpoint.pth')
    check_checkpoints(
        Config(
            dict(
                load_from=path,
                model=dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=path, prefix='backbone.'))),
            )
        )
    )
    check_checkpoints(Config(dict(load_from=None, model=dict(backbone=dict(init_cfg=dict(type='Normal', std=0.1))))))
    check_checkpoints(Config(dict(load_from='https://example.com/a.pth', model=None)))


@pytest.mark.parametrize('path', ['nowhere.pth', ''], ids=['no file', 'a folder'])
def test_a_missing_checkpoint_is_named_with_its_key(data, path):
    missing = str(data / path)
    with pytest.raises(FileNotFoundError) as error:
        check_checkpoints(Config(dict(load_from=missing)))
    assert str(error.value) == f'load_from names a checkpoint that does not exist: {missing}'
    part = dict(init_cfg=[dict(type='Normal'), dict(type='Pretrained', checkpoint=missing)])
    with pytest.raises(FileNotFoundError) as error:
        check_checkpoints(Config(dict(model=dict(target=dict(tokenizer=part)))))
    assert str(error.value) == (
        f'model.target.tokenizer.init_cfg.1.checkpoint names a checkpoint that does not exist: {missing}'
    )
