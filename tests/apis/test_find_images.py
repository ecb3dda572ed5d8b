"""What stands for images: their names, their order and where their results belong."""

import os

import numpy as np
import pytest
from PIL import Image

from beit_mm.apis.sources import find_images, result_names


@pytest.fixture
def folder(tmp_path):
    for name in ('b/2.JPG', 'b/10.png', 'a/2.jpg', 'a/deep/er/x.tiff', 'a/notes.txt', '.hidden/y.jpg', 'a/.z.jpg'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def places(images) -> list:
    return [str(image.place) for image in images]


def test_a_folder_is_searched_to_the_bottom_sorted_without_hidden_files(folder):
    found = find_images(folder)
    assert places(found) == ['a/2.jpg', 'a/deep/er/x.tiff', 'b/10.png', 'b/2.JPG']
    assert [image.name for image in found] == [str(folder / place) for place in places(found)]
    os.symlink(folder / 'b', folder / 'a' / 'link')
    assert 'a/link/2.JPG' in places(find_images(folder))


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
def test_results_lie_as_the_images_below_their_shared_folder(given, expected, folder):
    assert places(find_images([folder / one for one in given])) == expected


def test_results_of_equal_stems_keep_the_suffix(tmp_path):
    for name in ('a.jpg', 'a.png', 'b.v2.jpg', 'c.jpg', 'c.jpg.png', 'c.png'):
        (tmp_path / name).touch()
    assert list(result_names(find_images(tmp_path), '.png').values()) == [
        'a.jpg.png',
        'a.png.png',
        'b.v2.png',
        'c.jpg.png',
        'c.jpg.png.png',
        'c.png.png',
    ]


def test_arrays_pictures_and_addresses_have_names(folder):
    array, picture = np.zeros((4, 4, 3), np.uint8), Image.new('L', (4, 4))
    found = find_images([folder / 'b', array, picture, 'https://example.org/photos/cat.jpg?size=9'])
    assert [image.name for image in found[2:]] == ['image_1', 'image_2', 'https://example.org/photos/cat.jpg?size=9']
    assert found[2].source is array and found[3].source is picture
    assert places(found[3:]) == ['image_2.png', 'example.org/photos/cat.jpg']
    assert [image.name for image in find_images(array)] == ['image_0']


def test_places_of_addresses_stay_inside_and_apart(folder):
    found = find_images(
        [
            'https://me:secret@example.org/../../a.jpg?id=1',
            'https://example.org/a.jpg?id=2',
            's3://../',
            folder / 'a' / '2.jpg',
            Image.new('L', (4, 4)),
        ]
    )
    assert places(found) == ['example.org/a.jpg', 'example.org/a_2.jpg', 'image', '2.jpg', 'image_4.png']
    (folder / 'image_0.png').touch()
    assert places(find_images([Image.new('L', (4, 4)), folder / 'image_0.png'])) == ['image_0_2.png', 'image_0.png']


def test_a_link_that_leads_in_a_circle_ends(folder):
    os.symlink(folder, folder / 'a' / 'circle')
    assert places(find_images(folder)) == ['a/2.jpg', 'a/deep/er/x.tiff', 'b/10.png', 'b/2.JPG']


def test_a_folder_comes_before_names_that_only_begin_like_it(tmp_path):
    for name in ('a-b/1.jpg', 'a/1.jpg', 'a.jpg'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert places(find_images(tmp_path)) == ['a/1.jpg', 'a-b/1.jpg', 'a.jpg']


def test_mistakes_are_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r'must hold images \(\.jpg, .*\), got none'):
        find_images(tmp_path)
    with pytest.raises(FileNotFoundError, match='a file or folder that exists, got .*nowhere.jpg'):
        find_images([tmp_path / 'nowhere.jpg'])
    with pytest.raises(ValueError, match='at least one image, got an empty list'):
        find_images([])
    with pytest.raises(ValueError, match='an image must be a file, .* got int'):
        find_images([3])
