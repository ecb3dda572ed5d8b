"""Processes, accumulated steps, shards and nodes share out one large batch: the same numbers, weights and files."""

import os
import socket
import subprocess
from pathlib import Path

import pytest
import torch
from mmengine.runner import CheckpointLoader
from support import CONFIGS, ROOT
from support.checkpoints import differences
from support.digits import write_classification
from support.processes import TIMEOUT, train
from support.tools import VARIABLES

from beit_mm.checkpoint.files import find_damage

SMALL = """_base_ = '{configs}/demo/{name}.py'
model = dict(backbone=dict(init_cfg=None, embed_dim=32, depth=2, num_heads=2, drop_path_rate=0.0),
    {model})
optim_wrapper = dict(optimizer=dict(lr=1e-2), dtype='float32', clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.5, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.1, by_epoch=True, begin=1, end=2, convert_to_iter_based=True)]
loading = dict(num_workers=0, persistent_workers=False, pin_memory=False)
train_dataloader = dict(**loading, batch_size=4, dataset=dict(data_root='{data}', indices=16))
val_dataloader = dict(**loading, batch_size=4, dataset=dict(data_root='{data}', indices=8))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=2, val_interval=2)
default_hooks = dict(
    checkpoint=dict(interval=1, max_keep_ckpts=-1), logger=dict(interval=1), pictures=dict(interval=2))
"""
MODELS = dict(
    pretrain='target=dict(tokenizer=dict(vocab_size=16, n_hid=8, n_init=8, init_cfg=None))',
    finetune='head=dict(in_channels=32)',
)
SHARDED = """_base_ = './{name}.py'
runner_type = 'FlexibleRunner'
strategy = dict(type='beit_mm.FullyShardedStrategy')
"""


@pytest.fixture(scope='module')
def configs(tmp_path_factory) -> Path:
    """Config files of tiny trainings of four steps: pretrain.py and finetune.py, each also `_sharded`."""
    folder = tmp_path_factory.mktemp('scale')
    write_classification(folder / 'data', limit=4, renders=1)
    for name, model in MODELS.items():
        text = SMALL.format(configs=CONFIGS, name=name, model=model, data=folder / 'data')
        (folder / f'{name}.py').write_text(text)
        (folder / f'{name}_sharded.py').write_text(SHARDED.format(name=name))
    return folder


# Without shards

# No schedule, as it counts steps, and no AdamW at gradients of nearly 0, where rounding decides about the sign.
STEADY = {
    'param_scheduler': [dict(type='ConstantLR', factor=1.0, end=1, by_epoch=False)],
    'optim_wrapper.optimizer.eps': 1e-4,
}
# Processes, images per process and step, steps per update.
SHARES = [(2, 4, 1), (1, 4, 2), (2, 2, 2)]


def run_shares(config: Path, folder: Path, processes: int, images: int, accumulated: int) -> tuple:
    """Loss and gradient norm of every update, and the weights at the end."""
    sizes = {'train_dataloader.batch_size': images, 'optim_wrapper.accumulative_counts': accumulated}
    scalars = train(config, folder, processes, **STEADY, **sizes)
    losses = scalars['train/loss'].unflatten(0, (-1, accumulated)).mean(dim=1)
    return losses, scalars['train/grad_norm'], content(folder / 'epoch_2.pth')['state_dict']


@pytest.fixture(scope='module')
def large_batch(configs, tmp_path_factory) -> dict:
    """One process with all 8 images in one step."""
    return {name: run_shares(configs / f'{name}.py', tmp_path_factory.mktemp(name), 1, 8, 1) for name in MODELS}


@pytest.mark.parametrize(
    'name, shares',
    [
        *(('pretrain', shares) for shares in SHARES),
        ('finetune', SHARES[-1]),
        *(pytest.param('finetune', shares, marks=pytest.mark.long) for shares in SHARES[:-1]),
    ],
)
def test_shares_of_a_batch_train_as_the_whole(name, shares, configs, large_batch, tmp_path):
    losses, norms, weights = run_shares(configs / f'{name}.py', tmp_path, *shares)
    expected_losses, expected_norms, expected = large_batch[name]
    assert len(losses) == len(norms) == 4
    torch.testing.assert_close(losses, expected_losses, rtol=1e-6, atol=0)
    torch.testing.assert_close(norms, expected_norms, rtol=1e-6, atol=0)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-6)  # the learning rate is 1e-2


