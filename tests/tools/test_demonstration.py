"""The demonstration: deterministic data, split without leaks, that the hosts read; stages that are trained again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.config import Config
from mmpretrain.datasets import ImageNet
from mmseg.registry import DATASETS
from PIL import Image
from support import CONFIGS, ROOT
from support.digits import CLASSES, make_digits, write_classification, write_segmentation
from support.tools import import_tool, tool

from beit_mm.commands.demo import check_place
from beit_mm.engine.optimizers.autocast_wrapper import computes_in_bfloat16
from beit_mm.models import DiscreteVAE

TRIAL = ROOT / 'beit_mm' / 'trial'
digit_pictures = import_tool('demo', 'digit_pictures')
TINY = dict(size=64, limit=5)  # per class four digits to training, one to validation
SCENES = dict(TINY, num_train=30, num_val=10)
WRITERS = {'imagenet': (write_classification, TINY), 'ade20k': (write_segmentation, SCENES)}


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob('*')) if path.is_file()}


def modification_times(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (root, *root.rglob('*'))}


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('digits')
    for name, (write, arguments) in WRITERS.items():
        write(folder / name, **arguments)
    return folder


def test_every_digit_is_in_one_split(folder):
    labels = make_digits.load_sources().labels
    splits = make_digits.split_digits(labels)
    train, val = (sum(splits[name], []) for name in ('train', 'val'))
    assert sorted(train + val) == list(range(1797)) and (len(train), len(val)) == (1438, 359)
    assert all(set(labels[pool]) == {label} for pools in splits.values() for label, pool in enumerate(pools))
    train, val = (
        {line.split('_')[1].split('/')[1] for line in (folder / 'imagenet' / 'meta' / f'{split}.txt').open()}
        for split in ('train', 'val')
    )
    assert len(train) == 40 and len(val) == 10 and not train & val


@pytest.mark.parametrize('split, columns', [('train', slice(None, 480)), ('val', slice(480, None))])
def test_backgrounds_of_the_splits_share_no_pixel(split, columns):
    allowed = np.zeros((427, 640, 3), dtype=np.uint8)
    allowed[:, columns] = 255
    for seed in range(200):
        background = digit_pictures._background(np.random.default_rng(seed), [Image.fromarray(allowed)], split, 64)
        assert (background == 1).all()


@pytest.mark.parametrize('name, fewer', [('imagenet', dict(renders=1)), ('ade20k', dict(num_train=3, num_val=2))])
def test_a_picture_depends_on_the_seed_and_not_on_how_many_are_made(name, fewer, folder, tmp_path):
    write, arguments = WRITERS[name]
    start = contents(folder / name)
    for case, more in dict(same={}, other=dict(seed=2), few=fewer).items():
        write(tmp_path / case, **{**arguments, **more})
    same, other, few = (contents(tmp_path / case) for case in ('same', 'other', 'few'))
    assert same == start and other.keys() == start.keys()
    assert all(other[file] != start[file] for file in start if not file.endswith('.txt'))
    assert all(start[file] == value for file, value in few.items() if file.endswith(('.png', '.jpg')))


def test_mmpretrain_reads_the_pictures(folder):
    for split, count in (('train', 80), ('val', 10)):
        for how in (dict(split=split), dict(split='', data_prefix=split)):  # with and without the list in meta
            dataset = ImageNet(data_root=str(folder / 'imagenet'), metainfo=dict(classes=CLASSES), **how)
            assert len(dataset) == count and dataset.CLASSES == CLASSES
            for entry in map(dataset.get_data_info, range(count)):
                assert Path(entry['img_path']).parent.name == CLASSES[entry['gt_label']]
        assert Image.open(entry['img_path']).size == (64, 64)


@pytest.mark.parametrize('split, count', [('training', 30), ('validation', 10)])
def test_the_config_s_data_set_reads_the_scenes(split, count, folder):
    config = Config.fromfile(CONFIGS / 'demo' / 'segment.py').dataset
    prefix = dict(img_path=f'images/{split}', seg_map_path=f'annotations/{split}')
    pipeline = [dict(type='LoadImageFromFile'), dict(type='mmseg.LoadAnnotations')]
    dataset = DATASETS.build(
        {**config, 'data_root': str(folder / 'ade20k'), 'data_prefix': prefix, 'pipeline': pipeline}
    )
    assert len(dataset) == count and tuple(dataset.metainfo['classes']) == make_digits.SCENE_CLASSES
    assert dataset.reduce_zero_label and len(dataset.metainfo['palette']) == len(make_digits.SCENE_CLASSES)
    labels = np.stack([dataset[index]['gt_seg_map'] for index in range(count)])
    assert dataset[0]['img'].shape == (64, 64, 3) and labels.shape[1:] == (64, 64)
    assert np.unique(labels).tolist() == [*range(11), 255]
    digits = (labels > 0) & (labels < 255)
    assert 0.1 < digits.mean() < 0.7 and digits.any(axis=(1, 2)).all()


def test_train_10_lists_ten_first_renders_per_class(tmp_path):
    counts = write_classification(tmp_path / 'digits', size=32, limit=15)
    assert counts == dict(train=240, val=30, train_10=100, classes=10)
    names = [line.split()[0] for line in (tmp_path / 'digits' / 'meta' / 'train_10.txt').open()]
    train = make_digits.split_digits(make_digits.load_sources().labels)['train']
    assert sorted(names) == [f'{CLASSES[label]}/{i:05d}_0.jpg' for label in range(10) for i in train[label][:10]]


def test_labels_lie_on_the_bright_digits():
    for index in range(30):
        generator, label = np.random.default_rng(index), 2 + make_digits.load_sources().labels[index]
        image, labels = make_digits.render(generator, 'train', [index], 96, make_digits.SCENE_DIGIT_SHARE)
        inside, brightness = labels == label, image.mean(axis=-1)
        assert set(np.unique(labels)) == {0, 1, label}
        assert brightness[inside].mean() > brightness[labels == 1].mean() + 30
        # Inside a digit the colour is nearly even: an opacity of 0.85 or more leaves little of the photograph.
        assert image[inside].std(axis=0).max() < 30


def test_a_second_call_writes_nothing_and_other_folders_are_refused_untouched(folder, tmp_path, monkeypatch):
    before = modification_times(folder)
    for name, (write, arguments) in WRITERS.items():
        counts = write(folder / name, **arguments)
    assert counts == dict(training=30, validation=10, classes=11)
    with pytest.raises(ValueError, match=r"made with {'seed': 3}, got {'seed': 0}"):
        write_classification(folder / 'imagenet', seed=3, **TINY)
    monkeypatch.setattr(digit_pictures, 'MIN_CONTRAST', 0.9)
    with pytest.raises(ValueError, match=r"made with {'MIN_CONTRAST': 0.9}"):
        write_classification(folder / 'imagenet', **TINY)
    assert modification_times(folder) == before
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'photos' / 'holiday.jpg').write_bytes(b'mine')
    (tmp_path / 'file').write_bytes(b'mine')
    before = modification_times(tmp_path)
    for name, message in (('photos', 'got files without .digits.json'), ('file', 'must be a folder')):
        with pytest.raises(ValueError, match=message):
            write_classification(tmp_path / name, **TINY)
    assert modification_times(tmp_path) == before


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    (tmp_path / 'digits').mkdir()  # an empty folder is as good as none
    with monkeypatch.context() as patch:
        patch.setattr(make_digits, 'render', interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_segmentation(tmp_path / 'digits', **SCENES)
    assert [path.name for path in tmp_path.rglob('*')] == ['digits']
    write_segmentation(tmp_path / 'digits', **SCENES)
    assert (tmp_path / 'digits' / make_digits.STAMP).is_file()


@pytest.mark.parametrize(
    'name, number, minimum', [('limit', 2, '3 digits per class'), ('size', 16, 32), ('renders', 0, 1)]
)
def test_arguments_out_of_range_are_named(name, number, minimum, tmp_path):
    with pytest.raises(ValueError, match=f'{name} must be at least {minimum}.*got {number}'):
        write_classification(tmp_path / 'digits', **{name: number})
    assert not any(tmp_path.iterdir())


def test_the_tool_ends_with_one_sentence(tmp_path):
    (tmp_path / 'imagenet').mkdir()
    (tmp_path / 'imagenet' / 'mine.txt').write_text('mine')
    output = tool('demo/make_digits', '--out', tmp_path, ok=False)
    assert 'Traceback' not in output
    assert output.splitlines()[-1].startswith(f'error: {tmp_path}/imagenet must be new, empty')


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A working directory with the configs."""
    (tmp_path / 'configs').symlink_to(CONFIGS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_stage_is_trained_again_if_its_start_is_newer(project):
    stages = import_tool('demo', 'stages').make_stages(Path('work_dirs/demo'), full=False, seed=0)
    tokenizer, pretrain = (stages[name].checkpoint for name in ('tokenizer', 'pretrain'))
    for stage, other in (('pretrain', 'finetune'), ('finetune', 'segment')):  # as the configs say
        init = Config.fromfile(stages[other].config).model.backbone.init_cfg
        assert init.checkpoint == str(stages[stage].checkpoint)
    assert Config.fromfile(stages['pretrain'].config).model.target.tokenizer.init_cfg.checkpoint == str(tokenizer)
    assert not stages['pretrain'].is_done
    now = time.time()
    for path in (tokenizer, pretrain):
        path.parent.mkdir(parents=True)
        path.touch()
    for age, expected in ((10, True), (-10, False)):
        os.utime(tokenizer, (now - age, now - age))
        os.utime(pretrain, (now, now))
        assert stages['pretrain'].is_done == expected


def test_v2_is_taught_by_the_models_of_the_demonstration_or_of_the_package(project):
    plan_beit_v2 = import_tool('demo', 'plans').plan_beit_v2

    def teachers() -> list[Path]:
        stages = plan_beit_v2(Path('work_dirs/demo_v2'), seed=0).stages
        pretrain, finetune = (Config.fromfile(stages[name].config).model for name in ('pretrain', 'finetune'))
        starts = pretrain.target.tokenizer.init_cfg, finetune.backbone.init_cfg
        assert [init.checkpoint for init in starts] == [str(stages[n].checkpoint) for n in ('tokenizer', 'pretrain')]
        assert ('finetune_beit' in stages) == (not Path('work_dirs/demo').exists()), 'else its figures are there'
        return [stages[f'tokenizer{arm}'].start_file for arm in ('', '_label_free')]

    for folder in (TRIAL, Path('work_dirs/demo/models')):
        if folder is not TRIAL:
            shutil.copytree(TRIAL, folder)
        assert teachers() == [folder / 'finetune.safetensors', folder / 'pretrain.safetensors']


@pytest.mark.parametrize(
    'free, message', [(1e6, 'must have 500 MB free, got 1 MB'), (1e12, 'can be written to: Not a')]
)
def test_a_place_without_room_or_permission_is_refused_before_the_start(free, message, tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: shutil._ntuple_diskusage(1e12, 0, free))
    with pytest.raises(OSError, match=message):
        check_place(tmp_path / ('demo' if free < 1e9 else 'file/demo'))


def test_the_page_shows_the_score_that_comes_after_the_last_step(monkeypatch):
    page = import_tool('demo', 'page')
    monkeypatch.setattr(page, 'draw_chart', lambda title, curves: curves[0].values)
    stage = SimpleNamespace(folder=Path('finetune'), score='top1', score_text='digits right')
    for values in ([50.0], [50.0, 90.0]):
        curves = dict(top1=SimpleNamespace(values=values))
        progress = SimpleNamespace(steps=(9, 9), curves=curves, last=lambda name: curves[name].values[-1])
        assert page._charts(stage, progress) == [values]


def write_short_configs(folder: Path) -> None:
    """All configs, with a few steps for every stage of the demonstration."""
    shutil.copytree(CONFIGS, folder / 'configs')
    by_epoch = ('pretrain', 'finetune', 'v2/tokenizer')  # which the others of v2 begin with
    for unit, names in (('epochs', by_epoch), ('iters', ('tokenizer', 'segment'))):
        for name in names:
            few = "train_dataloader['dataset'].update(indices=320)\n" if unit == 'epochs' else ''
            length = 2 if unit == 'epochs' else 20
            with open(folder / 'configs' / 'demo' / f'{name}.py', 'a') as config:
                config.write(
                    f'train_cfg = dict(max_{unit}={length}, val_interval={length})\nparam_scheduler = []\n{few}'
                    "default_hooks['pictures'].update(interval=5)\n"
                )


@pytest.mark.long
def test_an_interrupted_demonstration_goes_on_and_ends_with_a_table_pictures_and_small_models(tmp_path):
    write_short_configs(tmp_path)
    command = [sys.executable, '-u', '-m', 'beit_mm', 'demo']
    environment = dict(os.environ, PYTHONPATH=str(ROOT), TERM='dumb')
    settings = dict(cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    with subprocess.Popen(command, start_new_session=True, **settings) as process:
        page = process.stdout.readline()
        assert str(tmp_path / 'work_dirs/demo/index.html') in page
        log = tmp_path / 'work_dirs/demo/tokenizer.log'
        while not (log.is_file() and 'Iter(train)' in log.read_text()):
            assert process.poll() is None
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        assert 'interrupted: the same command goes on where it stopped' in process.stdout.read()
    assert process.returncode == 130
    stopped = list((tmp_path / 'work_dirs/demo/tokenizer').glob('*.pth'))
    assert stopped
    finished = subprocess.run(command, **settings)
    assert finished.returncode == 0, finished.stdout
    assert 'Tokenizer: 20 of 20 steps' in finished.stdout
    root = tmp_path / 'work_dirs' / 'demo'
    assert 'resumed' in log.read_text()
    table = (root / 'table.md').read_text()
    rows = 6 + computes_in_bfloat16('cpu')
    assert table in finished.stdout and len(table.splitlines()) == 2 + rows
    page = (root / 'index.html').read_text()
    assert 'Finished.' in page and page.count('<svg') >= 8 and page.count('<img') >= 8
    made = json.loads((root / 'models' / 'models.json').read_text())
    assert sum(file['bytes'] for file in made['files'].values()) < 5e6


def test_tokens_in_bfloat16_are_compared_with_those_in_float32(folder):
    tokenizer = DiscreteVAE(vocab_size=16, n_hid=8, n_init=8, blocks_per_group=1).eval()
    paths = sorted((folder / 'imagenet').rglob('*.jpg'))[:4]
    assert 0.5 < import_tool('demo', 'figures').bfloat16_agreement(tokenizer, paths) <= 1


@pytest.mark.long
def test_the_demonstration_of_v2_ends_with_a_table_beside_the_first_and_pictures(tmp_path):
    write_short_configs(tmp_path)
    command = [sys.executable, '-u', '-m', 'beit_mm', 'demo', '--v2']
    environment = dict(os.environ, PYTHONPATH=str(ROOT), TERM='dumb')
    finished = subprocess.run(
        command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert finished.returncode == 0, finished.stdout
    root = tmp_path / 'work_dirs' / 'demo_v2'
    table = (root / 'table.md').read_text()
    rows = [line.strip('| ').split(' | ') for line in table.splitlines() if line.startswith('|')]
    assert table in finished.stdout and {len(row) for row in rows[2:-1]} == {4}
    figures = {entry['what']: entry['figure'] for entry in json.loads((TRIAL / 'models.json').read_text())['figures']}
    assert [row[1] for row in rows if row[0] == 'vocabulary in use, %'] == [figures['vocabulary in use, %']]
    page = (root / 'index.html').read_text()
    assert 'Finished.' in page and 'fine-tuned with the labels' in page
    # A loss of every stage, and a score of all but the tokenizers, whose few steps end before their first pictures.
    assert page.count('<svg') >= 14 and page.count('Patches with the same code') >= 2
