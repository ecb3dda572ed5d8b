"""Every recipe trains two updates and is evaluated, on stand-ins of its data, shrunk by options alone."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader
from mmpretrain.datasets import CIFAR100
from support.data import write_all
from support.recipe_table import NAMES
from support.recipes import ABSOLUTE, load, scores_of, shrink, test, train
from support.tools import leave_text_as_it_is


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    """A folder whose `data` holds all stand-ins."""
    folder = tmp_path_factory.mktemp('recipes')
    with pytest.MonkeyPatch.context() as patch:
        checksums = write_all(folder)
        patch.setattr(CIFAR100, 'train_list', [['train', checksums['train']]])
        patch.setattr(CIFAR100, 'test_list', [['test', checksums['test']]])
        leave_text_as_it_is(patch.setattr)
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope='module')
def starts(data) -> dict[bool, Path]:
    """Checkpoints to start from: pre-trained, and (True) fine-tuned."""
    pretrained = train('beit_pretrain.py', data / 'starts' / 'pretrain')
    fine_tuned = train(
        'beit_finetune.py', data / 'starts' / 'finetune', **{'model.backbone.init_cfg.checkpoint': str(pretrained)}
    )
    return {False: pretrained, True: fine_tuned}


@pytest.mark.parametrize('name', NAMES)
def test_recipe_trains_two_updates_and_is_evaluated(name, data, starts, tmp_path):
    cfg = load(name)
    start = cfg.model.get('backbone', {}).get('init_cfg')
    options = {}
    if start:
        is_fine_tuned = re.search('ft22k|finetune|to_1k', start.checkpoint) is not None
        options['model.backbone.init_cfg.checkpoint'] = str(starts[is_fine_tuned])
    checkpoint = train(name, tmp_path / 'run', **options)
    content = CheckpointLoader.load_checkpoint(str(checkpoint))
    assert content['meta']['iter'] == 2 * cfg.optim_wrapper.get('accumulative_counts', 1)
    assert {int(state['step']) for state in content['optimizer']['state'].values()} == {2}
    assert all(tensor.isfinite().all() for tensor in content['state_dict'].values())

    if 'pretrain' in name:  # has no score of its own
        checkpoint = train(
            'beit_finetune.py',
            tmp_path / 'finetune',
            **(ABSOLUTE if 'absolute' in name else {}),
            **{'model.backbone.init_cfg.checkpoint': str(checkpoint)},
        )
        scores = scores_of(tmp_path / 'finetune')
    elif cfg.get('val_dataloader'):
        scores = scores_of(tmp_path / 'run')
    else:
        scores = test(name, checkpoint, tmp_path / 'test')
    score = 'tokenizer/psnr' if 'tokenizer' in name else 'mIoU' if cfg.default_scope == 'mmseg' else 'accuracy/top1'
    assert 0 <= scores[score] <= 100


def test_multi_scale_test_runs_at_640(data, tmp_path):
    name = 'segment/beit_base_640_ft22k_to_ade20k.py'
    small = {'model.backbone.depth': 1, 'model.backbone.out_indices': [0] * 4}
    cfg = load(name)
    cfg.merge_from_dict({**shrink(cfg), **small})
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), tmp_path / 'random.pth')
    scores = test(
        name,
        tmp_path / 'random.pth',
        tmp_path / 'test',
        tta=True,
        **small,
        **{'test_dataloader.batch_size': 1, 'test_dataloader.dataset.indices': 1},
    )
    assert 0 <= scores['mIoU'] <= 100
