from pathlib import Path

import pytest
from support.digits import write_classification
from support.processes import train

SMALL = """
model = dict(backbone=dict(embed_dim=32, depth=2, num_heads=2, drop_path_rate=0.0))
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
PRETRAIN = """
model.update(target=dict(tokenizer=dict(vocab_size=16, n_hid=8, n_init=8, init_cfg=None)))
optim_wrapper = dict(optimizer=dict(lr=1e-2), dtype='float32')
"""
FINETUNE = """
model['backbone'].update(init_cfg=None)
model.update(head=dict(in_channels=32))
optim_wrapper = dict(optimizer=dict(lr=1e-2), dtype='float32', clip_grad=dict(max_norm=1.0))
"""
SHARDED = """_base_ = '{base}'
runner_type = 'FlexibleRunner'
strategy = dict(type='beit_mm.FullyShardedStrategy')
"""


@pytest.fixture(scope='session')
def configs(tmp_path_factory) -> Path:
    """Config files of tiny trainings: pretrain.py and finetune.py, each also `_sharded`."""
    folder = tmp_path_factory.mktemp('scale')
    write_classification(folder / 'data', limit=4, renders=1)
    demo = Path(__file__).parents[2] / 'configs' / 'demo'
    for name, own in dict(pretrain=PRETRAIN, finetune=FINETUNE).items():
        text = SMALL.replace('{data}', str(folder / 'data')) + own
        (folder / f'{name}.py').write_text(f"_base_ = '{demo}/{name}.py'\n{text}")
        (folder / f'{name}_sharded.py').write_text(SHARDED.format(base=folder / f'{name}.py'))
    return folder


@pytest.fixture(scope='session')
def pretrained(configs, tmp_path_factory) -> dict:
    """Runs of two processes by kind: folder and scalars."""
    runs = {}
    for kind in ('', '_sharded'):
        folder = tmp_path_factory.mktemp(f'pretrain{kind}')
        runs[kind] = folder, train(configs / f'pretrain{kind}.py', folder, 2)
    return runs
