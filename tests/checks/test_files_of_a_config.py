"""The checks of data folders and checkpoints before a run."""

import pytest
from mmengine.config import Config

from beit_mm.checks import check_data
from beit_mm.checks.files import check_files


@pytest.fixture
def data(tmp_path):
    """A data set as the configs below name it."""
    for folder in ('train', 'images/training', 'annotations/training', 'meta', 'empty/class'):
        (tmp_path / folder).mkdir(parents=True)
        for name in () if 'empty' in folder else ('file', 'picture.jpg', 'labels.png'):
            (tmp_path / folder / name).touch()
    (tmp_path / 'checkpoint.pth').touch()
    return tmp_path


@pytest.mark.parametrize(
    'dataset',
    [
        dict(),
        dict(data_prefix='train'),
        dict(split='train'),
        dict(data_prefix=dict(img_path='images/training', seg_map_path='annotations/training')),
        dict(data_prefix='train', ann_file='meta/file'),
        dict(data_prefix=dict(img_path='train'), ann_file=''),
        dict(data_root='s3://bucket/imagenet', data_prefix='train'),
    ],
)
def test_data_that_is_there_or_elsewhere_passes(data, dataset):
    cfg = Config(dict(train_dataloader=dict(dataset={'type': 'Any', 'data_root': str(data), **dataset})))
    cfg.val_dataloader, cfg.test_dataloader = None, dict(dataset=dict(data_root='nowhere'))
    check_data(cfg, ('train_dataloader', 'val_dataloader'))


SCENES = dict(img_path='images/training', seg_map_path='annotations/training')


@pytest.mark.parametrize(
    'dataset, key, sentence',
    [
        (
            dict(data_prefix='trian'),
            '',
            'a data folder that does not exist: D/trian; set data_prefix to a folder in data_root=D',
        ),
        (dict(split='val'), '', 'a data folder that does not exist: D/val; set data_prefix to a folder in data_root=D'),
        (dict(data_prefix=dict(SCENES, seg_map_path='val')), '', 'a data folder that does not exist: D/val; set'),
        (
            dict(data_root='D/nowhere'),
            '',
            'a data folder that does not exist: D/nowhere; set data_root to where the data is',
        ),
        (dict(data_prefix='empty'), '', 'a data folder without any file: D/empty; put data there'),
        (
            dict(data_prefix=SCENES, img_suffix='.tif'),
            '',
            'a data folder without any .tif file: D/images/training; put',
        ),
        (dict(data_prefix=SCENES, seg_map_suffix='.gif'), '', 'a data folder without any .gif file: D/annotations'),
        (
            dict(ann_file='meta/a.txt'),
            '.ann_file',
            'a file that does not exist: D/meta/a.txt; give its path from data_root',
        ),
    ],
)
def test_missing_data_is_named_with_its_key_and_a_mend(data, dataset, key, sentence):
    dataset = {
        name: value.replace('D/', f'{data}/') if name == 'data_root' else value for name, value in dataset.items()
    }
    node = {'type': 'Any', 'data_root': str(data), **dataset}
    inner = dict(type='ConcatDataset', datasets=[dict(type='Any', data_root=str(data)), node])
    for dataset, path in ((node, ''), (dict(type='RepeatDataset', dataset=inner), '.dataset.datasets.1')):
        with pytest.raises(FileNotFoundError) as error:
            check_data(Config(dict(train_dataloader=dict(dataset=dataset))), ('train_dataloader',))
        expected = sentence.replace('D/', f'{data}/').replace('=D', f'={data}')
        assert str(error.value).startswith(f'train_dataloader.dataset{path}{key} names {expected}')


@pytest.mark.parametrize('path', ['nowhere.pth', ''], ids=['no file', 'a folder'])
def test_a_missing_checkpoint_is_named_with_its_key(data, path):
    missing, there = str(data / path), str(data / 'checkpoint.pth')
    part = [dict(type='Normal', std=0.1), dict(type='Pretrained', checkpoint=missing)]
    cfg = dict(load_from=missing, model=dict(target=dict(tokenizer=dict(init_cfg=part))))
    sentence = f'names a checkpoint that does not exist: {missing}; run what writes it, or give another path'
    keys = ('load_from', 'model.target.tokenizer.init_cfg.1.checkpoint')
    assert [str(problem) for problem in check_files(cfg, ())] == [f'{key} {sentence}' for key in keys]
    part[1]['checkpoint'] = there
    for start in (there, None, 'https://example.com/a.pth'):
        assert list(check_files(dict(cfg, load_from=start), ())) == []
