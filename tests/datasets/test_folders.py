"""Own images in folders: data sets and commands find the same files, and name what they leave out or refuse."""

import io
import os

import numpy as np
import pytest
from mmengine.dataset import ConcatDataset
from mmpretrain.datasets import CustomDataset
from mmpretrain.registry import DATASETS
from mmseg.datasets import BaseSegDataset
from PIL import Image
from support.data import jpeg

from beit_mm.apis.images import find_images
from beit_mm.datasets import ClassFolders, LoadImage, SeededDataset, SegFolders
from beit_mm.datasets.counts import describe
from beit_mm.datasets.listing import IMAGE_SUFFIXES, LeftOut
from beit_mm.datasets.transforms.decoding import FORMATS


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
    with pytest.raises(ValueError, match=rf'the class folders in {tmp_path}/? must hold images \(JPEG, .*\), got none'):
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


# Files


def test_every_name_of_every_format_that_the_loader_reads_is_found():
    Image.init()
    names = {suffix for suffix, form in Image.registered_extensions().items() if form in FORMATS}
    assert set(IMAGE_SUFFIXES) == names - {'.pfm'}, 'a PPM of floating point numbers, which the loader refuses'
    for suffix in IMAGE_SUFFIXES:
        target = io.BytesIO()
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(target, Image.registered_extensions()[suffix])
        for backend in ('simplejpeg', 'cv2', 'pillow'):
            info = dict(img_path=suffix, img_bytes=target.getvalue())
            assert LoadImage(imdecode_backend=backend)(info)['img'].shape == (16, 16, 3)


def fill(root) -> tuple[set, dict]:
    """A folder as users have it: its images, and how many files are left out, by reason."""
    images = {'a/0.jpg', 'a/1.JPG', 'a/2.webp', 'a/deep/3.TIFF', 'a/4.Png', 'b/5.jfif', 'b/copy/0.jpg', 'b/copy/1.JPG'}
    write(root, *(name for name in images if 'copy' not in name))
    write(root, 'a/._0.jpg', 'b/.ipynb_checkpoints/5.jpg', 'a/x.heic', 'b/y.HEIC', 'b/notes.txt', 'a/.DS_Store')
    (root / 'a' / 'gone.jpg').symlink_to(root / 'nothing')
    os.mkfifo(root / 'a' / 'pipe.jpg')
    (root / 'a' / 'deep' / 'loop').symlink_to(root)
    (root / 'b' / 'copy').symlink_to(root / 'a')
    images |= {'b/copy/2.webp', 'b/copy/4.Png', 'b/copy/deep/3.TIFF'}
    return images, {'hidden': 3, '.heic': 3, '.txt': 1, 'broken links or no files': 4}


def test_data_sets_and_commands_find_the_same_images_and_count_what_they_leave_out(tmp_path):
    (tmp_path / 'images').mkdir()
    images, others = fill(tmp_path / 'images')
    root, left_out = str(tmp_path / 'images'), LeftOut()
    found = find_images(root, left_out)
    assert {os.path.relpath(image.name, root) for image in found} == images and dict(left_out) == others
    assert "3 .heic (such as 'a/x.heic')" in str(left_out)
    for name in images:
        write(tmp_path / 'maps', f'{os.path.splitext(name)[0]}.png')
    write(tmp_path / 'maps', '._0.png', 'a/._0.png', 'only.png')
    unlabelled, labelled = ClassFolders(root, with_label=False), ClassFolders(root)
    prefixes = dict(img_path='images', seg_map_path='maps')
    pairs = SegFolders(data_root=str(tmp_path), data_prefix=prefixes, metainfo=dict(classes=['x']))
    for dataset in (unlabelled, labelled, pairs):
        infos = [dataset.get_data_info(index) for index in range(len(dataset))]
        assert {os.path.relpath(info['img_path'], root) for info in infos} == images
    assert unlabelled.left_out == others and labelled.left_out == others
    assert pairs.left_out == dict(others, **{'label maps without image': 1})
    assert all(info['seg_map_path'].startswith(f'{tmp_path}/maps/') for info in infos)
    write(tmp_path / 'none', 'a/x.heic', '._0.jpg')
    for build in (find_images, ClassFolders, lambda path: SegFolders(data_prefix=dict(img_path=path))):
        with pytest.raises(ValueError, match=r'none.* must hold images .*, got none; left out: .*1 .heic'):
            build(str(tmp_path / 'none'))


def test_label_maps_with_an_end_in_their_names_are_answered_with_the_option(tmp_path):
    write(tmp_path, 'images/1.jpg', 'maps/10.png', 'maps/1_mask.png')
    options = dict(data_root=str(tmp_path), data_prefix=dict(img_path='images', seg_map_path='maps'))
    with pytest.raises(ValueError, match="no label map .*, or set seg_map_suffix='_mask.png'$"):
        SegFolders(**options)
    assert len(SegFolders(**options, seg_map_suffix='_mask.png')) == 1


