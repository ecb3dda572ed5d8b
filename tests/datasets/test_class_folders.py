"""Own images in folders: labels by the folders' names, and MMPretrain's CustomDataset where there are no labels."""

import pytest
from mmpretrain.registry import DATASETS
from support.data import jpeg

from beit_mm.datasets import ClassFolders


def write(root, *names: str) -> str:
    for index, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(jpeg(index))
    return str(root)


def labels(dataset) -> dict:
    infos = map(dataset.get_data_info, range(len(dataset)))
    return {info['img_path'].rsplit('/', 1)[-1]: info.get('gt_label') for info in infos}


def test_labels_follow_the_names_in_their_order_or_the_sorted_folders(tmp_path):
    root = write(tmp_path, 'train/dog/a.jpg', 'train/cat/b.JPG', 'train/cat/deeper/c.png', 'train/.hidden/d.jpg')
    options = dict(data_root=root, data_prefix='train', metainfo=dict(classes=['dog', 'owl', 'cat']))
    dataset = DATASETS.build(dict(type='beit_mm.ClassFolders', **options))
    assert labels(dataset) == {'a.jpg': 0, 'b.JPG': 2, 'c.png': 2}
    assert list(dataset.metainfo['classes']) == ['dog', 'owl', 'cat'] and sorted(dataset.get_gt_labels()) == [0, 2, 2]
    dataset = ClassFolders(root, data_prefix='train')
    assert labels(dataset) == {'a.jpg': 1, 'b.JPG': 0, 'c.png': 0} and dataset.CLASSES == ('cat', 'dog')


def test_a_folder_that_is_no_class_and_folders_without_images_are_named(tmp_path):
    """MMPretrain would count the folders alone and take the second for the second class."""
    classes = dict(classes=['cat', 'dog'])
    (tmp_path / 'cat').mkdir()
    with pytest.raises(ValueError, match=rf'the class folders in {tmp_path}/? must hold images \(.*jpg.*\), got none'):
        ClassFolders(str(tmp_path), metainfo=classes)
    root = write(tmp_path, 'cats/a.jpg', 'dog/b.jpg')
    with pytest.raises(ValueError, match=rf'folders in {root}/? must be named as the classes \(cat, dog\), got cats'):
        ClassFolders(root, metainfo=classes)


def test_a_list_of_files_or_no_labels_are_mmpretrains(tmp_path):
    root = write(tmp_path, 'cat/a.jpg', 'dog/b.jpg', 'dog/deeper/c.png', 'dog/notes.txt')
    (tmp_path / 'list.txt').write_text('dog/b.jpg 1\n')
    assert labels(ClassFolders(root, ann_file='list.txt', metainfo=dict(classes=['cat', 'dog']))) == {'b.jpg': 1}
    assert len(ClassFolders(root, with_label=False)) == 3
    for folder, names in ((root, ['a.jpg', 'b.jpg', 'c.png']), (f'{root}/cat', ['a.jpg'])):
        dataset = DATASETS.build(dict(type='CustomDataset', data_root=folder, with_label=False))
        assert labels(dataset) == dict.fromkeys(names)
