"""The checks of data folders and checkpoints before a run."""

from contextlib import nullcontext
from pathlib import Path

import pytest
from mmengine.config import Config

from beit_mm.checks import check_checkpoint, check_data
from beit_mm.checks.files import check_files
from beit_mm.errors import UserError

SCENES = dict(img_path='images/training', seg_map_path='annotations/training')


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data set D in the working directory, as the configs below name it."""
    for folder in ('train', *SCENES.values(), 'meta', 'empty/class'):
        (tmp_path / 'D' / folder).mkdir(parents=True)
        for name in () if 'empty' in folder else ('file', 'picture.jpg', 'labels.png'):
            (tmp_path / 'D' / folder / name).touch()
    (tmp_path / 'D' / 'heic' / 'a').mkdir(parents=True)
    for name in ('x.heic', '._0.jpg'):
        (tmp_path / 'D' / 'heic' / 'a' / name).touch()
    (tmp_path / 'work_dirs' / 'run').mkdir(parents=True)
    for name in ('checkpoint.pth', 'work_dirs/run/epoch_1.pth', 'work_dirs/run/epoch_2.pth'):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    'dataset',
    [
        dict(),
        dict(data_prefix='train'),
        dict(split='train'),
        dict(data_prefix=SCENES),
        dict(data_prefix='train', ann_file='meta/file'),
        dict(data_prefix=dict(img_path='train'), ann_file=''),
        dict(data_root='s3://bucket/imagenet', data_prefix='train'),
    ],
)
def test_data_that_is_there_or_elsewhere_passes(data, dataset):
    cfg = Config(dict(train_dataloader=dict(dataset={'type': 'Any', 'data_root': 'D', **dataset})))
    cfg.val_dataloader, cfg.test_dataloader = None, dict(dataset=dict(data_root='nowhere'))
    check_data(cfg, ('train_dataloader', 'val_dataloader'))


NO_FOLDER = ' names a data folder that does not exist: '


@pytest.mark.parametrize(
    'dataset, sentence',
    [
        (dict(data_prefix='trian'), f'{NO_FOLDER}D/trian; set data_prefix to a folder in data_root=D'),
        (dict(split='val'), f'{NO_FOLDER}D/val; set data_prefix to a folder in data_root=D'),
        (dict(data_prefix=dict(SCENES, seg_map_path='val')), f'{NO_FOLDER}D/val; set'),
        (dict(data_root='D/nowhere'), f'{NO_FOLDER}D/nowhere; set data_root to where the data is'),
        (dict(data_prefix='empty'), ' names a data folder without any file: D/empty; put data there'),
        (dict(data_prefix=SCENES, img_suffix='.tif'), ' names a data folder without any .tif file: D/images/training;'),
        (dict(data_prefix=SCENES, seg_map_suffix='.gif'), ' names a data folder without any .gif file: D/annotations'),
        (
            dict(type='mmseg.ADE20KDataset', data_prefix=dict(SCENES, img_path='heic')),
            ' names a data folder without any .jpg',
        ),
        (
            dict(type='beit_mm.ClassFolders', data_prefix='heic'),
            ' names a data folder without any JPEG, PNG, GIF, BMP, WEBP, TIFF, PPM or JPEG 2000 file',
        ),
        (dict(type='mmpretrain.CustomDataset', data_prefix='heic'), ' names a data folder without any .jpg or'),
        (
            dict(ann_file='meta/a.txt'),
            '.ann_file names a file that does not exist: D/meta/a.txt; give its path from data_root on',
        ),
    ],
)
def test_missing_data_is_named_with_its_key_and_a_mend(data, dataset, sentence):
    node = {'type': 'Any', 'data_root': 'D', **dataset}
    inner = dict(type='ConcatDataset', datasets=[dict(type='Any', data_root='D'), node])
    for dataset, path in ((node, ''), (dict(type='RepeatDataset', dataset=inner), '.dataset.datasets.1')):
        with pytest.raises(FileNotFoundError) as error:
            check_data(Config(dict(train_dataloader=dict(dataset=dataset))), ('train_dataloader',))
        assert str(error.value).startswith(f'train_dataloader.dataset{path}{sentence}')


IMAGES, IOU = dict(img_path='images/training'), dict(type='beit_mm.IoUMetric')


@pytest.mark.parametrize(
    'dataset, evaluator, words',
    [
        (dict(data_prefix=IMAGES), IOU, 'data_prefix has no seg_map_path; .* beit-mm segment'),
        (dict(data_prefix=dict(IMAGES, seg_map_path=None)), IOU, 'data_prefix has no seg_map_path; .* beit-mm segment'),
        (dict(data_prefix=SCENES, pipeline=[dict(type='LoadImage')]), [IOU], 'no LoadAnnotations; .* beit-mm segment'),
        (dict(data_prefix=dict(SCENES, seg_map_path='no')), IOU, 'D/no; .* beit-mm segment'),
        (dict(data_prefix='train', with_label=False), dict(metrics=[dict(type='Accuracy')]), 'beit-mm classify'),
        (dict(data_prefix=SCENES), [IOU], None),
        (dict(data_prefix=IMAGES), dict(IOU, format_only=True), None),
        (dict(data_prefix='train', with_label=False), dict(type='TokenizerMetric'), None),
    ],
)
def test_an_evaluation_without_labels_is_named_with_the_command_that_needs_none(data, dataset, evaluator, words):
    node = dict(dict(data_root='D', pipeline=[dict(type='LoadAnnotations')]), **dataset)
    cfg = Config(dict(test_dataloader=dict(dataset=node), test_evaluator=evaluator))
    with pytest.raises((UserError, FileNotFoundError), match=words) if words else nullcontext():
        check_data(cfg, ('test_dataloader',))


MEND = '; run what writes it, or give another path'


@pytest.mark.parametrize(
    'missing, what, mend',
    [
        ('nowhere.pth', 'a checkpoint that does not exist', '; it was looked for in {}' + MEND),
        ('chekpoint.pth', 'a checkpoint that does not exist', '; did you mean checkpoint.pth?'),
        ('D', 'a folder without weights', MEND),
        ('work_dirs/run', 'a folder without weights', '; name a file in it: epoch_1.pth, epoch_2.pth' + MEND),
    ],
)
def test_a_missing_checkpoint_is_named_with_its_key(data, missing, what, mend):
    part = [dict(type='Normal', std=0.1), dict(type='Pretrained', checkpoint=missing)]
    cfg = dict(load_from=missing, model=dict(target=dict(tokenizer=dict(init_cfg=part))))
    sentence = f'names {what}: {missing}{mend.format(Path.cwd())}'
    keys = ('load_from', 'model.target.tokenizer.init_cfg.1.checkpoint')
    assert [str(problem) for problem in check_files(cfg, ())] == [f'{key} {sentence}' for key in keys]
    part[1]['checkpoint'] = 'checkpoint.pth'
    for start in ('checkpoint.pth', None, 'https://example.com/a.pth'):
        assert list(check_files(dict(cfg, load_from=start), ())) == []


@pytest.mark.parametrize('key', ['load_from', '--resume'])
def test_an_empty_name_of_a_checkpoint_is_named_with_its_key(key):
    with pytest.raises(UserError, match=f'^{key} must name a checkpoint, got an empty text$'):
        check_checkpoint(key, '')
    problems = [str(problem) for problem in check_files(dict(load_from=''), ())]
    assert problems == ['load_from: must name a checkpoint, got an empty text']
