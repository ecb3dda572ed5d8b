"""Tables of Hugging Face `datasets`, written by that library, as a data set of MMPretrain."""

import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from mmengine.dataset import DefaultSampler
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS
from support.data import CLASSES, jpeg
from support.data import samples as found
from torch.utils.data import DataLoader

from beit_mm.datasets import HuggingFaceImages

datasets.disable_progress_bars()
EXPECTED = [(jpeg(index), index % 3) for index in range(6)]


def table(labels=datasets.ClassLabel(names=CLASSES), start: int = 0, **columns) -> datasets.Dataset:
    """Image i is jpeg(i) of class i % 3."""
    columns = dict(
        dict(
            image=[dict(bytes=jpeg(index), path=None) for index in range(start, start + 6)],
            label=[index % 3 for index in range(start, start + 6)],
        ),
        **columns,
    )
    features = datasets.Features(image=datasets.Image(), label=labels)
    return datasets.Dataset.from_dict({name: columns[name] for name in features}, features=features)


@pytest.fixture
def folder(tmp_path) -> Path:
    """One table in a folder."""
    table().save_to_disk(tmp_path / 'table')
    return tmp_path / 'table'


def test_a_saved_table_with_its_class_names(folder):
    dataset = HuggingFaceImages(str(folder), split=None)
    assert found(dataset) == EXPECTED
    assert list(dataset.metainfo['classes']) == CLASSES
    assert dataset.get_gt_labels().tolist() == [0, 1, 2, 0, 1, 2] and dataset.get_cat_ids(4) == [1]
    assert dataset.get_data_info(-1)['img_path'] == f'{folder}/00000005'
    assert f'Path: \t{folder}' in repr(dataset)


def test_a_split_of_a_saved_dictionary(tmp_path):
    datasets.DatasetDict(train=table(), validation=table(start=20)).save_to_disk(tmp_path)
    assert found(HuggingFaceImages(str(tmp_path))) == EXPECTED
    validation = HuggingFaceImages(str(tmp_path), split='validation')
    assert validation.get_data_info(1)['img_bytes'] == jpeg(21)
    assert validation.get_data_info(1)['img_path'] == f'{tmp_path}[validation]/00000001'
    with pytest.raises(ValueError, match=f'the split of {tmp_path} must be one of train, validation, got test'):
        HuggingFaceImages(str(tmp_path), split='test')


def test_a_table_that_was_shuffled_before_it_was_saved(tmp_path):
    order = np.random.default_rng(0).permutation(6)
    table().select(order).save_to_disk(tmp_path)
    assert found(HuggingFaceImages(str(tmp_path), split=None)) == [EXPECTED[place] for place in order]


def test_parquet_files_as_the_hub_has_them(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path / 'cache')
    (tmp_path / 'data').mkdir()
    table().to_parquet(str(tmp_path / 'data' / 'train-00000-of-00001.parquet'))
    assert found(HuggingFaceImages(str(tmp_path / 'data'))) == EXPECTED


def test_a_table_of_paths(tmp_path, monkeypatch):
    """As the image folder builder makes it."""
    monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path / 'cache')
    for index in range(6):
        path = tmp_path / 'data' / 'train' / CLASSES[index % 3] / f'{index}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(index))
    dataset = HuggingFaceImages(str(tmp_path / 'data'))
    assert sorted(found(dataset)) == sorted(EXPECTED) and list(dataset.metainfo['classes']) == CLASSES


def test_without_labels(tmp_path):
    table().remove_columns('label').save_to_disk(tmp_path)
    dataset = HuggingFaceImages(str(tmp_path), split=None, with_label=False)
    assert found(dataset) == [(content, None) for content, _ in EXPECTED]


def test_columns_of_other_names(tmp_path):
    table().rename_columns(dict(image='jpg', label='cls')).save_to_disk(tmp_path)
    assert found(HuggingFaceImages(str(tmp_path), split=None, image_column='jpg', label_column='cls')) == EXPECTED


