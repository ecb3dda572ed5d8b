"""The README's commands for ImageNet and ADE20K, on small stand-ins in the same layouts and with shrunk models."""

import re
import shlex
from pathlib import Path

import pytest
from support import ROOT
from support.tools import run, scores

README = (ROOT / 'README.md').read_text()
COMMANDS = re.findall(r'^    (tools/\S+\.sh .*)$', README, flags=re.M)
TRUNK = ['model.backbone.embed_dim=32', 'model.backbone.num_heads=2']
TOKENIZER = ['vocab_size=16', 'n_hid=8', 'n_init=8', 'blocks_per_group=1']


def loaders(data: Path, *names: str, **more) -> list:
    return [
        f'{name}.{key}={value}'
        for name in names
        for key, value in {
            'dataset.data_root': data,
            'num_workers': 0,
            'persistent_workers': False,
            'batch_size': 2,
            **more,
        }.items()
    ]


@pytest.fixture(scope='module')
def options(digits):
    """What shrinks each recipe; nothing else of it is changed."""
    imagenet = loaders(digits / 'imagenet', 'train_dataloader', 'val_dataloader', 'test_dataloader')
    epoch = [
        'train_cfg.max_epochs=1',
        'param_scheduler.0.end=1',
        'default_hooks.checkpoint.interval=1',
        'train_dataloader.dataset.indices=8',
    ]
    iters = ['train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'default_hooks.checkpoint.interval=2']
    return {
        'beit_tokenizer': [
            *(f'model.{option}' for option in TOKENIZER),
            'val_evaluator.vocab_size=16',
            *iters,
            *imagenet,
            'val_dataloader.dataset.indices=4',
        ],
        'beit_pretrain': [
            *TRUNK,
            *(f'model.target.tokenizer.{option}' for option in TOKENIZER),
            *epoch,
            *loaders(digits / 'imagenet', 'train_dataloader'),
        ],
        'beit_finetune': [
            *TRUNK,
            'model.head.in_channels=32',
            *epoch,
            *imagenet,
            'val_dataloader.dataset.indices=4',
            'test_dataloader.dataset.indices=4',
        ],
        'beit_segment': [
            *TRUNK,
            'model.neck.embed_dim=32',
            'model.decode_head.in_channels=[32,32,32,32]',
            'model.decode_head.channels=16',
            'model.auxiliary_head.in_channels=32',
            *iters,
            *loaders(digits / 'ade20k', 'train_dataloader', 'val_dataloader', 'test_dataloader'),
            'val_dataloader.batch_size=1',
            'test_dataloader.batch_size=1',
            'val_dataloader.dataset.indices=2',
            'test_dataloader.dataset.indices=2',
        ],
    }


@pytest.mark.parametrize('num_commands', [1, pytest.param(6, marks=pytest.mark.long)])
def test_the_road_of_the_readme_runs_on_two_processes(options, tmp_path, num_commands):
    """Tokenizer, pre-training, fine-tuning and segmentation, each from what the one before wrote."""
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    (tmp_path / 'tools').symlink_to(ROOT / 'tools')
    # The names of checkpoints at the end of the full recipes.
    written = {
        'beit_tokenizer': ('iter_2', 'iter_1200000'),
        'beit_pretrain': ('epoch_1', 'epoch_800'),
        'beit_finetune': ('epoch_1', 'epoch_100'),
        'beit_segment': ('iter_2', 'iter_160000'),
    }
    road = [command for command in COMMANDS if 'PATH/' not in command]
    assert [Path(shlex.split(command)[1]).stem for command in road] == [
        'beit_tokenizer',
        'beit_pretrain',
        'beit_finetune',
        'beit_finetune',
        'beit_segment',
        'beit_segment',
    ]
    for command in road[:num_commands]:
        words = shlex.split(command)
        recipe = Path(words[1]).stem
        words[words.index('8')] = '2'
        output = run(*words, '--cfg-options', *options[recipe], cwd=tmp_path)
        folder = tmp_path / 'work_dirs' / recipe
        if words[0].endswith('dist_train.sh'):
            now, later = written[recipe]
            (folder / f'{now}.pth').rename(folder / f'{later}.pth')
            if recipe in ('beit_finetune', 'beit_segment'):
                assert 'shared bias table to 12 blocks' in output
            if recipe == 'beit_segment':
                assert 'bias tables 14 x 14 to 32 x 32' in output
        else:
            assert {'beit_finetune': 'accuracy/top1', 'beit_segment': 'mIoU'}[recipe] in scores(folder)


def test_every_config_and_tool_of_the_readme_exists():
    names = set(re.findall(r'(?:configs|tools|docs)/[\w/]+\.\w+', README))
    assert len(names) > 8
    for name in names:
        assert (ROOT / name).exists(), name


def test_makefile_has_the_readmes_targets():
    makefile = (ROOT / 'Makefile').read_text()
    targets = set(re.findall(r'^    make (\w+)', README, flags=re.M))
    assert targets == {'demo', 'test'}
    for target in targets:
        assert re.search(rf'^{target}: ', makefile, flags=re.M)
    assert 'make test' in (ROOT / '.ci' / 'run').read_text()
