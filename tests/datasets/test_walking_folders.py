"""Folders searched along links, which may lead in a circle, and folders that cannot be read."""

import os

import pytest

from beit_mm.datasets.folders import identify, walk_folders


def test_links_are_followed_but_not_in_a_circle(tmp_path):
    (tmp_path / 'a' / 'b').mkdir(parents=True)
    (tmp_path / 'a' / 'b' / 'x.jpg').touch()
    os.symlink(tmp_path, tmp_path / 'a' / 'circle')
    os.symlink(tmp_path / 'a' / 'b', tmp_path / 'link')
    found = sorted(
        os.path.join(os.path.relpath(parent, tmp_path), name)
        for parent, _, names in walk_folders(tmp_path)
        for name in names
    )
    assert found == ['a/b/x.jpg', 'link/x.jpg']


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    (tmp_path / 'closed').mkdir()
    scan = os.scandir

    def refuse(path):
        if str(path).endswith('closed'):
            raise PermissionError(13, 'Permission denied', path)
        return scan(path)

    monkeypatch.setattr(os, 'scandir', refuse)
    with pytest.raises(PermissionError, match='closed'):
        list(walk_folders(tmp_path))


def test_a_link_is_what_it_leads_to(tmp_path):
    (tmp_path / 'x').touch()
    (tmp_path / 'y').touch()
    os.symlink('x', tmp_path / 'link')
    assert identify(tmp_path / 'link') == identify(tmp_path / 'x') != identify(tmp_path / 'y')
