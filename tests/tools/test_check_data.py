"""tools/misc/check_data.py: the four layouts on small stand-ins, and mistakes sown into them."""

import hashlib
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from mmpretrain.datasets import CIFAR100
from PIL import Image
from support import ROOT
from support.data import write_ade20k, write_all, write_pixels

from beit_mm.checks import data_folders, data_layouts
from beit_mm.checks.data_folders import Finding, OK, WARNING, WRONG
from beit_mm.checks.data_layouts import LAYOUTS


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('layouts')
    write_all(folder)
    return folder / 'data'


@pytest.fixture
def ade20k(tmp_path) -> Path:
    write_ade20k(tmp_path / 'ade')
    return tmp_path / 'ade'


@pytest.fixture
def imagenet(tmp_path) -> Path:
    """Two classes of two images each, in both splits."""
    for split in ('train', 'val'):
        for name in ('n01', 'n02'):
            for index in range(2):
                write_pixels(
                    tmp_path / 'imagenet' / split / name / f'{name}_{index}.JPEG', np.random.default_rng(0), (8, 8, 3)
                )
    return tmp_path / 'imagenet'


def check(layout: str, root: Path, num_opened: int = 100) -> list[Finding]:
    return list(LAYOUTS[layout].check(root, num_opened))


def wrong(layout: str, root: Path, num_opened: int = 100) -> Finding:
    """The only finding that is wrong, apart from the number of classes of ImageNet-1k."""
    (found,) = [
        finding
        for finding in check(layout, root, num_opened)
        if finding.verdict == WRONG and 'expected 1,000 class folders' not in finding.fact
    ]
    return found


def run_tool(*arguments: object) -> int:
    before, sys.argv = sys.argv, ['check_data.py', *map(str, arguments)]
    try:
        runpy.run_path(str(ROOT / 'tools' / 'check_data.py'), run_name='__main__')
    except SystemExit as end:
        return end.code
    finally:
        sys.argv = before
    return 0


@pytest.mark.parametrize('layout, warnings', [('imagenet', 4), ('imagenet22k', 2), ('ade20k', 2)])
def test_stand_ins_have_the_layout_and_other_numbers(data, monkeypatch, capsys, layout, warnings):
    monkeypatch.chdir(data.parent)
    assert run_tool(layout) == 0, 'where the recipes look, without any argument'
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith('warning') for line in lines) == warnings
    assert all('expected' in line and 'got' in line for line in lines if line.startswith('warning'))
    assert lines[-1] == f'{layout}: 0 wrong, {warnings} warnings in {len(lines) - 1} checks'


