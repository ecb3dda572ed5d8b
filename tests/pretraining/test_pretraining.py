"""`beit-mm pretrain`: choices from measured steps, configs that train, a score, and going on."""

import math
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
from support.data import jpeg
from support.processes import together
from support.tools import leave_text_as_it_is
from test_folder import write_images

from beit_mm.__main__ import main
from beit_mm.checks import check_config
from beit_mm.config.flatten import drop_scope_stamps
from beit_mm.config.reading import read_config
from beit_mm.errors import UserError
from beit_mm.pretraining import plan, Pretraining, resume, run
from beit_mm.pretraining.configs import Writer
from beit_mm.pretraining.folder import look_at
from beit_mm.pretraining.labels import read_labels
from beit_mm.pretraining.measuring import measure_step
from beit_mm.pretraining.plan import candidates, choose, STEPS


@pytest.fixture
def photos(tmp_path, monkeypatch) -> str:
    """Twelve labelled images in two classes, in a folder of the working directory."""
    monkeypatch.chdir(tmp_path)
    for index in range(12):
        folder = Path('photos', 'cat' if index % 2 else 'dog')
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f'{index}.jpg').write_bytes(jpeg(index))
    return 'photos'


def writer(path: str, labels: str | None = None) -> Writer:
    folder = look_at(path, 60)
    known = read_labels(labels, folder, Path('out')) if labels else None
    return Writer(Path('out'), folder, known, candidates(folder)[0])


def test_the_largest_model_with_enough_steps_is_chosen(photos):
    folder = look_at(photos, 60)
    folder.sizes, folder.num_images = [(300, 400)] * 3, 10**6
    small, *_ = plans = candidates(folder)
    assert [each.cost for each in plans] == sorted(each.cost for each in plans)
    assert {(each.trunk, each.img_size) for each in plans} >= {('base', 224), ('mini', 96)}
    assert choose(plans, {}, 1) is small
    ratio = plans[-1].cost / small.cost
    assert choose(plans, {small: 1.0}, 1.01 * STEPS * ratio) is plans[-1]
    assert choose(plans, {small: 1.0}, 0.99 * STEPS * ratio) is plans[-2]
    assert choose(plans, {small: 1.0, plans[-1]: math.inf}, 2 * STEPS * ratio) is plans[-2]  # too little memory
    assert choose(plans, {small: 1.0, plans[-1]: 0.5 * ratio}, STEPS * ratio) is plans[-1]


def test_names_of_folders_are_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = 'a\nimport os  # {x} \' "'
    for label in range(2):
        Path(name, f"{label}'\n").mkdir(parents=True)
        write_images(Path(name, f"{label}'\n"), 5, seed=label)
    Path(name, "0'\n", b'\xff\n.png'.decode('utf-8', 'surrogateescape')).write_bytes(jpeg(0))
    with pytest.raises(UserError, match='a folder for each of two or more classes'):
        writer(name, name)
    written = writer(name)
    for stage in ('tokenizer', 'pretrain'):
        written.write(stage, 10)
        cfg = read_config(written.file(stage))
        assert cfg.data_root == cfg.train_dataloader.dataset.data_root == name and 'os' not in cfg


KINDS = {
    'gray': dict(bands=1),
    'four bands of 16 bits': dict(bands=4, suffix='.tif', dtype='uint16'),
    'thirteen bands': dict(bands=13, suffix='.npy', dtype='uint16'),
    'real numbers': dict(bands=2, suffix='.npy', dtype='float32'),
}


