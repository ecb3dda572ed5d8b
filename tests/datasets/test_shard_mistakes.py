"""Mistakes in tar shards end in one sentence that names the shard, or the image in it."""

import shutil

import pytest
import webdataset
from support.data import build_shards as build
from support.data import jpeg, write_shards

from beit_mm.datasets import WebDatasetShards
from beit_mm.datasets.webdataset import index_shard


@pytest.fixture
def shards(tmp_path):
    return write_shards(tmp_path / 'shards')


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


def test_a_compressed_shard_is_named(shards):
    packed = shutil.make_archive(str(shards[0].parent / 'packed'), 'gztar', shards[0].parent, '.')
    with pytest.raises(ValueError, match=f'{packed} is truncated or no uncompressed tar file'):
        WebDatasetShards(packed)


def test_a_sample_without_image_is_named(shards):
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
