"""Bad images in training: on a list, replaced by the same sample whoever reads, and bounded."""

import ast
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmpretrain.datasets import BaseDataset
from support.data import build_shards, jpeg, write_shards
from support.tools import forkserver
from torch.utils.data import DataLoader, Dataset

import beit_mm
from beit_mm.datasets import BadImage, BadImages, LoadImage, SeededDataset
from beit_mm.datasets.seeding import derive_seed, SeededIndex

NUM_IMAGES = 40
BROKEN = {4: b'', 17: b'no image', 30: jpeg(30)[:400]}


class Pictures(BaseDataset):
    """Images as bytes, some of them broken."""

    def load_data_list(self) -> list:
        return [
            dict(img_path=f'folder/{index}.jpg', img_bytes=BROKEN.get(index, jpeg(index)))
            for index in range(NUM_IMAGES)
        ]


def draw(results: dict) -> tuple:
    """Name and pixels of the sample, and a draw of each generator, as augmentations make them."""
    pixels = results['img'].astype(int).sum()
    return results['img_path'], int(pixels), float(np.random.rand()), float(torch.rand(()))


class Seeded(SeededDataset):
    """Every sample with its own seed, as from a SeededSampler."""

    def __getitem__(self, index: int) -> tuple:
        return super().__getitem__(SeededIndex(index, derive_seed(7, 1, index)))


def seeded(path, max_share: float = 0.1) -> Seeded:
    pipeline = [LoadImage(imdecode_backend='simplejpeg'), draw]
    return Seeded(Pictures('', serialize_data=False, pipeline=pipeline), path, max_share)


def load(dataset: Dataset, num_workers: int) -> list:
    options = dict(multiprocessing_context=forkserver, timeout=120) if num_workers else {}
    batches = iter(DataLoader(dataset, batch_size=5, num_workers=num_workers, collate_fn=list, **options))
    try:
        return [sample for batch in batches for sample in batch]
    finally:
        if num_workers:  # an error would keep them until some garbage is collected
            batches._shutdown_workers()


def test_samples_are_replaced_alike_for_any_number_of_workers(tmp_path):
    dataset = seeded(tmp_path / 'none' / 'bad_images.txt')
    assert dataset[0][0] == 'folder/0.jpg' and not dataset.bad_images.list_path.exists()
    expected = load(dataset, 0)
    whole = {f'folder/{index}.jpg' for index in range(NUM_IMAGES)} - {f'folder/{index}.jpg' for index in BROKEN}
    assert {sample[0] for sample in expected} == whole and len(expected) == NUM_IMAGES
    for index, sample in enumerate(expected):
        assert (sample[0] == f'folder/{index}.jpg') == (index not in BROKEN)
    for num_workers in (2, 4):
        path = tmp_path / str(num_workers) / 'bad_images.txt'
        assert load(seeded(path), num_workers) == expected
        lines = sorted(line.split('\t') for line in path.read_text().splitlines())
        assert [name for name, _ in lines] == ['folder/17.jpg', 'folder/30.jpg', 'folder/4.jpg']
        assert lines[2][1] == 'the file is empty' and 'truncated' in lines[1][1].lower() and 'no header' in lines[0][1]
    replacements = {SeededDataset.__getitem__(dataset, SeededIndex(4, seed))[0] for seed in range(20)}
    assert len(replacements) > 5, 'they depend on the seed'


@pytest.mark.parametrize('num_workers', [0, 2])
def test_too_many_bad_images_end_the_training(tmp_path, num_workers):
    path = tmp_path / 'bad_images.txt'
    with pytest.raises(ValueError) as raised:
        load(seeded(path, max_share=0.06), num_workers)
    message = str(raised.value)
    assert '3 of 40 images cannot be read, 7.50%, and at most 6.00% may be: folder/' in message
    assert str(path) in message and all(f'folder/{index}.jpg' in message for index in BROKEN)


@pytest.mark.parametrize('num_images, allowed', [(334, 5), (10_000, 10), (8, 2), (3, 0)])
def test_a_few_bad_images_are_allowed_in_small_data_sets(tmp_path, num_images, allowed):
    """Five, but no more than a quarter, or the share if that is more; the message names both options."""
    bad = BadImages(num_images, tmp_path / 'list', 0.001, max_images=5)
    for index in range(allowed):
        bad.add(BadImage(f'{index}.jpg', 'broken'))
    words = r'may be: .*set train_cfg.max_bad_share=0.001 or train_cfg.max_bad_images higher. The last: x.jpg cannot'
    with pytest.raises(ValueError, match=f'{allowed + 1} of {num_images} images .*{words}'):
        bad.add(BadImage('x.jpg', 'broken'))