# In shards


@pytest.fixture(scope='module')
def pretrained(configs, tmp_path_factory) -> dict:
    """Runs of two processes, '' without shards and '_sharded': folder and scalars."""
    runs = {}
    for kind in ('', '_sharded'):
        folder = tmp_path_factory.mktemp(f'pretrain{kind}')
        runs[kind] = folder, train(configs / f'pretrain{kind}.py', folder, 2)
    return runs


def content(checkpoint: Path) -> dict:
    loaded = CheckpointLoader.load_checkpoint(str(checkpoint))
    return {key: loaded[key] for key in ('state_dict', 'optimizer', 'param_schedulers')}


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


def test_pre_training_in_shards_has_the_numbers_the_checkpoint_and_the_pictures_of_ddp(pretrained):
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


def test_fine_tuning_in_shards_has_the_numbers_of_ddp_and_resumes_between_two_updates(configs, pretrained, tmp_path):
    """With layer-wise rates, a bias table in every block and accumulation, from a pre-trained checkpoint."""
    steps = {'optim_wrapper.accumulative_counts': 3, 'train_cfg.max_epochs': 3}
    options = dict(steps, load_from=str(pretrained['_sharded'][0] / 'epoch_2.pth'))
    plain, sharded, resumed = tmp_path / 'plain', tmp_path / 'sharded', tmp_path / 'resumed'
    expected = train(configs / 'finetune.py', plain, 2, **options)
    scalars = train(configs / 'finetune_sharded.py', sharded, 2, **options)
    assert len(scalars['train/loss']) == 6 and len(scalars['train/grad_norm']) == 2, 'two updates of three steps'
    assert_close(scalars, expected)
    assert_close(content(sharded / 'epoch_3.pth'), content(plain / 'epoch_3.pth'))
    again = train(configs / 'finetune_sharded.py', resumed, 2, resume=str(sharded / 'epoch_1.pth'), **steps)
    assert torch.equal(again['train/loss'][2:], scalars['train/loss'][2:])
    assert differences(content(resumed / 'epoch_3.pth'), content(sharded / 'epoch_3.pth')) == []


# On two machines, played by two launchers on this one


def start_node(rank: int, port: int, config: Path, work_dir: Path, log: Path) -> subprocess.Popen:
    node = dict(NNODES='2', NODE_RANK=str(rank), MASTER_ADDR='127.0.0.1', PORT=str(port))
    command = ['tools/dist_train.sh', str(config), '1', '--work-dir', str(work_dir)]
    streams = dict(stdout=log.open('w'), stderr=subprocess.STDOUT)
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **VARIABLES, **node}, **streams)


@pytest.mark.long
def test_two_nodes_train_as_two_processes_of_one(configs, pretrained, tmp_path):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    work_dir, logs = tmp_path / 'run', [tmp_path / 'node_0.txt', tmp_path / 'node_1.txt']
    nodes = [start_node(rank, port, configs / 'pretrain.py', work_dir, log) for rank, log in enumerate(logs)]
    try:
        assert [node.wait(TIMEOUT) for node in nodes] == [0, 0], [log.read_text()[-2000:] for log in logs]
    finally:
        for node in nodes:
            node.kill()
    assert 'Epoch(train) [2][2/2]' in ' '.join(logs[0].read_text().split())
    assert 'Epoch(train)' not in logs[1].read_text(), 'the main process alone logs'
    one, _ = pretrained['']
    assert sorted(path.name for path in work_dir.glob('*.pth')) == ['epoch_1.pth', 'epoch_2.pth']
    assert differences(content(work_dir / 'epoch_2.pth'), content(one / 'epoch_2.pth')) == []
