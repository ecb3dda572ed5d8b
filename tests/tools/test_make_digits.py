"""The demonstration data: deterministic, split without leaks, and read by the hosts' own data set classes."""

import hashlib
import os
import runpy
import time
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmpretrain.datasets import ImageNet
from mmseg.registry import DATASETS
from PIL import Image
from support import ROOT
from support.tools import import_tool, tool

digits = import_tool('demo', 'make_digits')
digit_pictures = import_tool('demo', 'digit_pictures')
write_classification, write_segmentation = digits.write_classification, digits.write_segmentation
CONFIG = Config.fromfile(ROOT / 'configs/demo/segment.py')

TINY = dict(size=64, limit=5)  # per class four digits to training, one to validation
SCENES = dict(TINY, num_train=30, num_val=10)


def file_hashes(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob('*'))
        if path.is_file()
    }


def modification_times(root):
    return {path: path.stat().st_mtime_ns for path in (root, *root.rglob('*'))}


@pytest.fixture(scope='module')
def imagenet(tmp_path_factory):
    root = tmp_path_factory.mktemp('digits') / 'imagenet'
    write_classification(root, **TINY)
    return root


@pytest.fixture(scope='module')
def ade20k(tmp_path_factory):
    root = tmp_path_factory.mktemp('digits') / 'ade20k'
    write_segmentation(root, **SCENES)
    return root


def scenes(root, split):
    return DATASETS.build(
        dict(
            CONFIG.dataset,
            data_root=str(root),
            data_prefix=dict(img_path=f'images/{split}', seg_map_path=f'annotations/{split}'),
            pipeline=[dict(type='LoadImageFromFile'), dict(type='mmseg.LoadAnnotations')],
        )
    )


def annotations(root):
    return np.stack([np.asarray(Image.open(path)) for path in sorted((root / 'annotations').rglob('*.png'))])


def test_every_digit_is_in_one_split():
    labels = digits.load_sources().labels
    splits = digits.split_digits(labels)
    train, val = (sum(splits[name], []) for name in ('train', 'val'))
    assert sorted(train + val) == list(range(1797)) and (len(train), len(val)) == (1438, 359)
    for pools in splits.values():
        assert all(set(labels[pool]) == {label} for label, pool in enumerate(pools))


def test_written_splits_share_no_digit(imagenet):
    train, val = (
        {line.split('_')[1].split('/')[1] for line in (imagenet / 'meta' / f'{split}.txt').open()}
        for split in ('train', 'val')
    )
    assert len(train) == 40 and len(val) == 10 and not train & val


@pytest.mark.parametrize('split, columns', [('train', slice(None, 480)), ('val', slice(480, None))])
def test_backgrounds_of_the_splits_share_no_pixel(split, columns):
    allowed = np.zeros((427, 640, 3), dtype=np.uint8)
    allowed[:, columns] = 255
    for seed in range(200):
        background = digit_pictures._background(np.random.default_rng(seed), [Image.fromarray(allowed)], split, 64)
        assert (background == 1).all()


def test_the_largest_digit_fits_the_picture():
    for ink in digits.load_sources().digits:
        assert max(digit_pictures._enlarge(ink, 96 * digits.DIGIT_SHARE[1]).shape) <= 96


@pytest.mark.parametrize('write, arguments', [(write_classification, TINY), (write_segmentation, SCENES)])
def test_same_seed_gives_same_bytes_and_another_seed_others(tmp_path, write, arguments):
    first, second, other = (
        write(tmp_path / name, seed=seed, **arguments) and file_hashes(tmp_path / name)
        for name, seed in (('first', 1), ('second', 1), ('other', 2))
    )
    assert first == second
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first if not name.endswith('.txt'))


def test_a_picture_does_not_depend_on_how_many_are_made(tmp_path, imagenet, ade20k):
    write_classification(tmp_path / 'one', **TINY, renders=1)
    write_segmentation(tmp_path / 'few', **dict(SCENES, num_train=3, num_val=2))
    for few, many in ((tmp_path / 'one', imagenet), (tmp_path / 'few', ade20k)):
        few, many = file_hashes(few), file_hashes(many)
        assert all(many[name] == value for name, value in few.items() if name.endswith(('.png', '.jpg')))


def test_imagenet_reads_the_folder(imagenet):
    for split, count in (('train', 80), ('val', 10)):
        for how in (dict(split=split), dict(split='', data_prefix=split)):  # with and without the list in meta
            dataset = ImageNet(data_root=str(imagenet), metainfo=dict(classes=digits.CLASSES), **how)
            assert len(dataset) == count and dataset.CLASSES == digits.CLASSES
            for entry in map(dataset.get_data_info, range(count)):
                assert Path(entry['img_path']).parent.name == digits.CLASSES[entry['gt_label']]
        assert Image.open(entry['img_path']).size == (64, 64)


def test_train_10_lists_ten_first_renders_per_class(tmp_path):
    counts = write_classification(tmp_path / 'digits', size=32, limit=15)
    assert counts == dict(train=240, val=30, train_10=100, classes=10)
    dataset = ImageNet(
        data_root=str(tmp_path / 'digits'),
        split='train',
        ann_file='meta/train_10.txt',
        metainfo=dict(classes=digits.CLASSES),
    )
    assert np.bincount(dataset.get_gt_labels()).tolist() == [10] * 10
    assert all(Path(entry['img_path']).stem.endswith('_0') for entry in map(dataset.get_data_info, range(100)))
    train = digits.split_digits(digits.load_sources().labels)['train']
    assert {int(Path(dataset.get_data_info(i)['img_path']).stem[:5]) for i in range(100)} == {
        index for pool in train for index in pool[:10]
    }


