"""FullyShardedStrategy trains as DDP does, and its checkpoints are the plain Runner's."""

from pathlib import Path

import pytest
import torch
from mmengine.runner import CheckpointLoader
from support.checkpoints import differences
from support.processes import train

from beit_mm.checkpoint.files import find_damage

STATES = ('state_dict', 'optimizer', 'param_schedulers')
ACCUMULATING = {'optim_wrapper.accumulative_counts': 3, 'train_cfg.max_epochs': 3}  # two updates of three steps


def content(checkpoint: Path) -> dict:
    loaded = CheckpointLoader.load_checkpoint(str(checkpoint))
    return {key: loaded[key] for key in STATES}


def assert_close(left: dict, right: dict) -> None:
    """Differences of float32 sums in another order: gradients of two processes are added in pieces."""
    assert left.keys() == right.keys()
    for key, value in left.items():
        if isinstance(value, dict):
            assert_close(value, right[key])
        elif isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, right[key], rtol=1e-5, atol=5e-6, msg=lambda text: f'{key}: {text}')
        else:
            assert value == right[key], key


def test_pre_training_has_the_numbers_the_checkpoint_and_the_pictures_of_ddp(pretrained):
    (plain, scalars), (sharded, sharded_scalars) = pretrained.values()
    assert len(scalars['train/loss']) == 4
    assert_close(sharded_scalars, scalars)
    assert_close(content(sharded / 'epoch_2.pth'), content(plain / 'epoch_2.pth'))
    assert find_damage(sharded / 'epoch_2.pth') is None
    for folder in (plain, sharded):  # the main process draws; of a model in shards, all compute
        assert sorted(path.name for path in folder.glob('*/vis_data/vis_image/*')) == [
            f'{name}_{step}.png' for name in ('codebook', 'reconstruction') for step in (2, 4)
        ]
        assert all('nothing drawn' not in path.read_text() for path in folder.glob('*/*.log'))


def test_a_resumed_run_equals_one_never_stopped(configs, pretrained, tmp_path):
    folder, scalars = pretrained['_sharded']
    resumed = train(configs / 'pretrain_sharded.py', tmp_path, 2, resume=str(folder / 'epoch_1.pth'))
    # Of the first two steps the file has one process's.
    assert torch.equal(resumed['train/loss'][2:], scalars['train/loss'][2:])
    assert differences(content(tmp_path / 'epoch_2.pth'), content(folder / 'epoch_2.pth')) == []


@pytest.mark.parametrize('start, kind', [('_sharded', ''), ('', '_sharded')])
def test_either_resumes_the_others_checkpoint_on_one_process(start, kind, configs, pretrained, tmp_path):
    """One process with twice the batch instead of two."""
    folder, _ = pretrained[start]
    options = {'train_dataloader.batch_size': 8, 'train_cfg.allow_world_size_change': True}
    train(configs / f'pretrain{kind}.py', tmp_path, 1, resume=str(folder / 'epoch_1.pth'), **options)
    assert_close(content(tmp_path / 'epoch_2.pth')['state_dict'], content(folder / 'epoch_2.pth')['state_dict'])


def test_fine_tuning_has_the_numbers_of_ddp_and_resumes_between_two_updates(configs, pretrained, tmp_path):
    """With layer-wise rates, a bias table in every block and accumulation, from a pre-trained checkpoint."""
    options = dict(ACCUMULATING, load_from=str(pretrained['_sharded'][0] / 'epoch_2.pth'))
    plain, sharded, resumed = tmp_path / 'plain', tmp_path / 'sharded', tmp_path / 'resumed'
    expected = train(configs / 'finetune.py', plain, 2, **options)
    scalars = train(configs / 'finetune_sharded.py', sharded, 2, **options)
    assert len(scalars['train/loss']) == 6 and len(scalars['train/grad_norm']) == 2
    assert_close(scalars, expected)
    assert_close(content(sharded / 'epoch_3.pth'), content(plain / 'epoch_3.pth'))
    start = str(sharded / 'epoch_1.pth')
    again = train(configs / 'finetune_sharded.py', resumed, 2, resume=start, **ACCUMULATING)
    assert torch.equal(again['train/loss'][2:], scalars['train/loss'][2:])
    assert differences(content(resumed / 'epoch_3.pth'), content(sharded / 'epoch_3.pth')) == []
