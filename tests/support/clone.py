"""A folder as a user's clone, with small data, in which the commands of the pages run in this process."""

import os
import re
import runpy
import shlex
from pathlib import Path

import pytest
from mmengine.config import Config
from mmpretrain.datasets import CIFAR100

from support import ROOT
from support.data import write_all
from support.digits import write_classification, write_segmentation
from support.recipes import shrink
from support.tools import leave_text_as_it_is, run_here

# Written for a path of the reader's own.
PLACEHOLDERS = dict(IN='work_dirs/demo/finetune/epoch_24.pth', OUT='work_dirs/converted', LAYOUT='timm')
# Of ADE20K's images and crops, 512 pixels high.
SMALL_SCENES = {
    'train_dataloader.dataset.pipeline.2.scale': (256, 64),
    'train_dataloader.dataset.pipeline.3.crop_size': (64, 64),
    'model.data_preprocessor.size': (64, 64),
    'val_dataloader.dataset.pipeline.1.scale': (256, 64),
    'test_dataloader.dataset.pipeline.1.scale': (256, 64),
}


def write_clone(folder: Path) -> dict[str, str]:
    """Configs, tools and small data; checksums of CIFAR-100's files."""
    for name in ('configs', 'tools', 'docs'):
        (folder / name).symlink_to(ROOT / name)
    write_classification(folder / 'data' / 'digits' / 'imagenet', limit=6, renders=2)
    write_segmentation(folder / 'data' / 'digits' / 'ade20k', num_train=6, num_val=2, limit=6)
    return write_all(folder)


def enter(folder: Path, checksums: dict[str, str], patch: pytest.MonkeyPatch) -> None:
    """Make a clone the working directory."""
    patch.setattr(CIFAR100, 'train_list', [['train', checksums['train']]])
    patch.setattr(CIFAR100, 'test_list', [['test', checksums['test']]])
    patch.setattr(CIFAR100, 'meta', dict(CIFAR100.meta, md5=checksums['meta']))
    leave_text_as_it_is(patch.setattr)
    patch.chdir(folder)
    patch.syspath_prepend(str(folder))


def run_command(command: str) -> None:
    """A command of a page. Trainings and tests by recipes get options that shrink them; launchers start one process.

    Raises:
        SystemExit: If it ends badly.
        ValueError: If the command is of no kind that is run here.
    """
    words, variables = _split(command)
    if variables not in ({}, dict(PYTHONPATH='.')):
        raise ValueError(f'no test sets {", ".join(variables)}: {command}')
    launcher = re.match(r'tools/dist_(train|test)\.sh$', words[0])
    if launcher:
        count = 2 if launcher[1] == 'train' else 3
        words = ['python', f'tools/{launcher[1]}.py', *words[1:count], *words[count + 1 :]]
    words = [PLACEHOLDERS.get(word, word) for word in words]
    if words[:2] == ['python', '-m']:
        run_here(words[2:], runpy.run_module)
    elif words[0] == 'python' and words[1].startswith('tools/'):
        _run_tool(words[1:])
    else:
        raise ValueError(f'no test runs such a command, mark what it needs: {command}')


def _split(command: str) -> tuple[list[str], dict[str, str]]:
    """Words, and the variables set before them."""
    words = shlex.split(command)
    count = next(place for place, word in enumerate(words) if not re.match(r'[A-Z_]+=', word))
    return words[count:], dict(word.split('=', 1) for word in words[:count])


def _run_tool(words: list[str]) -> None:
    kind = Path(words[0]).stem
    if kind not in ('train', 'test'):
        run_here(words)
        return
    cfg = Config.fromfile(words[1])
    options = [f'{key}={_text(value)}' for key, value in _small(words[1], cfg).items()]
    place = words.index('--cfg-options') + 1 if '--cfg-options' in words else len(words) + 1
    work_dir = Path(cfg.get('work_dir') or f'work_dirs/{Path(words[1]).stem}')
    run_here([*words[:place], *([] if '--cfg-options' in words else ['--cfg-options']), *options, *words[place:]])
    if kind == 'train':
        last = Path((work_dir / 'last_checkpoint').read_text())
        by_epoch = 'max_epochs' in cfg.train_cfg
        length = f'epoch_{cfg.train_cfg.max_epochs}' if by_epoch else f'iter_{cfg.train_cfg.max_iters}'
        if not (work_dir / f'{length}.pth').exists():  # what the whole run would have written
            os.link(last, work_dir / f'{length}.pth')
    elif '--out' not in words:
        assert list(work_dir.glob('*/*.json'))


def _small(config: str, cfg: Config) -> dict[str, object]:
    """What shrinks a recipe; of the demonstration's and the pages' own configs the models stay as they are."""
    options = shrink(cfg)
    if config.startswith(('configs/demo/', 'mine/')):
        options = {key: value for key, value in options.items() if not key.startswith('model.')}
        options = {key: value for key, value in options.items() if not key.endswith('_evaluator.vocab_size')}
    if cfg.get('default_scope') == 'mmseg':
        options.update(
            {
                f'{loader}.{key}': 1
                for loader in ('val_dataloader', 'test_dataloader')
                for key in ('batch_size', 'dataset.indices')
            }
        )
        if not config.startswith('configs/demo/'):
            options.update(SMALL_SCENES)
            options.update({f'tta_pipeline.1.transforms.0.{place}.scale': (256, 64) for place in range(6)})
    return options


def _text(value: object) -> str:
    return str(value).replace(' ', '')