@pytest.mark.parametrize('kind', KINDS)
def test_configs_for_any_bands_pass_the_check(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, label in enumerate(('a', 'b')):
        Path('photos', label).mkdir(parents=True)
        write_images(Path('photos', label), 5, seed=seed, **KINDS[kind])
    written = writer('photos', 'photos')
    for stage in ('tokenizer', 'pretrain', 'finetune'):
        written.write(stage, 10, Path('weights.pth'), ['seen'])
        text = written.file(stage).read_text()
        assert max(map(len, text.splitlines())) <= 120
        cfg = read_config(written.file(stage))
        drop_scope_stamps(cfg)
        for problem in check_config(cfg):
            assert 'weights.pth' in str(problem) or 'checkpoint' in str(problem), problem


@pytest.fixture
def clock(monkeypatch) -> None:
    """A minute has a few steps of a small model, however fast this machine is."""
    monkeypatch.setattr(run, 'measure_step', lambda text, limit, launcher: 6000.0)
    monkeypatch.setattr(run, 'MIN_STEPS', 2)
    monkeypatch.setitem(plan.TRUNKS, 'mini', (32, 2, 2, 1e-3))
    leave_text_as_it_is(monkeypatch.setattr)


def test_a_folder_becomes_weights_and_a_score_and_a_second_command_goes_on(photos, clock, capfd):
    out = Path('out')
    Pretraining(photos, out, 1000, time.monotonic()).run(photos)
    printed = capfd.readouterr().out
    weights = out / 'pretrain' / Path((out / 'pretrain' / 'last_checkpoint').read_text().strip()).name
    assert f'weights       {weights}' in printed and '2 classes' in printed
    assert re.search(r'linear +\d+\.\d % of labelled images right, \d+\.\d % before the training', printed)
    assert [line.split()[-1] for line in printed.splitlines() if 'tools/train.py' in line] == [
        f'out/{stage}.py' for stage in ('tokenizer', 'pretrain', 'finetune')
    ]
    command = next(line for line in printed.splitlines() if 'beit-mm features' in line)
    main(command.split()[1:])
    assert np.load(out / 'features.npz')['features'].shape == (12, 32)
    with pytest.raises(UserError, match=r'out holds an earlier run \(tokenizer\.py\); add --resume to go on'):
        Pretraining(photos, out, 1000, time.monotonic()).run()
    text = (out / 'pretrain.py').read_text()
    steps = int(re.search(r'max_iters = (\d+)', text)[1])
    (out / 'pretrain.py').write_text(text.replace(f'max_iters = {steps}', f'max_iters = {steps + 2}'))
    resume(photos, out, 'none')
    assert (out / 'pretrain' / f'iter_{steps + 2}.pth').is_file()
    assert len(list(out.glob('tokenizer/20*'))) == 1 and len(list(out.glob('pretrain/20*'))) == 2


def test_a_config_that_is_changed_while_the_tokenizer_trains_stays(photos, clock, monkeypatch, capfd):
    trained = []

    def train(args):
        trained.append(read_config(args.config).train_cfg.max_iters)
        config = Path('out/pretrain.py')
        config.write_text(re.sub(r'max_iters = \d+', 'max_iters = 3', config.read_text()))

    monkeypatch.setattr(run, 'train', train)
    Pretraining(photos, Path('out'), 1000, time.monotonic()).run()
    assert trained[1] == 3 and 'as out/pretrain.py says, which has been changed' in capfd.readouterr().out


@pytest.mark.parametrize('first, second', [(6000.0, 3000.0), (3000.0, 6000.0)])
def test_the_slower_measurement_counts(first, second, photos, clock, monkeypatch):
    seconds = iter([first, 6000.0, second])
    monkeypatch.setattr(run, 'measure_step', lambda text, limit, launcher: next(seconds))
    monkeypatch.setattr(run, 'train', lambda args: None)
    Pretraining(photos, Path('out'), 10_000, time.monotonic()).run()
    assert read_config('out/pretrain.py').train_cfg.max_iters == int(0.95 * (600_000 - 15) / 6000) == 94


def test_what_cannot_be_resumed_is_one_sentence(photos, clock):
    with pytest.raises(UserError, match=r'nothing to resume in out: tokenizer\.py is missing; leave out --resume$'):
        resume(photos, Path('out'), 'none')
    written = writer(photos)
    written.write('tokenizer', 10)
    with pytest.raises(UserError, match=r'pretrain\.py is missing; leave out --resume and name another --out'):
        resume(photos, Path('out'), 'none')
    written.write('pretrain', 10)
    with pytest.raises(UserError, match='is for the images in photos, got elsewhere; name another --out'):
        resume('elsewhere', Path('out'), 'none')


def in_a_process(rank: int, folder: Path) -> dict:
    os.chdir(folder)
    leave_text_as_it_is()
    run.measure_step, run.MIN_STEPS = lambda text, limit, launcher: 6000.0 + rank, 2  # each measures its own
    plan.TRUNKS['mini'] = (32, 2, 2, 1e-3)
    Pretraining('photos', Path('out'), 1000, time.monotonic() + 1e4 * rank, 'pytorch').run('photos')
    return read_config('out/pretrain.py').to_dict()


def test_processes_train_one_model(photos, tmp_path):
    first, second = together(2, tmp_path / 'results', in_a_process, tmp_path)
    assert first == second
    assert first['auto_scale_lr']['base_batch_size'] == 2 * first['train_dataloader']['batch_size']
    assert Path('out', 'pretrain', f'iter_{first["train_cfg"]["max_iters"]}.pth').is_file()


def test_too_little_memory_is_one_sentence(photos, monkeypatch):
    def train(runner):
        raise RuntimeError('CUDA out of memory. Tried to allocate 2.00 GiB.')

    monkeypatch.setattr('mmengine.runner.Runner.train', train)
    with pytest.raises(UserError, match='the memory of this machine is too small for BEiT mini'):
        Pretraining(photos, Path('out'), 30, time.monotonic()).run()


def test_too_little_time_names_the_least(photos, clock):
    with pytest.raises(UserError, match=r'300 minutes are enough for \d steps .*; give --minutes 4\d\d or more'):
        Pretraining(photos, Path('out'), 300, time.monotonic()).run()
    assert not list(Path('out').iterdir())


FOLDERS = {
    'photos/out': r'--out must lie outside of photos, .* got photos/out',
    'file/out': r'must be a folder that can be written to: .*; name another --out',
    '/proc/out': r'must be a folder that can be written to: .*; name another --out',
}


@pytest.mark.parametrize('out', FOLDERS)
def test_a_folder_for_results_that_cannot_be_is_one_sentence(out, photos):
    Path('file').touch()
    with pytest.raises((UserError, OSError), match=FOLDERS[out]):
        Pretraining(photos, Path(out), 30, time.monotonic()).run()


LABELS = {
    'photos/cat': r'photos/cat must hold a folder for each of two or more classes, .* got 0 such folders',
    'one': r'with two or more images, got 2 such folders, one image in a',
    'split': r'folders in split/val must be named as those in split/train, got c',
}


@pytest.mark.parametrize('labels', LABELS)
def test_labels_that_do_not_fit_are_one_sentence(labels, photos):
    names = [f'split/{part}/{index}' for part in ('train/a', 'train/b', 'val/c') for index in range(2)]
    for name in ('one/a/0', 'one/b/0', 'one/b/1', *names):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(f'{name}.jpg').write_bytes(jpeg(0))
    with pytest.raises(UserError, match=LABELS[labels]):
        writer(photos, labels)


def test_steps_are_measured_by_real_ones(photos):
    seconds = measure_step(writer(photos).text('pretrain', 10**6), 0.5, 'none')
    assert 0.001 < seconds < 10