def test_labels_follow_the_class_names_that_are_given(folder):
    dataset = HuggingFaceImages(str(folder), split=None, metainfo=dict(classes=['owl', 'fox', 'dog', 'cat']))
    assert dataset.get_gt_labels().tolist() == [3, 2, 0, 3, 2, 0]
    with pytest.raises(ValueError, match='class names must hold those of the column label, got none for owl'):
        HuggingFaceImages(str(folder), split=None, metainfo=dict(classes=['cat', 'dog', 'Owl']))


def test_numbers_without_names_are_labels_as_they_are(tmp_path):
    table(datasets.Value('int64')).save_to_disk(tmp_path)
    assert found(HuggingFaceImages(str(tmp_path), split=None, classes=CLASSES)) == EXPECTED


@pytest.mark.parametrize('context', ['fork', pytest.param('spawn', marks=pytest.mark.long)])
def test_workers(folder, context):
    init_default_scope('mmpretrain')
    dataset = DATASETS.build(
        dict(
            type='beit_mm.HuggingFaceImages',
            path=str(folder),
            split=None,
            pipeline=[dict(type='beit_mm.LoadImage'), dict(type='PackInputs')],
        )
    )
    expected = {index: dataset[index]['inputs'] for index in range(6)}
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=2,
        multiprocessing_context=context,
        sampler=DefaultSampler(dataset, shuffle=True, seed=1),
    )
    samples = {sample['data_samples'].sample_idx: sample for sample in loader}
    assert sorted(samples) == list(range(6))
    for index, sample in samples.items():
        assert (sample['inputs'] == expected[index]).all() and int(sample['data_samples'].gt_label) == index % 3


def test_part_of_the_data(folder):
    dataset = HuggingFaceImages(str(folder), split=None, indices=[5, 0, 2])
    assert found(dataset) == [EXPECTED[place] for place in (5, 0, 2)]
    subset = dataset.get_subset(-2)
    assert found(subset) == [EXPECTED[0], EXPECTED[2]] and subset.get_gt_labels().tolist() == [0, 2]


def test_labels_take_4_bytes_per_image(folder):
    held = vars(HuggingFaceImages(str(folder), split=None).data_list)
    assert sum(value.nbytes for value in held.values() if hasattr(value, 'element_size')) == 6 * 4


# Mistakes


@pytest.mark.parametrize(
    'options, sentence',
    [
        (dict(image_column='picture'), 'must have the column picture, got image, label'),
        (dict(label_column='class'), 'must have the column class, got image, label'),
        (dict(image_column='label'), 'the column label must hold images, got ClassLabel'),
        (dict(label_column='image'), 'the column image must hold whole numbers, got Image'),
    ],
)
def test_wrong_columns_are_named(folder, options, sentence):
    with pytest.raises(ValueError, match=f'{folder}: .*{sentence}' if 'hold' in sentence else f'{folder} {sentence}'):
        HuggingFaceImages(str(folder), split=None, **options)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=f'path must be a folder written by save_to_disk or .*, got {tmp_path}/none: '):
        HuggingFaceImages(str(tmp_path / 'none'))


def test_a_damaged_table_is_named(folder):
    file = next(folder.glob('*.arrow'))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=f'path must be a folder written by save_to_disk .*, got {folder}: '):
        HuggingFaceImages(str(folder), split=None)


def test_images_and_labels_that_are_missing_are_named(tmp_path):
    content = [dict(bytes=jpeg(0), path=None)] * 5 + [None]
    table(image=content).save_to_disk(tmp_path / 'image')
    dataset = HuggingFaceImages(str(tmp_path / 'image'), split=None)
    with pytest.raises(
        ValueError, match=f'{tmp_path}/image/00000005 cannot be read as an image: .* hold an image in image, got'
    ):
        dataset.get_data_info(5)
    table(label=[0, 1, -1, 2, -1, 0]).save_to_disk(tmp_path / 'label')
    with pytest.raises(ValueError, match=r'label/00000002: the label must be 0 to 2 .* got none \(as in 2 of 6'):
        HuggingFaceImages(str(tmp_path / 'label'), split=None)


def test_without_the_optional_package(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, 'datasets', None)
    with pytest.raises(ImportError, match=r'needs the package datasets: pip install "beit_mm\[sources\]"'):
        HuggingFaceImages(str(folder), split=None)
