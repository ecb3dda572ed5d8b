"""The early check reads every line of an annotation file, and names file and line of what the hosts would fail on."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.config_check import check, check_maps, finetune, only, write_folders, write_maps

GOOD = ['a/a.jpg 0', 'b/with space.jpg 2', 'c/ö.jpg 1']


def check_lines(tmp_path: Path, content, **options) -> list:
    """Problems of a fine-tuning on an annotation file of three classes."""
    folders = write_folders(tmp_path, train='abc', val='abc')
    content = content if isinstance(content, bytes) else ''.join(f'{line}\n' for line in content).encode()
    (tmp_path / 'lines.txt').write_bytes(content)
    folders['train_dataloader.dataset'].update(ann_file='lines.txt', **options)
    return finetune(folders)


def test_good_lines_pass(tmp_path):
    assert check_lines(tmp_path / '1', GOOD) == []
    assert check_lines(tmp_path / '2', '\n'.join(GOOD).encode()) == []  # no end of line at the end
    assert check_lines(tmp_path / '3', '\r\n'.join(GOOD).encode()) == []
    assert check_lines(tmp_path / '4', ['a/../b/x.jpg 0', 'd..e/x..jpg 1', '../val/a.jpg 2']) == []
    assert check_lines(tmp_path / '5', [f'{tmp_path}/5/train/a/a.jpg 0']) == []  # absolute, and in the data


def test_a_link_may_lead_out_of_the_data(tmp_path):
    (tmp_path / 'elsewhere').mkdir()
    options = write_folders(tmp_path / 'data', train='abc', val='abc')
    (tmp_path / 'data' / 'train' / 'link').symlink_to(tmp_path / 'elsewhere')
    (tmp_path / 'data' / 'lines.txt').write_text('link/x.jpg 0\n')
    options['train_dataloader.dataset']['ann_file'] = 'lines.txt'
    assert finetune(options) == []


@pytest.mark.parametrize(
    'line, words',
    [
        ('../../x.jpg 1', "must name an image in {root}, got '../../x.jpg'"),
        ('a/../../../x.jpg 1', 'must name an image in {root}'),
        ('/etc/passwd 1', "got '/etc/passwd'"),
        ('a/a.jpg', "must be a path, a space and a class number from 0 on, got 'a/a.jpg'"),
        ('a/a.jpg\t1', 'a path, a space and a class number'),
        ('a/b.jpg one', "a class number from 0 on, got 'a/b.jpg one'"),
        ('a/b.jpg 1.5', 'a class number'),
        ('a/b.jpg -1', 'a class number from 0 on'),
        (f'a/b.jpg {"9" * 5000}', 'a class number'),
        ('1', "a path, a space and a class number from 0 on, got '1'"),
        ('', 'must name an image, got an empty line'),
        ('a\0.jpg 1', 'must be text, got a NUL byte'),
        ('a/a.jpg 1', "gives another label to 'a/a.jpg' of line 1"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, words):
    problems = check_lines(tmp_path, [*GOOD, line])
    only(problems, 'train_dataloader.dataset.ann_file', f'{tmp_path}/lines.txt:4 ', words.format(root=tmp_path))
    assert len(problems[0].sentence) < 400


def test_lines_that_are_wrong_alike_are_counted(tmp_path):
    only(
        check_lines(tmp_path, [*GOOD, 'x.jpg -1', 'y.jpg -2']),
        'train_dataloader.dataset.ann_file',
        'lines.txt:4 must be',
        '(so do 2 of 5 lines)',
    )


def test_a_label_beyond_the_classes_is_named_with_its_line(tmp_path):
    only(
        check_lines(tmp_path, [*GOOD, 'x.jpg 3', 'y.jpg 7', 'z.jpg 7']),
        'model.head.num_classes',
        'labels 0 to 7',
        'lines.txt:5 ',
        'outside of 3 classes',
    )


def test_the_same_line_twice_is_a_warning(tmp_path):
    only(
        check_lines(tmp_path, [*GOOD, GOOD[1]]),
        'train_dataloader.dataset.ann_file',
        "lines.txt:4 repeats 'b/with space.jpg' of line 2",
        is_error=False,
    )


@pytest.mark.parametrize(
    'content, words',
    [
        (b'', 'names an empty file'),
        (b'\n \n', 'names an empty file'),
        (b'a.jpg 0\nb\xff.jpg 1\n', 'lines.txt:2 must be text in UTF-8, got byte 0xff'),
        ('a.jpg 0\n'.encode('utf-16'), 'lines.txt:1 must be text in UTF-8'),
        ('a.jpg 0\n'.encode('utf-8-sig'), 'lines.txt:1 starts with a byte order mark'),
    ],
)
def test_files_that_are_no_such_text_are_named(tmp_path, content, words):
    only(check_lines(tmp_path, content), 'train_dataloader.dataset.ann_file', words)


def test_lines_without_labels_are_whole_paths(tmp_path):
    assert check_lines(tmp_path / '1', ['a/a.jpg', 'b/a b.jpg', '7'], with_label=False) == []
    only(
        check_lines(tmp_path / '2', ['a/a.jpg', '/x.jpg'], with_label=False),
        'train_dataloader.dataset.ann_file',
        'lines.txt:2 must name an image',
    )


def check_names(tmp_path: Path, names: str, **labels) -> list:
    (tmp_path / 'names.txt').write_text(names)
    write_maps(tmp_path, labels)
    return check(
        'beit_segment.py',
        {'train_dataloader.dataset.ann_file': 'names.txt', 'train_dataloader.dataset.data_root': str(tmp_path)},
    )


def test_names_of_segmentation_are_checked_too(tmp_path):
    labels = dict(a=[0, 1, 150])
    assert check_names(tmp_path, 'a\n', **labels) == []
    only(check_names(tmp_path, 'a\n../../../x\n', **labels)[:1], 'train_dataloader.dataset.ann_file', 'names.txt:2 ')
    only(
        check_names(tmp_path, 'a\nb\n', **labels),
        'train_dataloader.dataset',
        f'{tmp_path}/annotations/training/b.png is missing for the image',
        'b.jpg',
    )


def test_label_maps_of_another_size_or_kind_or_broken(tmp_path):
    write_maps(tmp_path, dict(a=[0, 1, 150]))
    path = tmp_path / 'annotations' / 'training' / 'a.png'
    for picture, words in (
        (np.zeros((2, 3), np.uint8), 'the size of its image a.jpg, 1 x 3, got 2 x 3'),
        (np.zeros((1, 3), np.uint16), 'got 16 or 32 bits per pixel'),
        (np.zeros((1, 3, 3), np.uint8), 'got colours or transparency (RGB)'),
    ):
        Image.fromarray(picture).save(path)
        only(check_training(tmp_path), 'train_dataloader.dataset', str(path), words)
    Image.fromarray(np.zeros((1, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:45])
    only(check_training(tmp_path), 'train_dataloader.dataset', f'{path} cannot be read as a picture')
    path.unlink()
    only(check_training(tmp_path)[-1:], 'train_dataloader.dataset', f'{path} is missing for the image')


def test_an_image_that_cannot_be_read_is_told_in_validation_alone(tmp_path):
    """Training lists and replaces it."""
    assert check_maps(tmp_path, dict(a=[0, 1, 150])) == []
    for split in ('training', 'validation'):
        (tmp_path / 'images' / split / 'a.jpg').write_bytes(b'')
    options = {f'{loader}.dataset.data_root': str(tmp_path) for loader in ('train_dataloader', 'val_dataloader')}
    only(
        check('beit_segment.py', options),
        'val_dataloader.dataset',
        f'{tmp_path}/images/validation/a.jpg, which cannot be read',
        'leave it out',
    )


def check_training(root: Path) -> list:
    return check('beit_segment.py', {'train_dataloader.dataset.data_root': str(root)})


def test_a_turned_image_has_the_size_it_is_shown_with(tmp_path):
    assert check_maps(tmp_path, dict(a=[0, 1, 150])) == []
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / 'images' / 'training' / 'a.jpg'
    Image.new('RGB', (1, 3)).save(path, exif=exif)
    assert check_training(tmp_path) == []
    Image.new('RGB', (1, 3)).save(path)
    only(check_training(tmp_path), 'train_dataloader.dataset', 'size of its image')


def test_the_step_that_reads_labels_knows_all_classes():
    problems = check('beit_segment.py', {'train_dataloader.dataset.pipeline.1.num_classes': 149})
    only(
        problems,
        'train_dataloader.dataset.pipeline.1.num_classes',
        'labels from 149 on are refused',
        'set num_classes=150',
    )
