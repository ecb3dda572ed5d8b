"""Checkpoint files survive kills, full disks and flipped bits."""

import io
import os
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.fileio import get_file_backend
from support.tools import forkserver

from beit_mm.checkpoint.files import BACKEND, find_damage, find_newest, POINTER, remove_partial, write_pointer
from beit_mm.errors import UserError
from beit_mm.files import PARTIAL

NUM_KILLS = 12


def encoded(step: int, size: int = 1000) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(step=step, weights=torch.full((size,), float(step)), meta=dict(epoch=0, iter=step)), buffer)
    return buffer.getvalue()


def backend():
    return get_file_backend(backend_args=dict(backend=BACKEND))


def step_of(path: Path) -> int:
    return torch.load(path, weights_only=True)['step']


@pytest.fixture
def path(tmp_path):
    """A checkpoint of step 1."""
    backend().put(encoded(1), tmp_path / 'epoch_1.pth')
    return tmp_path / 'epoch_1.pth'


@pytest.mark.parametrize('call', range(1, 4))
def test_an_interrupted_replacement_leaves_the_old_file_or_the_new_one(call, path, monkeypatch):
    """At every call of the operating system that puts something in place."""
    calls = []

    def interrupt(*args, run):
        calls.append(0)
        if len(calls) == call:
            raise KeyboardInterrupt
        return run(*args)

    for name in ('fsync', 'replace'):
        monkeypatch.setattr(os, name, lambda *args, run=getattr(os, name): interrupt(*args, run=run))
    with pytest.raises(KeyboardInterrupt):
        backend().put(encoded(2), path)
    monkeypatch.undo()
    assert find_damage(path) is None and step_of(path) in (1, 2)
    assert not list(path.parent.glob(f'.*{PARTIAL}*'))


def test_removed_files_stay_until_they_are_released(tmp_path):
    files, paths = backend(), [tmp_path / f'epoch_{step}.pth' for step in (1, 2, 3)]
    for step, path in enumerate(paths):
        files.put(encoded(step), path)
        files.remove(path)
    assert all(path.is_file() for path in paths)
    files.release(tmp_path, 'epoch_.*', keep=['epoch_3.pth'])
    assert [path.name for path in sorted(tmp_path.iterdir())] == ['epoch_3.pth']