def test_the_config_s_data_set_reads_the_folder(ade20k):
    for split, count in (('training', 30), ('validation', 10)):
        dataset = scenes(ade20k, split)
        assert (
            len(dataset) == count
            and tuple(dataset.metainfo['classes']) == digits.SCENE_CLASSES
            and dataset.reduce_zero_label
        )
        assert len(dataset.metainfo['palette']) == len(digits.SCENE_CLASSES)
        item = dataset[0]
        assert item['img'].shape == (64, 64, 3) and item['gt_seg_map'].shape == (64, 64)
        found = np.unique(np.stack([dataset[i]['gt_seg_map'] for i in range(count)]))
        assert found.tolist() == [*range(11), 255]


def test_labels_are_single_channel_with_every_class(ade20k):
    labels = annotations(ade20k)
    assert labels.shape == (40, 64, 64) and labels.dtype == np.uint8
    assert np.unique(labels).tolist() == list(range(12))
    assert 0.1 < (labels > 1).mean() < 0.7
    assert (labels > 1).any(axis=(1, 2)).all()


def test_labels_lie_on_the_bright_digits():
    for index in range(30):
        image, labels = digits.render(np.random.default_rng(index), 'train', [index], 96, digits.SCENE_DIGIT_SHARE)
        inside = labels == 2 + digits.load_sources().labels[index]
        brightness = image.mean(axis=-1)
        assert set(np.unique(labels)) == {0, 1, 2 + digits.load_sources().labels[index]}
        assert brightness[inside].mean() > brightness[labels == 1].mean() + 30
        # Inside a digit the colour is nearly even: an opacity of 0.85 or more leaves little of the photograph.
        assert image[inside].std(axis=0).max() < 30


def test_a_second_call_writes_nothing(imagenet, ade20k):
    for root, write, arguments in ((imagenet, write_classification, TINY), (ade20k, write_segmentation, SCENES)):
        before = modification_times(root.parent)
        counts = write(root, **arguments)
        assert modification_times(root.parent) == before
    assert counts == dict(training=30, validation=10, classes=11)


def test_foreign_and_other_folders_are_refused_untouched(tmp_path, imagenet, monkeypatch):
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'photos' / 'holiday.jpg').write_bytes(b'mine')
    (tmp_path / 'file').write_bytes(b'mine')
    for name, message in (('photos', 'got files without .digits.json'), ('file', 'must be a folder')):
        before = modification_times(tmp_path)
        with pytest.raises(ValueError, match=message):
            write_classification(tmp_path / name, **TINY)
        assert modification_times(tmp_path) == before
    with pytest.raises(ValueError, match=r"made with {'seed': 3}, got {'seed': 0}"):
        write_classification(imagenet, seed=3, **TINY)
    monkeypatch.setattr(digit_pictures, 'MIN_CONTRAST', 0.9)
    with pytest.raises(ValueError, match=r"made with {'MIN_CONTRAST': 0.9}"):
        write_classification(imagenet, **TINY)


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    (tmp_path / 'digits').mkdir()  # an empty folder is as good as none
    monkeypatch.setattr(digits, 'render', interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_segmentation(tmp_path / 'digits', **SCENES)
    assert [path.name for path in tmp_path.rglob('*')] == ['digits']
    monkeypatch.undo()
    write_segmentation(tmp_path / 'digits', **SCENES)
    assert (tmp_path / 'digits' / digits.STAMP).is_file()


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(limit=2), 'limit must be at least 3 digits per class.*got 2'),
        (dict(size=16), 'size must be at least 32, got 16'),
        (dict(seed=-1), 'seed must be at least 0, got -1'),
        (dict(renders=0), 'renders must be at least 1, got 0'),
    ],
)
def test_arguments_out_of_range_are_named(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_classification(tmp_path / 'digits', **arguments)
    assert not any(tmp_path.iterdir())


def test_the_tool_ends_with_one_sentence(tmp_path):
    (tmp_path / 'imagenet').mkdir()
    (tmp_path / 'imagenet' / 'mine.txt').write_text('mine')
    output = tool('demo/make_digits', '--out', str(tmp_path), ok=False)
    assert 'Traceback' not in output
    assert output.splitlines()[-1].startswith(f'error: {tmp_path}/imagenet must be new, empty')


def test_the_demonstration_trains_a_stage_again_if_its_start_is_newer(tmp_path, monkeypatch):
    demo = runpy.run_path(str(ROOT / 'tools' / 'demo'), run_name='demo')
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    monkeypatch.chdir(tmp_path)
    checkpoints = [demo['_checkpoint'](stage, stage) for stage in ('tokenizer', 'pretrain')]
    assert [str(path) for path in checkpoints] == [
        'work_dirs/demo/tokenizer/iter_2000.pth',
        'work_dirs/demo/pretrain/epoch_45.pth',
    ]
    is_current = demo['_is_current']
    assert not is_current('pretrain', 'pretrain')
    now = time.time()
    for seconds, path in zip((10, 20), checkpoints):
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (now + seconds, now + seconds))
    assert is_current('tokenizer', 'tokenizer') and is_current('pretrain', 'pretrain')
    os.utime(checkpoints[0], (now + 30, now + 30))
    assert not is_current('pretrain', 'pretrain')
