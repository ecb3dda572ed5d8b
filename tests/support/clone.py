"""A folder like a user's clone, with small data, in which commands of the pages run in this process."""

import gzip
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config, DictAction

from support import ROOT, tools
from support.data import CLASSES_22K, write_own
from support.digits import write_classification, write_segmentation
from support.fidelity import classifier, convert_to, draw, save
from support.pages import blocks, PAGES
from support.recipes import shrink, SMALL_SCENES, SMALL_VIEWS
from support.tools import run, run_here

# Names on the pages that stand for the reader's own paths.
PLACEHOLDERS = dict(IN='work_dirs/demo/finetune/epoch_9.pth', OUT='work_dirs/converted', LAYOUT='timm')
REFERENCE = ROOT / 'tests' / 'reference' / 'data'


def write_clone(folder: Path, small_data: Path) -> None:
    """Configs, tools, docs and the files of the pages, small data, small weights of the release and of OpenAI."""
    (folder / 'data').mkdir()
    for source in small_data.iterdir():
        if source.name != 'own':
            (folder / 'data' / source.name).symlink_to(source)
    for name in ('tools', 'docs'):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / 'configs', folder / 'configs')
    for block in (block for page in PAGES for block in blocks(page) if block.file):
        (folder / block.file).parent.mkdir(exist_ok=True)
        (folder / block.file).write_text(block.text)
    write_own(folder / 'data' / 'own', ['bird', 'cat', 'dog'])
    (folder / 'PATH').mkdir()
    (folder / 'PATH' / 'encoder.pkl').write_bytes(gzip.decompress((REFERENCE / 'dalle_encoder.pkl.gz').read_bytes()))
    write_released_weights(folder)


def write_released_weights(folder: Path) -> None:
    """Of a small model, under the name and in the layout of the file that configs/own_data begins with."""
    path = folder / 'checkpoints' / 'beit_base_patch16_224_pt22k_ft22k.pth'
    path.parent.mkdir()
    model = classifier(num_classes=CLASSES_22K, embed_dim=32, depth=4, num_heads=2)
    convert_to('release', save(path.with_name('ours.pth'), draw(model)), path)


def train_demonstration() -> None:
    """Write the demonstration's data and checkpoints, after two steps each."""
    write_classification(Path('data/digits/imagenet'), limit=6, renders=2)
    write_segmentation(Path('data/digits/ade20k'), num_train=6, num_val=2, limit=6)
    for name in ('tokenizer', 'pretrain', 'finetune', 'segment'):
        run_command(f'python tools/train.py configs/demo/{name}.py')


def split(command: str) -> list[str]:
    """Words of a command, on one process where a launcher would begin several."""
    words = [PLACEHOLDERS.get(word, word) for word in shlex.split(command.removeprefix('PYTHONPATH=. '))]
    launcher = re.match(r'tools/dist_(train|test)\.sh$', words[0])
    if not launcher:
        return words
    count = 2 if launcher[1] == 'train' else 3
    return ['python', f'tools/{launcher[1]}.py', *words[1:count], *words[count + 1 :]]


def run_command(command: str) -> None:
    """A command of a page. Trainings and tests by recipes get options that shrink them; launchers start one process.

    Raises:
        SystemExit: If it ends badly.
        ValueError: If this function cannot run such a command.
    """
    words = split(command)
    if words[0] == 'tar' or words[:2] == ['python', '-c']:
        program = sys.executable if words[0] == 'python' else words[0]
        run(program, *words[1:], cwd=Path.cwd(), HF_HOME='cache', HF_HUB_OFFLINE='1')
    elif words[0] == 'beit-mm':
        tools.command(*words[1:])
    elif words[:2] in (['python', 'tools/train.py'], ['python', 'tools/test.py']):
        _run_recipe(words[1:])
    elif words[0] == 'python' and words[1].startswith('tools/'):
        run_here(words[1:])
    else:
        raise ValueError(f'no test runs such a command, mark what it needs: {command}')


def _run_recipe(words: list[str]) -> None:
    cfg = Config.fromfile(words[1])
    position = words.index('--cfg-options') if '--cfg-options' in words else len(words)
    own = words[position + 1 :]
    cfg.merge_from_dict({key: DictAction._parse_iterable(value) for key, value in (word.split('=', 1) for word in own)})
    if any('PATH/' in word for word in words):
        sizes = json.loads(str(np.load(REFERENCE / 'tokenizer_forward.npz')['config']))
        keys = ('vocab_size', 'n_hid', 'n_init', 'blocks_per_group')
        own += [f'model.target.tokenizer.{key}={sizes[key]}' for key in keys]
    run_here([*words[:position], '--cfg-options', *small_options(words[1], cfg), *own])
    work_dir = Path(cfg.get('work_dir') or f'work_dirs/{Path(words[1]).stem}')
    if words[0] == 'tools/train.py':
        name_as_at_the_end(cfg, work_dir)
        state = torch.load((work_dir / 'last_checkpoint').read_text(), weights_only=False)['optimizer']['state']
        assert {int(entry['step']) for entry in state.values()} == ({2} if state else set())  # k-means has none
    elif '--out' not in words:
        assert list(work_dir.glob('*/*.json'))
    if '--show-dir' in words:
        assert list(Path(words[words.index('--show-dir') + 1]).rglob('*.png'))


def name_as_at_the_end(cfg: Config, work_dir: Path) -> None:
    """Give the last checkpoint of a small training the name that the whole one would write."""
    by_epoch = 'max_epochs' in cfg.train_cfg
    name = f'epoch_{cfg.train_cfg.max_epochs}.pth' if by_epoch else f'iter_{cfg.train_cfg.max_iters}.pth'
    if not (work_dir / name).exists():
        os.link((work_dir / 'last_checkpoint').read_text(), work_dir / name)


def small_options(config: str, cfg: Config) -> list[str]:
    """What shrinks a recipe; of the demonstration's and the pages' own configs the models stay as they are."""
    options = shrink(cfg)
    if config.startswith(('configs/demo/', 'mine/')):
        options = {key: value for key, value in options.items() if not key.startswith('model.')}
        options = {key: value for key, value in options.items() if not key.endswith('_evaluator.vocab_size')}
    start = cfg.model.get('target', {}).get('tokenizer', {}).get('init_cfg')
    if start and Path(start.checkpoint).exists():
        options.pop('model.target.tokenizer.init_cfg', None)
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if cfg.get('default_scope') == 'mmseg' and loader != 'train_dataloader':
            options.update({f'{loader}.batch_size': 1, f'{loader}.dataset.indices': 1})
        if cfg.get(loader) and cfg[loader].dataset.type in ('beit_mm.WebDatasetShards', 'beit_mm.HuggingFaceImages'):
            options.pop(f'{loader}.dataset.serialize_data', None)
    if cfg.get('default_scope') == 'mmseg' and not config.startswith('configs/demo/'):
        options.update({**SMALL_SCENES, **SMALL_VIEWS})
    return [f'{key}={value}'.replace(' ', '') for key, value in options.items()]
