"""The images that files, folders and arrays stand for, and where their results go."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beit_mm.apis.images import find_images
from beit_mm.apis.writing import result_files


def touch(folder, *names: str):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture
def folder(tmp_path):
    return touch(
        tmp_path, 'b/2.JPG', 'b/10.png', 'a/2.jpg', 'a/deep/er/x.tiff', 'a/notes.txt', '.hidden/y.jpg', 'a/.z.jpg'
    )


def result_paths(images) -> list:
    return [image.result_path for image in images]


def test_a_folder_is_searched_to_the_bottom_in_order_without_hidden_files(folder):
    found = find_images(folder)
    assert result_paths(found) == ['a/2.jpg', 'a/deep/er/x.tiff', 'b/10.png', 'b/2.JPG']
    assert [image.name for image in found] == [str(folder / path) for path in result_paths(found)]
    os.symlink(folder, folder / 'a' / 'circle')
    assert find_images(folder) == found
    os.symlink(folder / 'b', folder / 'a' / 'link')
    assert 'a/link/2.JPG' in result_paths(find_images(folder))


def test_a_folder_comes_before_names_that_only_begin_like_it(tmp_path):
    touch(tmp_path, 'a-b/1.jpg', 'a/1.jpg', 'a.jpg')
    assert result_paths(find_images(tmp_path)) == ['a/1.jpg', 'a-b/1.jpg', 'a.jpg']


def test_names_are_as_given(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert [image.name for image in find_images(['b', 'a/2.jpg'])] == ['b/10.png', 'b/2.JPG', 'a/2.jpg']


@pytest.mark.parametrize(
    'given, expected',
    [
        (['a/2.jpg'], ['2.jpg']),
        (['a', 'b'], ['a/2.jpg', 'a/deep/er/x.tiff', 'b/10.png', 'b/2.JPG']),
        (['b/2.JPG', 'a/2.jpg'], ['b/2.JPG', 'a/2.jpg']),
        (['a/deep', 'a/2.jpg'], ['deep/er/x.tiff', '2.jpg']),
    ],
)
def test_results_go_where_the_images_are_below_their_shared_folder(given, expected, folder):
    assert result_paths(find_images([folder / path for path in given])) == expected


def test_results_keep_the_suffix_where_images_differ_in_nothing_else(tmp_path):
    touch(tmp_path, 'a.jpg', 'a.png', 'b.v2.jpg', 'c.jpg', 'c.jpg.png', 'c.png')
    files = result_files(find_images(tmp_path), Path('out'), '.png')
    assert [file.name for file in files.values()] == [
        'a.jpg.png',
        'a.png.png',
        'b.v2.png',
        'c.jpg.png',
        'c.jpg.png.png',
        'c.png.png',
    ]


def test_a_folder_that_cannot_be_read_is_an_error(folder, monkeypatch):
    scan = os.scandir

    def refuse(path):
        if str(path).endswith('deep'):
            raise PermissionError(13, 'Permission denied', path)
        return scan(path)

    monkeypatch.setattr(os, 'scandir', refuse)
    with pytest.raises(PermissionError, match='deep'):
        find_images(folder)


def test_arrays_and_pillow_images_are_named_by_their_index(folder):
    array, picture = np.zeros((4, 4, 3), np.uint8), Image.new('L', (4, 4))
    found = find_images([folder / 'b', array, picture])
    assert [image.name for image in found[2:]] == ['image_1', 'image_2']
    assert found[2].source is array and found[3].source is picture


def test_what_is_no_image_is_refused(folder):
    with pytest.raises(FileNotFoundError, match='an image must be a file or folder that exists, got .*/c.jpg'):
        find_images(folder / 'c.jpg')
    with pytest.raises(ValueError, match=r'a must hold images \(.jpg, .*\), got none'):
        find_images(touch(folder / 'none', 'a/notes.txt') / 'a')
    with pytest.raises(ValueError, match='there must be at least one image, got an empty list'):
        find_images([])
    with pytest.raises(ValueError, match='an image must be a file, a folder, an array or a Pillow image, got int'):
        find_images([3])
