"""docs/own_data.md: every command on generated data in the page's layout, and what follows from a user's own values."""

import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image
from support import ROOT
from support.pages import commands
from support.tools import leave_text_as_it_is, run_here

PAGE = (ROOT / 'docs' / 'own_data.md').read_text()
COMMANDS = commands('docs/own_data.md')
FILES = re.findall(r'^```python\n# (\S+)\n(.*?)^```$', PAGE, flags=re.M | re.S)
# The last checkpoint of a shrunk run, and its name at the end of the whole one.
WRITTEN = {
    'tokenizer': ('iter_2', 'iter_20000'),
    'pretrain': ('epoch_1', 'epoch_300'),
    'finetune': ('epoch_1', 'epoch_100'),
    'segment': ('iter_2', 'iter_20000'),
}


def loaders(*names: str, batch_size: int = 2) -> list:
    return [
        f'{name}.{key}={value}'
        for name in names
        for key, value in dict(num_workers=0, persistent_workers=False, batch_size=batch_size).items()
    ]


ITERS = ['train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'default_hooks.checkpoint.interval=2']
EPOCH = ['train_cfg.max_epochs=1', 'default_hooks.checkpoint.interval=1']
TRUNK = ['model.backbone.embed_dim=32', 'model.backbone.num_heads=2']
TOKENIZER = ['n_hid=8', 'n_init=8', 'blocks_per_group=1']
# What shrinks each recipe; nothing else of it is changed.
SHRUNK = {
    'tokenizer': [
        *(f'model.{option}' for option in TOKENIZER),
        *ITERS,
        *loaders('train_dataloader', 'val_dataloader', 'test_dataloader'),
    ],
    'pretrain': [
        *TRUNK,
        *(f'model.target.tokenizer.{option}' for option in TOKENIZER),
        *EPOCH,
        *loaders('train_dataloader'),
    ],
    'finetune': [
        *TRUNK,
        'model.head.in_channels=32',
        *EPOCH,
        *loaders('train_dataloader', 'val_dataloader', 'test_dataloader'),
    ],
    'segment': [
        *TRUNK,
        'model.neck.embed_dim=32',
        'model.decode_head.in_channels=[32,32,32,32]',
        'model.decode_head.channels=16',
        'model.auxiliary_head.in_channels=32',
        *ITERS,
        *loaders('train_dataloader'),
        *loaders('val_dataloader', 'test_dataloader', batch_size=1),
    ],
}


def draw(path: Path, classes: int = 0) -> None:
    """A random picture, or random labels of so many classes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (6, 8) if classes else (6, 8, 3)
    pixels = np.random.default_rng(len(str(path))).integers(0, classes or 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).resize((80, 60), Image.Resampling.NEAREST).save(path)


def write_data(root: Path, classes: list, num_labels: int) -> None:
    """Images, classification and segmentation as the page lays them out."""
    for index in range(4):
        draw(root / 'images' / ('nested' if index % 2 else '') / f'{index}.jpg')
        for split in ('train', 'val'):
            draw(root / 'segment' / 'images' / split / f'{index}.jpg')
            draw(root / 'segment' / 'labels' / split / f'{index}.png', num_labels)
    for name in classes:
        for split, index in (('train', 0), ('train', 1), ('val', 2)):
            draw(root / 'classify' / split / name / f'{index}.jpg')


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A working folder with the configs, the tools and the page's data and files."""
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    (tmp_path / 'tools').symlink_to(ROOT / 'tools')
    leave_text_as_it_is(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_outside(words: list, project: Path) -> str:
    words = [sys.executable if word == 'python' else word for word in words]
    env = dict(
        os.environ,
        PYTHON=sys.executable,
        OMP_NUM_THREADS='1',
        PYTHONWARNINGS='ignore',
        PYTHONPATH=str(ROOT),
        CUDA_VISIBLE_DEVICES='',
        HF_HOME=str(project / 'cache'),
        HF_HUB_OFFLINE='1',
    )
    result = subprocess.run(words, cwd=project, env=env, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    return result.stdout + result.stderr


def scores(folder: Path) -> dict:
    return json.loads(max(folder.glob('*/*.json'), key=lambda path: path.stat().st_mtime).read_text())


def openai_tokenizer(folder: Path) -> list:
    """The reference file of a small tokenizer in OpenAI's pickled form, and the options that fit it."""
    data = ROOT / 'tests' / 'reference' / 'data'
    folder.mkdir()
    with gzip.open(data / 'dalle_encoder.pkl.gz') as source, open(folder / 'encoder.pkl', 'wb') as target:
        shutil.copyfileobj(source, target)
    config = json.loads(str(np.load(data / 'tokenizer_forward.npz')['config']))
    return [
        f'model.target.tokenizer.{key}={config[key]}' for key in ('vocab_size', 'n_hid', 'n_init', 'blocks_per_group')
    ]


def run_command(command: str, project: Path) -> None:
    """One of the page's commands with what shrinks it, and a look at what it has to leave."""
    words = shlex.split(command.replace('PATH/', 'openai/'))
    if words[0] == 'tar' or words[1] == '-c':
        run_outside(words, project)
        return
    config = Path(next(word for word in words if word.startswith('configs/')))
    recipe = config.stem.split('_')[0]
    folder = project / 'work_dirs' / 'own_data' / recipe
    last, later = (folder / f'{name}.pth' for name in WRITTEN[recipe])
    options = SHRUNK[recipe] + (openai_tokenizer(project / 'openai') if 'PATH/' in command else [])
    words += options if '--cfg-options' in words else ['--cfg-options', *options]
    if words[0].endswith('.sh'):
        assert 'Scaling the original LR by 0.03125' in run_outside(words, project)  # 2 x 2 images instead of 128
    else:
        assert words[0] == 'python'
        run_here(words[1:])
    if 'train' in words[0] + words[1]:
        last.rename(later)  # fails without a new checkpoint
    else:
        key = {'finetune': 'accuracy/top1', 'segment': 'mIoU'}[recipe]
        assert 0 <= scores(folder)[key] <= 100
        if '--show-dir' in words:
            assert list(Path(words[words.index('--show-dir') + 1]).rglob('*.png'))


def test_every_command_of_the_page(project):
    """From the layout to the score, in the page's order; each stage starts from what the one before wrote."""
    write_data(project / 'data' / 'own', ['bird', 'cat', 'dog'], num_labels=3)
    for name, text in FILES:
        (project / name).write_text(text)
    assert len(COMMANDS) == 12 and len(FILES) == 2
    for command in COMMANDS:
        run_command(command, project)
    trained = {Path(word).stem for command in COMMANDS for word in command.split() if word.startswith('configs/')}
    assert trained == {*WRITTEN, 'pretrain_shards', 'finetune_table'}


def test_the_page_names_what_exists():
    for name in re.findall(r'configs/[\w/]+(?:\.py)?', PAGE):
        assert (ROOT / name).exists() or name in dict(FILES), name


# A user's own values


CLASSES = [f'class_{index}' for index in range(7)]


def own(project: Path, name: str, **values) -> str:
    """A config in which a user has changed the values at its top."""
    config = project / 'configs' / 'own_data' / f'{name}.py'
    text = config.read_text()
    for key, value in values.items():
        text, count = re.subn(rf'^{key} = [^#\n]*', f'{key} = {value!r}', text, flags=re.M)
        assert count == 1, key
    config.write_text(text)
    return f'configs/own_data/{name}.py'


def test_all_else_follows_from_path_classes_and_size(project):
    write_data(project / 'elsewhere', CLASSES, num_labels=5)
    images = dict(data_root='elsewhere/images', img_size=96)
    names = [
        own(project, 'tokenizer', **images),
        own(project, 'pretrain', **images),
        own(project, 'finetune', data_root='elsewhere/classify', classes=CLASSES, img_size=64),
        own(project, 'segment', data_root='elsewhere/segment', classes=CLASSES[:5], crop=64),
    ]
    for name in names:
        recipe = Path(name).stem
        run_here(['tools/train.py', name, '--cfg-options', *SHRUNK[recipe]])
        last, later = (project / 'work_dirs' / 'own_data' / recipe / f'{name}.pth' for name in WRITTEN[recipe])
        last.rename(later)
    run_here(
        [
            'tools/test.py',
            names[2],
            later.parents[1] / 'finetune' / 'epoch_100.pth',
            '--cfg-options',
            *SHRUNK['finetune'],
        ]
    )
    assert {'accuracy/top1', 'accuracy/top5'} <= set(scores(project / 'work_dirs' / 'own_data' / 'finetune'))
    run_here(['tools/test.py', names[3], later, '--tta', '--cfg-options', *SHRUNK['segment']])
    assert 'mIoU' in scores(project / 'work_dirs' / 'own_data' / 'segment')

    pretrain, finetune, segment = map(Config.fromfile, names[1:])
    mask = next(step for step in pretrain.train_dataloader.dataset.pipeline if 'MaskGenerator' in step.type)
    assert mask.grid == (6, 6) and mask.num_masked == 14 and mask.min_block_size == 3  # as configs/demo
    assert finetune.model.head.num_classes == finetune.model.data_preprocessor.num_classes == 7
    assert segment.model.decode_head.num_classes == segment.model.auxiliary_head.num_classes == 5
    assert len({tuple(colour) for colour in segment.test_dataloader.dataset.metainfo.palette}) == 5
    assert segment.model.test_cfg == dict(mode='slide', crop_size=(64, 64), stride=(42, 42))


def test_a_short_tokenizer_training_draws_after_every_update(tmp_path):
    text = (ROOT / 'configs' / 'own_data' / 'tokenizer.py').read_text()
    text = text.replace('../beit_tokenizer.py', str(ROOT / 'configs' / 'beit_tokenizer.py'))
    (tmp_path / 'short.py').write_text(text.replace('max_iters = 20000', 'max_iters = 10'))
    assert Config.fromfile(tmp_path / 'short.py').default_hooks.pictures.interval == 1


@pytest.mark.parametrize('name', ['tokenizer', 'pretrain', 'finetune', 'segment'])
def test_the_papers_values_stand_at_the_papers_size(name):
    """The formulas over the image size give the numbers of the recipe that they are derived from."""
    ours = Config.fromfile(ROOT / 'configs' / 'own_data' / f'{name}.py')
    paper = Config.fromfile(ROOT / 'configs' / f'beit_{name}.py')
    for loader in {'train_dataloader', 'val_dataloader'} & set(paper):
        pipelines = [cfg[loader].dataset.pipeline for cfg in (ours, paper)]
        for step in (step for pipeline in pipelines for step in pipeline):
            step.pop('num_classes', None)
        assert pipelines[0][1:] == pipelines[1][1:]
    if name == 'segment':
        assert ours.tta_pipeline == paper.tta_pipeline
        assert ours.model.test_cfg == paper.model.test_cfg