def test_label_maps_are_found_by_the_name_of_the_image(tmp_path):
    write(tmp_path, '0.jpg', '0.png', '1.JPG', '1.PNG')
    options = dict(data_root=str(tmp_path), metainfo=dict(classes=['x']))
    dataset = SegFolders(**options)
    assert dataset.METAINFO['classes'] == ['x']  # for MMSegmentation's browse_dataset.py
    assert [os.path.basename(dataset.get_data_info(index)['seg_map_path']) for index in (0, 1)] == ['0.png', '1.PNG']
    (tmp_path / 'list.txt').write_text('1\n')
    listed = SegFolders(ann_file='list.txt', **options)
    assert len(listed) == 1 and listed.left_out['not in list.txt'] == 1
    cases = {
        '2.jpg': r"1 of 3 images in .* have no label map .*: the first is '2.jpg'; add it or remove the image",
        '0.webp': "must hold one of '0.jpg' and '0.webp'; set img_suffix or remove one",
    }
    for name, words in cases.items():
        write(tmp_path, name)
        with pytest.raises(ValueError, match=words):
            SegFolders(**options)
        (tmp_path / name).unlink()


@pytest.mark.parametrize(
    'content, line, words',
    [
        (b'cat/a.jpg 0\r/etc/passwd 1\n', 2, "'/etc/passwd' leaves the data folder .*; give a path below it"),
        (b'cat/a.jpg 0\r\n../../x.jpg 1', 2, "'../../x.jpg' leaves the data folder"),
        (b'cat/a.jpg 0\n\ncat/a.jpg 0', 2, "must be a path, a space and a class number, got ''"),
        (b'cat/a.jpg cat', 1, "must be a path, a space and a class number, got 'cat/a.jpg cat'"),
        (b'cat/\xff.jpg 0', None, 'must be text in UTF-8'),
    ],
)
def test_lines_of_annotation_files_are_checked_as_the_host_splits_them(tmp_path, content, line, words):
    root = write(tmp_path / 'data', 'cat/a.jpg')
    (tmp_path / 'data' / 'list.txt').write_bytes(content)
    with pytest.raises(ValueError, match=f'{root}/list.txt{f", line {line}: " if line else " "}{words}'):
        ClassFolders(root, ann_file='list.txt', metainfo=dict(classes=['cat', 'dog']))


def test_paths_of_annotation_files_may_be_anywhere_without_a_data_folder(tmp_path):
    root = write(tmp_path, 'cat/a.jpg')
    (tmp_path / 'list.txt').write_text(f'{root}/cat/a.jpg\n')
    assert len(ClassFolders(ann_file=f'{root}/list.txt', with_label=False)) == 1
    (tmp_path / 'list.txt').write_text('a..b/../cat/a.jpg\n')
    assert len(ClassFolders(root, ann_file='list.txt', with_label=False)) == 1


# Counts


def test_a_line_counts_images_classes_and_what_is_left_out(tmp_path):
    """Of our data sets and the hosts', also in wrappers; the hosts leave out images without a word."""
    write(tmp_path, 'data/cat/0.jpg', 'data/cat/1.JPG', 'data/dog/2.webp', 'data/dog/._2.jpg', 'data/dog/x.heic')
    root = str(tmp_path / 'data')
    ours = ClassFolders(root, metainfo=dict(classes=['cat', 'dog', 'owl']))
    others = "1 .heic (such as 'dog/x.heic')", "1 hidden (such as 'dog/._2.jpg')"
    line = f'3 images in {root} (labels: cat 2, dog 1, owl 0), none of owl; left out: {", ".join(others)}'
    assert describe(ours) == line and describe(SeededDataset(ours, 'none', 0.0)) == line
    assert describe(ConcatDataset([ours, ours])) == f'{line}; {line}'
    host = CustomDataset(data_root=root)
    assert describe(host) == (
        f'2 images in {root} (labels: cat 2, dog 0), none of dog; '
        f"left out: {others[0]}, 1 .webp (such as 'dog/2.webp'), {others[1]}"
    )
    assert describe(ClassFolders(root, with_label=False)) == f'3 images in {root}; left out: {", ".join(others)}'
    many = ClassFolders(root, metainfo=dict(classes=['cat', 'dog', *map(str, range(40))]))
    assert '(labels: 42 classes, 0 to 2 each), none of 0, 1, ' in describe(many) and '19 and 20 more;' in describe(many)
    (tmp_path / 'list').write_text('/etc/passwd 1\n')
    listed = CustomDataset(data_root=root, ann_file='../list', metainfo=dict(classes=['cat', 'dog']))
    with pytest.raises(ValueError, match="line 1: '/etc/passwd' leaves the data folder"):
        describe(listed)


def test_classes_are_counted_in_label_maps(tmp_path):
    for index in range(150):
        write(tmp_path, f'images/{index:03}.jpg')
        labels = np.full((4, 4), 255 if index else 1, np.uint8)
        labels[0] = 0
        (tmp_path / 'maps').mkdir(exist_ok=True)
        Image.fromarray(labels).save(tmp_path / 'maps' / f'{index:03}.png')
    options = dict(data_root=str(tmp_path), data_prefix=dict(img_path='images', seg_map_path='maps'))
    options['metainfo'] = dict(classes=['ground', 'road'])
    line = f'150 images in {tmp_path}/images (in 75 label maps ground 75, road 1)'
    assert describe(SegFolders(**options)) == describe(BaseSegDataset(**options)) == line
    few = f'10 images in {tmp_path}/images (label maps: ground 10, road 1)'
    assert describe(SegFolders(indices=10, **options)) == few
