"""A file appears whole, or what was there stays."""

import pytest
import torch

from beit_mm.checkpoint.atomic_write import whole_file


def test_a_file_appears_when_it_is_complete_and_replaces_the_one_before(tmp_path):
    path = tmp_path / 'new' / 'weights.pt2'
    for content in ('first', 'second'):
        with whole_file(path) as beside:
            beside.write_text(content)
            assert beside.suffix == '.pt2' and beside.parent == path.parent and beside.name.startswith('.')
            assert not path.exists() or path.read_text() == 'first'
        assert path.read_text() == content and list(path.parent.iterdir()) == [path]


def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / 'report.html'
    path.write_text('before')
    with pytest.raises(OSError, match='disk full'), whole_file(path) as beside:
        beside.write_text('half')
        raise OSError('disk full')
    assert path.read_text() == 'before' and list(tmp_path.iterdir()) == [path]


def test_a_name_without_a_suffix_serves_torch_too(tmp_path):
    with whole_file(tmp_path / 'OUT') as beside:
        torch.save(dict(weight=torch.ones(1)), beside)
    assert torch.load(tmp_path / 'OUT')['weight'] == 1 and len(list(tmp_path.iterdir())) == 1
