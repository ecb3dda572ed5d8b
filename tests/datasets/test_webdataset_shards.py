"""Tar shards as a data set: what webdataset wrote is read whole, at random, by any sampler, wrapper and worker."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import webdataset
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS
from support.data import build_shards as build
from support.data import CLASSES, jpeg, PATTERN, write_shards
from support.data import samples as found
from torch.utils.data import DataLoader

from beit_mm.datasets import webdataset as webdataset_shards
from beit_mm.datasets import WebDatasetShards
from beit_mm.datasets.webdataset import expand_shards, index_shard

EXPECTED = [(jpeg(index), index % 3) for index in range(10)]


@pytest.fixture
def shards(tmp_path):
    return write_shards(tmp_path / 'shards')


def test_samples_are_those_that_webdataset_reads_in_any_order(shards):
    theirs = webdataset.WebDataset([str(shard) for shard in shards], shardshuffle=False)
    assert [(sample['jpg'], int(sample['cls'])) for sample in theirs] == EXPECTED
    dataset = build(shards)
    for index in (9, 0, 4, 3, -1, 8):
        info = dataset.get_data_info(index)
        assert (info['img_bytes'], info['gt_label']) == EXPECTED[index] and info['sample_idx'] == index % 10
        assert info['img_path'] == f'{shards[index % 10 // 4]}/{index % 10:06d}.jpg'
    with pytest.raises(IndexError):
        dataset.get_data_info(10)


def test_without_labels(tmp_path):
    shards = write_shards(tmp_path, labels=False)
    dataset = build(shards, with_label=False, classes=None)
    assert found(dataset) == [(content, None) for content, _ in EXPECTED]
    for ask in (dataset.get_gt_labels, lambda: dataset.get_cat_ids(0)):
        with pytest.raises(ValueError, match='no labels: it was built with with_label=False'):
            ask()


def test_class_names_and_labels_are_those_of_mmpretrain(shards):
    dataset = build(shards)
    assert list(dataset.metainfo['classes']) == CLASSES and dataset.class_to_idx['owl'] == 2
    assert dataset.get_gt_labels().tolist() == [index % 3 for index in range(10)]
    assert dataset.get_cat_ids(5) == [2]
    assert f'from {shards[0]}' in repr(dataset) and 'Number of samples: \t10' in repr(dataset)


# Members


def test_members_are_sorted_out_as_webdataset_does(tmp_path):
    """Other members, upper case, folders, webdataset's own entries, and names beyond a header's 100 bytes."""
    long = 'folder/' + 'a' * 60 + '/' + 'b' * 90
    with webdataset.TarWriter(str(tmp_path / 'a.tar')) as writer:
        writer.write({'__key__': 'folder/one', 'JPG': jpeg(0), 'cls': 1, 'json': dict(of='one')})
        writer.write({'__key__': long, 'seg.png': b'no image of the sample', 'png': jpeg(1), 'cls': b' 2\n'})
        writer.write({'__key__': '__meta__/about', 'txt': 'nothing'})
        writer.write({'__key__': 'two', 'png': jpeg(2), 'jpg': jpeg(3), 'cls': 0})
    theirs = webdataset.WebDataset(str(tmp_path / 'a.tar'), shardshuffle=False)
    assert [sample['__key__'] for sample in theirs] == ['folder/one', long, 'two']
    dataset = WebDatasetShards(str(tmp_path / 'a.tar'), image_keys=('jpg', 'png'))
    assert found(dataset) == [(jpeg(0), 1), (jpeg(1), 2), (jpeg(3), 0)]


def test_shards_packed_by_tar_itself(tmp_path):
    for index in range(3):
        (tmp_path / 'images' / f'{index}').mkdir(parents=True)
        (tmp_path / 'images' / f'{index}' / 'x.jpg').write_bytes(jpeg(index))
    subprocess.run(['tar', '--sort=name', '-cf', tmp_path / 'a.tar', '-C', tmp_path / 'images', '.'], check=True)
    dataset = WebDatasetShards('a.tar', data_root=str(tmp_path), with_label=False)
    assert [content for content, _ in found(dataset)] == [jpeg(index) for index in range(3)]
    assert dataset.get_data_info(2)['img_path'] == f'{tmp_path}/a.tar/./2/x.jpg'


@pytest.mark.parametrize(
    'pattern, names',
    [
        ('a-{000009..000011}.tar', ['a-000009.tar', 'a-000010.tar', 'a-000011.tar']),
        ('{a,b}/{0..1}.tar', ['a/0.tar', 'a/1.tar', 'b/0.tar', 'b/1.tar']),
        (['plain.tar', 'x{1..2}.tar'], ['plain.tar', 'x1.tar', 'x2.tar']),
    ],
)
def test_braces_stand_for_what_they_do_in_webdataset(pattern, names):
    assert expand_shards(pattern) == names
    assert names == [name for part in np.atleast_1d(pattern) for name in webdataset.shardlists.expand_urls(str(part))]


def test_braces_without_the_optional_package(monkeypatch):
    monkeypatch.setitem(sys.modules, 'braceexpand', None)
    assert expand_shards('plain.tar') == ['plain.tar']
    with pytest.raises(ImportError, match=r'pip install "beit_mm\[sources\]"'):
        expand_shards(PATTERN)


# The index


def test_the_index_is_kept_next_to_the_shards_and_used_but_needs_no_file(shards, monkeypatch):
    folder = shards[0].parent
    assert found(build(shards, index_dir=None)) == EXPECTED and sorted(folder.iterdir()) == shards
    (folder / 'taken').write_text('a file, where the folder would be')
    assert found(build(shards, index_dir='taken')) == EXPECTED
    build(shards)
    assert sorted(path.name for path in (folder / '.index').iterdir()) == [f'{shard.name}.npz' for shard in shards]

    def no_reading(*_):
        raise AssertionError('the shards were read again')

    monkeypatch.setattr(webdataset_shards, 'index_shard', no_reading)
    assert found(build(shards)) == EXPECTED
    with pytest.raises(AssertionError, match='read again'):
        build(shards, label_key='json')


def test_the_index_of_a_shard_that_changed_or_of_a_damaged_file_is_made_anew(shards):
    build(shards)
    with webdataset.TarWriter(str(shards[1])) as writer:
        writer.write({'__key__': 'new', 'jpg': jpeg(77), 'cls': 2})
    (shards[0].parent / '.index' / f'{shards[2].name}.npz').write_bytes(b'damaged')
    expected = EXPECTED[:4] + [(jpeg(77), 2)] + EXPECTED[8:]
    assert found(build(shards)) == expected and found(build(shards)) == expected


@pytest.mark.parametrize('with_label, size', [(True, 16), (False, 12)])
def test_bytes_per_image(shards, with_label, size):
    held = vars(build(shards, with_label=with_label)).values()
    assert sum(value.nbytes for value in held if hasattr(value, 'element_size')) == 10 * size


def test_processes_start_with_different_shards_and_end_with_the_same_data(shards, monkeypatch):
    done = []
    monkeypatch.setattr(
        webdataset_shards, 'index_shard', lambda path, *keys: (done.append(path[-5]), index_shard(path, *keys))[1]
    )
    for rank, order in enumerate((['0', '1', '2'], ['1', '2', '0'])):
        done.clear()
        monkeypatch.setattr(webdataset_shards, 'get_dist_info', lambda: (rank, 2))
        assert found(build(shards, index_dir=None)) == EXPECTED and done == order


# Workers, samplers, wrappers


class InWorker:
    """Samples as a worker makes them, and whether its index lies in shared memory."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        held = self.dataset._offsets, self.dataset._sizes, self.dataset.labels
        return self.dataset[index], all(tensor.is_shared() for tensor in held)


