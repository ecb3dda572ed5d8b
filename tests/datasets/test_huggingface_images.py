"""Tables of Hugging Face `datasets`, written by that library, as a data set of MMPretrain."""

import shutil
import sys
from pathlib import Path

import datasets
import pytest
from mmengine.dataset import DefaultSampler
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS
from support.data import CLASSES, jpeg, samples
from torch.utils.data import DataLoader

from beit_mm.datasets import HuggingFaceImages

datasets.disable_progress_bars()
EXPECTED = [(jpeg(index), index % 3) for index in range(6)]


def table(labels=datasets.ClassLabel(names=CLASSES), start: int = 0, **columns) -> datasets.Dataset:
    """Image i is jpeg(i) of class i % 3."""
    rows = range(start, start + 6)
    images = [dict(bytes=jpeg(index), path=None) for index in rows]
    columns = dict(dict(image=images, label=[index % 3 for index in rows]), **columns)
    features = datasets.Features(image=datasets.Image(), label=labels)
    return datasets.Dataset.from_dict({name: columns[name] for name in features}, features=features)


def images(folder: Path, **options) -> HuggingFaceImages:
    return HuggingFaceImages(str(folder), **{'split': None, **options})


@pytest.fixture
def folder(tmp_path) -> Path:
    """One table in a folder."""
    table().save_to_disk(tmp_path / 'table')
    return tmp_path / 'table'


def test_a_saved_table_with_its_class_names(folder):
    dataset = images(folder)
    assert samples(dataset) == EXPECTED
    assert list(dataset.metainfo['classes']) == CLASSES
    assert dataset.get_gt_labels().tolist() == [0, 1, 2, 0, 1, 2] and dataset.get_cat_ids(4) == [1]
    assert dataset.get_data_info(-1)['img_path'] == f'{folder}/00000005'
    assert f'Path: \t{folder}' in repr(dataset)
    held = vars(dataset).values()
    assert sum(value.nbytes for value in held if hasattr(value, 'element_size')) == 6 * 4, '4 bytes per label'


def test_a_split_of_a_saved_dictionary(tmp_path):
    datasets.DatasetDict(train=table(), validation=table(start=20)).save_to_disk(tmp_path)
    assert samples(HuggingFaceImages(str(tmp_path))) == EXPECTED
    info = images(tmp_path, split='validation').get_data_info(1)
    assert info['img_bytes'] == jpeg(21) and info['img_path'] == f'{tmp_path}[validation]/00000001'
    with pytest.raises(ValueError, match=f'the split of {tmp_path} must be one of train, validation, got test'):
        images(tmp_path, split='test')


@pytest.mark.parametrize(
    'change, options, expected',
    [
        (lambda rows: rows.select([4, 0, 2, 5, 1, 3]), {}, [EXPECTED[index] for index in (4, 0, 2, 5, 1, 3)]),
        (lambda rows: rows.remove_columns('label'), dict(with_label=False), [(image, None) for image, _ in EXPECTED]),
        (
            lambda rows: rows.rename_columns(dict(image='jpg', label='cls')),
            dict(image_column='jpg', label_column='cls'),
            EXPECTED,
        ),
        (lambda rows: rows.cast_column('label', datasets.Value('int64')), dict(classes=CLASSES), EXPECTED),
    ],
    ids=['shuffled before it was saved', 'without labels', 'other columns', 'labels without names'],
)
def test_other_tables(change, options, expected, tmp_path):
    change(table()).save_to_disk(tmp_path)
    assert samples(images(tmp_path, **options)) == expected


@pytest.mark.parametrize('layout', ['parquet', 'image folder'])
def test_folders_that_load_dataset_reads(layout, tmp_path, monkeypatch):
    """Parquet as the hub has it, and folders of classes, which become a table of paths."""
    monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path / 'cache')
    for index in range(6):
        path = tmp_path / 'data' / 'train' / CLASSES[index % 3] / f'{index}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(index))
    if layout == 'parquet':
        shutil.rmtree(tmp_path / 'data' / 'train')
        table().to_parquet(str(tmp_path / 'data' / 'train-00000-of-00001.parquet'))
    dataset = HuggingFaceImages(str(tmp_path / 'data'))
    assert sorted(samples(dataset)) == sorted(EXPECTED) and list(dataset.metainfo['classes']) == CLASSES


def test_labels_follow_the_class_names_of_the_config(folder):
    dataset = images(folder, metainfo=dict(classes=['owl', 'fox', 'dog', 'cat']))
    assert dataset.get_gt_labels().tolist() == [3, 2, 0, 3, 2, 0]
    with pytest.raises(ValueError, match='class names must hold those of the column label, got none for owl'):
        images(folder, metainfo=dict(classes=['cat', 'dog', 'Owl']))


@pytest.mark.parametrize('context', ['fork', pytest.param('spawn', marks=pytest.mark.long)])
def test_workers(folder, context):
    init_default_scope('mmpretrain')
    pipeline = [dict(type='beit_mm.LoadImage'), dict(type='PackInputs')]
    dataset = DATASETS.build(dict(type='beit_mm.HuggingFaceImages', path=str(folder), split=None, pipeline=pipeline))
    expected = [dataset[index]['inputs'] for index in range(6)]
    sampler = DefaultSampler(dataset, shuffle=True, seed=1)
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context=context, sampler=sampler)
    found = {sample['data_samples'].sample_idx: sample for sample in loader}
    assert sorted(found) == list(range(6))
    for index, sample in found.items():
        assert (sample['inputs'] == expected[index]).all() and int(sample['data_samples'].gt_label) == index % 3


# Mistakes


@pytest.mark.parametrize(
    'options, sentence',
    [
        (dict(image_column='picture'), ' must have the column picture, got image, label'),
        (dict(label_column='class'), ' must have the column class, got image, label'),
        (dict(image_column='label'), ': the column label must hold images, got ClassLabel'),
        (dict(label_column='image'), ': the column image must hold whole numbers, got Image'),
    ],
)
def test_wrong_columns_are_named(folder, options, sentence):
    with pytest.raises(ValueError, match=f'{folder}{sentence}'):
        images(folder, **options)


def test_missing_folders_and_damaged_tables_are_named(folder):
    file = next(folder.glob('*.arrow'))
    file.write_bytes(file.read_bytes()[:100])
    for path in (folder, folder / 'none'):
        with pytest.raises(ValueError, match=f'path must be a folder written by save_to_disk .*, got {path}: '):
            images(path)


def test_images_and_labels_that_are_missing_are_named(tmp_path):
    table(image=[dict(bytes=jpeg(0), path=None)] * 5 + [None]).save_to_disk(tmp_path / 'image')
    with pytest.raises(ValueError, match='image/00000005 cannot be read as an image: .* hold an image in image, got'):
        images(tmp_path / 'image').get_data_info(5)
    table(label=[0, 1, -1, 2, -1, 0]).save_to_disk(tmp_path / 'label')
    with pytest.raises(ValueError, match=r'label/00000002: the label must be 0 to 2 .* got none \(as in 2 of 6'):
        images(tmp_path / 'label')


def test_without_the_optional_package(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, 'datasets', None)
    with pytest.raises(ImportError, match=r'needs the package datasets: pip install "beit_mm\[sources\]"'):
        images(folder)