@pytest.mark.parametrize('limit', [0, 1, 1000, 4000])
def test_a_disk_that_is_full_at_any_point_leaves_the_file_before(limit, path):
    """The operating system refuses to write beyond so many bytes of a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OSError):
            backend().put(encoded(2), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert find_newest(path.parent) == path and step_of(path) == 1
    assert not list(path.parent.glob(f'.*{PARTIAL}*'))


def test_one_flipped_bit_is_seen_when_it_is_written_and_when_it_is_read(path, capsys):
    newest, whole = path.with_name('epoch_2.pth'), encoded(2)
    # The padding and names between the parts of a zip file have no checksum.
    start = whole.index(np.float32(2).tobytes() * 100)
    for bit in np.random.default_rng(0).integers(8 * start, 8 * (start + 4000), 50):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(OSError, match='epoch_2.pth reads back differently than it was written'):
            backend().put(bytes(damaged), newest)
        assert not newest.exists()
        newest.write_bytes(damaged)
        assert find_newest(path.parent) == path, bit
        assert 'passed over: ' in capsys.readouterr().out
        newest.unlink()
    newest.write_bytes(whole)
    assert find_newest(path.parent) == newest


BROKEN = {
    'garbage': lambda path: path.write_bytes(b'garbage' * 100),
    'empty': lambda path: path.write_bytes(b''),
    'cut': lambda path: path.write_bytes(b'PK\3\4'),
    'other bytes': lambda path: path.write_bytes(bytes(range(256)) * 40),
    'two lines': lambda path: path.write_text('none\n\033[31mred'),
    'weights': lambda path: torch.save(dict(state_dict=dict(weight=torch.ones(3))), path),
    'gone': lambda path: None,
    'pipe': os.mkfifo,
    'link to nothing': lambda path: path.symlink_to('nothing'),
    'link to itself': lambda path: path.symlink_to(path),
    'folder': Path.mkdir,
    'device': lambda path: path.symlink_to('/dev/zero'),
}


def save_run(folder: Path, **iterations: int) -> None:
    """Checkpoints of a run of four steps an epoch, the first one written last, as by a clock that was set back."""
    folder.mkdir(exist_ok=True, parents=True)
    for age, (name, iteration) in enumerate(iterations.items()):
        torch.save(dict(meta=dict(iter=iteration, epoch=iteration // 4)), folder / f'{name}.pth')
        os.utime(folder / f'{name}.pth', (time.time() - age,) * 2)


@pytest.mark.parametrize(
    'pointer, hook, names',
    [
        (None, {}, 'epoch_10 iter_38 epoch_9 iter_7'),
        (None, dict(filename_tmpl='{'), 'epoch_10 iter_38 epoch_9 iter_7'),
        (None, dict(filename_tmpl='m_{:06d}.pth'), 'm_000011 epoch_10 iter_38 epoch_9 iter_7'),
        # An older run of more iterations lies there, too.
        ('epoch_9', {}, 'epoch_9 iter_7'),
        ('iter_38', {}, 'iter_38 epoch_9 iter_7'),
        ('iter_7', {}, 'iter_7'),
        ('m_000011', {}, 'm_000011 epoch_10 iter_38 epoch_9 iter_7'),
    ],
)
def test_the_pointer_decides_and_without_it_the_iterations(pointer, hook, names, tmp_path):
    """Each time the newest is damaged, the one before it is taken."""
    run = dict(best_accuracy_epoch_9=36, m_000011=44, epoch_9=36, epoch_10=40, iter_38=38, iter_7=7)
    save_run(tmp_path, **run)
    if pointer:
        write_pointer(tmp_path, f'/elsewhere/{pointer}.pth')
    for name in names.split():
        assert find_newest(tmp_path, hook).stem == name
        (tmp_path / f'{name}.pth').write_bytes(b'damaged')
    with pytest.raises(
        UserError, match=f'no .* is whole: .*{names.split()[-1]}.pth is no file of .*; for a new training'
    ):
        find_newest(tmp_path, hook)  # not begun anew


@pytest.mark.parametrize('form', BROKEN)
def test_what_is_no_checkpoint_is_passed_over_by_name(form, tmp_path, capsys):
    """As the newest one of two patterns, and as `last_checkpoint`, without which no run begins anew either."""
    save_run(tmp_path, epoch_1=4, iter_3=3)
    for name in ('epoch_2.pth', 'iter_9.pth'):
        BROKEN[form](tmp_path / name)
    write_pointer(tmp_path, 'iter_9.pth')
    assert find_newest(tmp_path).name == 'epoch_1.pth'
    assert f'passed over: {tmp_path}/iter_9.pth' in capsys.readouterr().out or form == 'gone'
    (tmp_path / POINTER).unlink()
    BROKEN[form](tmp_path / POINTER)
    assert find_newest(tmp_path).name == 'epoch_1.pth'
    output = capsys.readouterr().out
    assert output.startswith('passed over: ') or form == 'gone' and output == ''
    assert '\033' not in output
    if form != 'gone':
        for name in ('epoch_1.pth', 'iter_3.pth'):
            (tmp_path / name).unlink()
        with pytest.raises(UserError, match='no checkpoint of .* is whole'):
            find_newest(tmp_path)


def test_checkpoints_of_another_folder_are_found(tmp_path):
    elsewhere, work_dir = tmp_path / 'elsewhere' / 'run', tmp_path / 'run'
    work_dir.mkdir()
    assert find_newest(work_dir) is None and find_newest(tmp_path / 'none') is None
    save_run(elsewhere, epoch_1=4)
    hook = dict(out_dir=str(elsewhere.parent))
    assert find_newest(work_dir) is None and find_newest(work_dir, hook) == elsewhere / 'epoch_1.pth'
    write_pointer(work_dir, str(elsewhere / 'epoch_1.pth'))
    assert find_newest(work_dir) == elsewhere / 'epoch_1.pth'
    save_run(work_dir, epoch_1=4)  # a copy of the run goes on from its own file, unless the hook writes elsewhere
    assert find_newest(work_dir) == work_dir / 'epoch_1.pth'
    assert find_newest(work_dir, hook) == elsewhere / 'epoch_1.pth'


def save_for_ever(folder: str, connection) -> None:
    """Keeps the two newest checkpoints, and sends every step that is safe."""
    files, step = backend(), 0
    while True:
        step += 1
        files.put(encoded(step, size=300000), Path(folder) / f'iter_{step}.pth')
        write_pointer(Path(folder), f'{folder}/iter_{step}.pth')
        connection.send(step)
        if step > 2:
            files.remove(Path(folder) / f'iter_{step - 2}.pth')
            files.release(Path(folder), 'iter_.*')


@pytest.mark.parametrize('kill', range(NUM_KILLS))
def test_a_kill_at_any_moment_leaves_the_newest_that_was_safe(kill, tmp_path):
    """SIGKILL after a random while; every second one while a file is being written."""
    receiver, sender = forkserver.Pipe(duplex=False)
    process = forkserver.Process(target=save_for_ever, args=(str(tmp_path), sender), daemon=True)
    process.start()
    generator, safe = np.random.default_rng(kill), 0
    while safe < 3:
        safe = receiver.recv()
    time.sleep(generator.uniform(0, 0.05))
    if kill % 2:
        while not list(tmp_path.glob(f'.iter_*{PARTIAL}')):
            pass
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    while receiver.poll():
        safe = receiver.recv()
    newest = find_newest(tmp_path)
    assert step_of(newest) >= safe and newest.name == f'iter_{step_of(newest)}.pth'
    whole = [path for path in tmp_path.glob('iter_*.pth') if find_damage(path) is None]
    assert len(whole) >= 2 and set(whole) == set(tmp_path.glob('iter_*.pth'))
    remove_partial(tmp_path)
    assert not list(tmp_path.glob(f'.*{PARTIAL}*'))