@pytest.mark.parametrize(
    'context, sampler', [('fork', InfiniteSampler), pytest.param('spawn', DefaultSampler, marks=pytest.mark.long)]
)
def test_workers_and_samplers(shards, context, sampler):
    init_default_scope('mmpretrain')
    dataset = build(shards, pipeline=[dict(type='beit_mm.LoadImage'), dict(type='PackInputs')])
    expected = [dataset[index]['inputs'] for index in range(10)]  # opens files in this process first
    options = dict(num_workers=2, multiprocessing_context=context, sampler=sampler(dataset, shuffle=True, seed=1))
    seen = []
    for _, (sample, shared) in zip(range(10), DataLoader(InWorker(dataset), batch_size=None, **options)):
        index = sample['data_samples'].sample_idx
        assert (sample['inputs'] == expected[index]).all() and int(sample['data_samples'].gt_label) == index % 3
        assert shared == (context == 'spawn'), 'a forked worker shares all memory anyway'
        seen.append(index)
    assert sorted(seen) == list(range(10)) and seen != sorted(seen)


def test_part_of_the_data(shards):
    for indices, rows in ((3, [0, 1, 2]), (-2, [8, 9]), ([7, 1, -1], [7, 1, 9])):
        dataset = build(shards, indices=indices)
        assert found(dataset) == [EXPECTED[row] for row in rows] and len(dataset) == len(rows)
    subset = dataset.get_subset([2, 0])
    assert found(subset) == [EXPECTED[9], EXPECTED[7]] and subset.get_gt_labels().tolist() == [0, 1]
    assert subset.get_cat_ids(1) == [1] and len(dataset) == 3