def test_the_published_numbers_are_no_warning(monkeypatch, imagenet):
    """Numbers of the data sets' own pages, on counts as scanned."""
    published = {'train': (1000, 1_281_167), 'val': (1000, 50_000)}

    def scan(folder, num_sampled):
        classes, images = published[folder.name]
        counts = {f'n{label:08}': images // classes for label in range(classes)}
        counts['n00000000'] += images % classes
        return data_layouts.ClassScan(counts, [], [])

    monkeypatch.setattr(data_layouts, 'scan_classes', scan)
    assert {finding.verdict for finding in check('imagenet', imagenet)} == {OK}
    published['train'] = 21_841, 14_197_087
    shutil.rmtree(imagenet / 'val')
    assert {finding.verdict for finding in check('imagenet22k', imagenet)} == {OK}


def test_a_missing_folder_and_one_that_lies_deeper(tmp_path, imagenet):
    found = check('imagenet', tmp_path / 'nowhere')
    assert [finding.verdict for finding in found] == [WRONG, WRONG]
    assert found[0].place == tmp_path / 'nowhere' / 'train' and 'expected a folder, got none' in found[0].fact
    assert all(f'give {imagenet} as ROOT' in finding.fact for finding in check('imagenet', tmp_path))


def test_an_empty_split(imagenet):
    for path in (imagenet / 'train').rglob('*.JPEG'):
        path.unlink()
    assert wrong('imagenet', imagenet).fact == 'expected images in class folders, got none'


def test_validation_images_beside_each_other_as_in_the_archive(imagenet):
    shutil.rmtree(imagenet / 'val')
    for index in (1, 2):
        write_pixels(imagenet / 'val' / f'ILSVRC2012_val_0000000{index}.JPEG', np.random.default_rng(0), (8, 8, 3))
    fact = wrong('imagenet', imagenet).fact
    assert '2 images beside each other, the first ILSVRC2012_val_00000001.JPEG' in fact and 'meta/val.txt' in fact
    (imagenet / 'meta').mkdir()
    (imagenet / 'meta' / 'val.txt').write_text('ILSVRC2012_val_00000001.JPEG 65\nILSVRC2012_val_00000002.JPEG 999\n')
    found = [finding for finding in check('imagenet', imagenet) if 'val' in finding.place.name]
    assert [finding.verdict for finding in found] == [WARNING, OK, OK]  # images listed, classes, opened


def test_lines_of_a_list_that_name_no_image(imagenet):
    (imagenet / 'meta').mkdir()
    (imagenet / 'meta' / 'val.txt').write_text('n01/n01_0.JPEG 0\nn01/gone.JPEG 0\n')
    assert 'could not open 1' in wrong('imagenet', imagenet).fact
    (imagenet / 'meta' / 'val.txt').write_text('n01/n01_0.JPEG zero\n')
    assert 'must be a path, a space and a class number' in wrong('imagenet', imagenet).fact


def test_class_archives_that_are_still_packed(imagenet):
    shutil.rmtree(imagenet / 'train')
    (imagenet / 'train').mkdir()
    (imagenet / 'train' / 'n01440764.tar').write_bytes(b'')
    assert '1 archives, the first n01440764.tar; unpack each' in wrong('imagenet', imagenet).fact


def test_other_class_folders_in_validation(imagenet):
    (imagenet / 'val' / 'n02').rename(imagenet / 'val' / 'n03')
    assert 'n02 is in' in wrong('imagenet', imagenet).fact and '(2 differ)' in wrong('imagenet', imagenet).fact
    assert 'n02 is in' in wrong('imagenet22k', imagenet).fact


def test_another_number_of_classes_is_wrong_where_names_are_fixed(imagenet):
    verdicts = {
        layout: [finding.verdict for finding in check(layout, imagenet) if 'class folders, got' in finding.fact]
        for layout in ('imagenet', 'imagenet22k')
    }
    assert verdicts == {'imagenet': [WRONG, WRONG], 'imagenet22k': [WARNING]}


def test_an_image_that_does_not_open(imagenet):
    bad = imagenet / 'train' / 'n02' / 'n02_1.JPEG'
    bad.write_bytes(bad.read_bytes()[:50])
    assert f'could not open 1: {bad} cannot be read' in wrong('imagenet', imagenet).fact
    assert all(
        finding.verdict != WRONG or 'class folders' in finding.fact
        for finding in check('imagenet', imagenet, num_opened=0)
    )


def test_the_opened_images_are_the_same_in_every_run(imagenet, monkeypatch):
    opened = []
    monkeypatch.setattr(data_folders, 'read_image', opened.append)
    for _ in range(2):
        check('imagenet', imagenet, num_opened=3)
    assert len(opened) == 12 and opened[:6] == opened[6:] and len(set(opened)) == 6


def test_cifar100_by_its_checksums(data, monkeypatch, tmp_path):
    root = data / 'cifar100'
    assert [finding.verdict for finding in check('cifar100', root)] == [WRONG] * 3, 'a stand-in is not the real one'
    sums = {
        name: hashlib.md5((root / 'cifar-100-python' / name).read_bytes()).hexdigest()
        for name in ('train', 'test', 'meta')
    }
    monkeypatch.setattr(CIFAR100, 'train_list', [['train', sums['train']]])
    monkeypatch.setattr(CIFAR100, 'test_list', [['test', sums['test']]])
    monkeypatch.setattr(CIFAR100, 'meta', dict(CIFAR100.meta, md5=sums['meta']))
    assert [finding.verdict for finding in check('cifar100', root)] == [OK] * 3
    copy = shutil.copytree(root, tmp_path / 'cifar100')
    (copy / 'cifar-100-python' / 'test').unlink()
    assert wrong('cifar100', copy).fact.startswith('expected a file, got none')
    shutil.rmtree(copy / 'cifar-100-python')
    (copy / 'cifar-100-python.tar.gz').write_bytes(b'')
    assert 'unpack it: tar -xf' in wrong('cifar100', copy).fact


def test_label_maps_that_are_missing_or_left_over(ade20k):
    (ade20k / 'annotations' / 'training' / 'ADE_train_00000003.png').unlink()
    assert 'got none for 1, the first ADE_train_00000003.png' in wrong('ade20k', ade20k).fact
    (ade20k / 'images' / 'validation' / 'ADE_validat_00000001.jpg').unlink()
    facts = [finding.fact for finding in check('ade20k', ade20k) if finding.verdict == WARNING]
    assert any('expected an image for every label map' in fact for fact in facts)


@pytest.mark.parametrize(
    'size, value, told',
    [
        ((100, 80), 151, 'expected labels 0 (unlabelled) to 150, got 151'),
        ((100, 80), 255, 'expected labels 0 (unlabelled) to 150, got 255'),
        ((90, 80), 1, 'must have the size of its image ADE_train_00000002.jpg, 80 x 100, got 80 x 90'),
    ],
)
def test_label_maps_that_do_not_fit(ade20k, size, value, told):
    path = ade20k / 'annotations' / 'training' / 'ADE_train_00000002.png'
    Image.new('L', size, value).save(path)
    found = wrong('ade20k', ade20k)
    assert found.place == path and told in found.fact
    assert all(finding.verdict != WRONG for finding in check('ade20k', ade20k, num_opened=0))


def test_mistakes_end_in_exit_code_1(tmp_path, capsys):
    assert run_tool('ade20k', tmp_path / 'nowhere', '--open', 1) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[-1] == 'ade20k: 4 wrong, 0 warnings in 4 checks'
    assert run_tool('ade20k', tmp_path, '--open', -1) == 2
    assert 'must be 0 or more, got -1' in capsys.readouterr().err