def test_a_resumed_run_goes_on_with_the_list(tmp_path):
    path = tmp_path / 'bad_images.txt'
    dataset = seeded(path)
    before = [dataset[index] for index in range(20)]
    path.write_text(path.read_text() + 'folder/killed')  # in the middle of a line
    again = seeded(path)
    assert [again[index] for index in range(20)] == before
    again[30]
    assert again.bad_images.names() == ['folder/4.jpg', 'folder/17.jpg', 'folder/killed', 'folder/30.jpg']
    with pytest.raises(ValueError, match='4 of 40 images'):
        seeded(path, max_share=0.09)[4]


@pytest.mark.parametrize('name', ['a\tb', 'a\nb', 'a\\nb', 'ä', 'a\udcff', ' a ', '\u2028', '\r'])
def test_any_file_name_is_one_line_and_counts_once(tmp_path, name):
    bad = BadImages(2, tmp_path / 'list', 1.0)
    for _ in range(2):
        bad.add(BadImage(name, 'two\nlines'))
    bad.add(BadImage('other', 'x'))
    assert len(bad.names()) == 2 and (tmp_path / 'list').read_bytes().count(b'\n') == 2


@pytest.mark.parametrize(
    'error, words',
    [
        (BadImage('a', 'broken'), '100 images tried for sample 1 cannot be read, the last: a cannot'),
        (KeyError('missing'), 'missing'),
    ],
)
def test_a_data_set_without_any_whole_image_ends_and_other_mistakes_are_no_bad_images(tmp_path, error, words):
    def fail(results):
        raise error

    dataset = Pictures('', serialize_data=False, pipeline=[fail])
    with pytest.raises((ValueError, KeyError), match=words) as raised:
        SeededDataset(dataset, tmp_path / 'list', 1.0)[SeededIndex(1, 2**64 - 1)]
    assert isinstance(raised.value, KeyError) == isinstance(error, KeyError)


def test_bad_images_pass_between_processes():
    error = pickle.loads(pickle.dumps(BadImage('a.jpg', 'empty')))
    assert (error.name, error.reason, str(error)) == ('a.jpg', 'empty', 'a.jpg cannot be read as an image: empty')
    assert str(BadImage('Caught BadImage in a worker')) == 'Caught BadImage in a worker'


def add_all(path: str, start) -> None:
    bad = BadImages(200, path, 1.0)
    start.wait(60)
    for index in range(100):
        bad.add(BadImage(f'{index}.jpg', 'reason ' * 20))


def test_processes_share_the_list(tmp_path):
    start = forkserver.Barrier(4)
    processes = [
        forkserver.Process(target=add_all, args=(str(tmp_path / 'list'), start), daemon=True) for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    lines = (tmp_path / 'list').read_text().splitlines()
    assert len(lines) == len(set(lines)) == 100
    assert all(re.fullmatch(r'\d+\.jpg\t(reason ){19}reason', line) for line in lines)


def test_images_in_shards_are_named_by_their_shard(tmp_path):
    shards = write_shards(tmp_path / 'shards')
    content = shards[1].read_bytes()
    start = content.find(jpeg(5))
    shards[1].write_bytes(content[:start] + bytes(200) + content[start + 200 :])
    dataset = build_shards(shards, pipeline=[LoadImage(imdecode_backend='simplejpeg'), draw])
    data = SeededDataset(dataset, tmp_path / 'list', 0.5)
    assert data[SeededIndex(5, 3)][0] != dataset[4][0] and data.bad_images.names() == [f'{shards[1]}/000005.jpg']
    with open(shards[2], 'r+b') as file:
        file.truncate(2000)
    assert data[SeededIndex(9, 3)][0] and data.bad_images.names()[1].startswith(f'{shards[2]}/(image at byte ')


@pytest.mark.parametrize('num_workers', [0, 2])
def test_without_replacement_an_error_names_the_file(num_workers):
    """As in validation and tests."""
    dataset = Pictures('', serialize_data=False, pipeline=[LoadImage(), draw], test_mode=True)
    with pytest.raises(BadImage, match='folder/4.jpg cannot be read as an image: the file is empty'):
        load(dataset, num_workers)


def test_the_list_needs_no_posix_locks_but_a_share(tmp_path, monkeypatch):
    """Windows has no fcntl."""
    with pytest.raises(ValueError, match='max_share must lie in 0 to 1, got 2'):
        BadImages(3, 'list', 2)
    monkeypatch.setitem(sys.modules, 'fcntl', None)
    bad = BadImages(2, tmp_path / 'list', 1.0)
    bad.add(BadImage('a.jpg', 'broken'))
    assert bad.names() == ['a.jpg']


def test_no_module_imports_a_posix_only_module_at_its_top():
    posix_only = {'fcntl', 'grp', 'posix', 'pty', 'pwd', 'resource', 'syslog', 'termios', 'tty'}
    imported = set()
    for path in Path(beit_mm.__file__).parent.rglob('*.py'):
        for node in ast.parse(path.read_text()).body if '.mim' not in path.parts else ():
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            imported.update(name.partition('.')[0] for name in names)
    assert 'torch' in imported and not imported & posix_only