@pytest.mark.parametrize(
    'wrapper, rows',
    [
        (dict(type='KFoldDataset', fold=1, num_splits=5), [0, 1, 4, 5, 6, 7, 8, 9]),
        (dict(type='RepeatDataset', times=2), [*range(10), *range(10)]),
        (dict(type='ConcatDataset'), list(range(10))),
        (dict(type='ClassBalancedDataset', oversample_thr=1e-3), list(range(10))),
    ],
)
def test_wrappers(shards, wrapper, rows):
    inner = dict(type='beit_mm.WebDatasetShards', shards=PATTERN, data_root=str(shards[0].parent), classes=CLASSES)
    key = 'datasets' if wrapper['type'] == 'ConcatDataset' else 'dataset'
    dataset = DATASETS.build(dict(wrapper, **{key: [inner] if key == 'datasets' else inner}))
    assert [dataset[index]['img_bytes'] for index in range(len(dataset))] == [jpeg(row) for row in rows]


# Mistakes end in one sentence that names the shard, or the image in it


def test_missing_shards_are_named(shards):
    shards[1].unlink()
    with pytest.raises(FileNotFoundError, match=f'1 of 3 shards do not exist: {shards[1]}'):
        build(shards)
    with pytest.raises(ValueError, match='at least one tar file, got none'):
        WebDatasetShards([])


@pytest.mark.parametrize('cut', [1500, 'middle', 'end mark', 0])
def test_truncated_shards_are_named(shards, cut):
    """Within the first member, within the last, between two members, and an empty file."""
    index = index_shard(str(shards[1]), ('jpg',), 'cls')
    last = int(index['offset'][-1])
    size = {'middle': last + 20, 'end mark': -(-(last + int(index['size'][-1])) // 512) * 512}.get(cut, cut)
    with open(shards[1], 'r+b') as file:
        file.truncate(size)
    with pytest.raises(ValueError, match=f'the shard {shards[1]} is truncated'):
        build(shards)


def test_a_shard_that_is_truncated_while_in_use(shards):
    dataset = build(shards)
    with open(shards[2], 'r+b') as file:
        file.truncate(2000)
    with pytest.raises(ValueError, match=f'the shard {shards[2]} is truncated: it must have .* got 2000'):
        dataset.get_data_info(9)


def test_a_compressed_shard_and_a_sample_without_image_are_named(shards):
    packed = shutil.make_archive(str(shards[0].parent / 'packed'), 'gztar', shards[0].parent, '.')
    with pytest.raises(ValueError, match=f'{packed} is truncated or no uncompressed tar file'):
        WebDatasetShards(packed)
    with webdataset.TarWriter(str(shards[1])) as writer:
        writer.write({'__key__': 'lonely', 'cls': 1, 'txt': 'no image'})
    with pytest.raises(ValueError, match=r'000001.tar: the sample lonely must have an image \(jpg.*, got .*cls'):
        build(shards)


@pytest.mark.parametrize(
    'label, got', [({}, 'none'), *((dict(cls=text), 'none') for text in (b'owl', b'-1', b'9' * 20)), (dict(cls=3), '3')]
)
def test_labels_that_are_missing_or_beyond_the_classes_are_named(shards, label, got):
    with webdataset.TarWriter(str(shards[1])) as writer:
        writer.write({'__key__': 'wrong', 'jpg': jpeg(0), **label})
    sentence = rf'000001.tar/wrong.jpg: the label must be 0 to 2 to fit 3 class names, got {got} \(as in 1 of 7'
    with pytest.raises(ValueError, match=sentence):
        build(shards)
    assert len(build(shards, with_label=False)) == 7


def test_labels_without_class_names_only_need_to_be_there(shards):
    assert build(shards, classes=None).get_gt_labels().max() == 2
    with webdataset.TarWriter(str(shards[1])) as writer:
        writer.write({'__key__': 'wrong', 'jpg': jpeg(0)})
    with pytest.raises(ValueError, match='wrong.jpg: the label must be 0 or more, got none'):
        build(shards, classes=None)
