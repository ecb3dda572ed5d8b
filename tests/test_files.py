"""A file appears complete, or what was there stays; a folder has one holder."""

import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from support.tools import forkserver, tool

from beit_mm.files import atomic_write, hold


@pytest.mark.parametrize('name, suffix', [('weights.pt2', '.pt2'), ('OUT', '.partial'), ('epoch_1.pth', '.partial')])
def test_a_file_appears_when_it_is_complete_and_replaces_the_old_one(name, suffix, tmp_path):
    path = tmp_path / 'new' / name
    for content in (1, 2):
        with atomic_write(path) as temporary:
            torch.save(content, temporary)
            assert temporary.suffix == suffix
            assert temporary.parent == path.parent and temporary.name.startswith('.')
            assert not path.exists() or torch.load(path) == 1
            assert content == 2 or not list(path.parent.glob('*.pth'))  # which also finds hidden files
        assert torch.load(path) == content and list(path.parent.iterdir()) == [path]


def test_a_folder_appears_when_it_is_complete(tmp_path):
    for fails in (True, False):
        with pytest.raises(OSError) if fails else pytest.MonkeyPatch.context():
            with atomic_write(tmp_path / 'model') as temporary:
                temporary.mkdir()
                (temporary / 'config.json').write_text('{}')
                if fails:
                    raise OSError('disk full')
        assert [path.name for path in tmp_path.rglob('*')] == ([] if fails else ['model', 'config.json'])


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / 'report.html'
    path.write_text('before')
    with pytest.raises(OSError, match='disk full'), atomic_write(path) as temporary:
        temporary.write_text('half')
        raise OSError('disk full')
    assert path.read_text() == 'before' and list(tmp_path.iterdir()) == [path]


def test_an_error_of_the_system_names_the_file_that_was_asked_for(tmp_path):
    path = tmp_path / 'report.html'
    with pytest.raises(IsADirectoryError) as info, atomic_write(path) as temporary:
        temporary.mkdir()
        open(temporary, 'w')
    assert info.value.filename == str(path) and str(path) in str(info.value) and '.partial' not in str(info.value)


def test_hosts_and_threads_never_share_a_temporary_file(tmp_path, monkeypatch):
    """Two nodes may have processes of the same number."""

    def temporary_name(host=None):
        if host:
            monkeypatch.setattr(socket, 'gethostname', lambda: host)
        with atomic_write(tmp_path / 'run.json') as temporary:
            temporary.touch()
            return temporary

    with ThreadPoolExecutor(1) as pool:
        names = [temporary_name(), pool.submit(temporary_name).result(), *map(temporary_name, ('node1', 'node2'))]
    assert len(set(names)) == 4


def hold_for_ever(folder) -> None:
    """As a training does, with a loader's worker."""
    with hold(folder):
        child = os.fork()
        (folder / str(child or 'child')).touch()
        time.sleep(600)


def test_a_folder_is_held_until_a_kill_and_a_second_training_is_told_by_whom(tmp_path):
    process = forkserver.Process(target=hold_for_ever, args=(tmp_path,))
    process.start()
    while len(list(tmp_path.iterdir())) < 3:  # the lock and a file by each of both
        time.sleep(0.05)
    (child,) = [int(path.name) for path in tmp_path.iterdir() if path.name.isdecimal()]
    try:
        output = tool('train', 'configs/demo/tokenizer.py', '--work-dir', tmp_path, ok=False)
        told = (
            f'error: {tmp_path} is the work directory of a run on {socket.gethostname()}, process {process.pid}, since'
        )
        assert told in output and not (tmp_path / 'traceback.txt').exists()
        process.kill()
        process.join()
        for _ in range(2):  # again and again
            with hold(tmp_path), hold(tmp_path / 'other'):
                pass
        with pytest.raises(ZeroDivisionError), hold(tmp_path):
            raise ZeroDivisionError
    finally:
        os.kill(child, signal.SIGKILL)
