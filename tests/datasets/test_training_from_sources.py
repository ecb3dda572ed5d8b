"""Pre-training on ImageNet-22k's sources: the fragments of configs/_base_/datasets, through the launcher."""

from pathlib import Path

import datasets
import pytest
from mmengine.config import Config
from support.data import jpeg, write_shards
from support.tools import train

BASES = Path(__file__).parents[2] / 'configs' / '_base_'
RECIPE = """_base_ = ['{bases}/runtime.py', '{bases}/models/beit_base_pretrain.py', '{bases}/datasets/{source}.py']
optim_wrapper = dict(type='beit_mm.AutocastOptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05))
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1)
"""
SHRUNK = {
    'model.backbone.embed_dim': 32,
    'model.backbone.depth': 1,
    'model.backbone.num_heads': 2,
    'model.target.tokenizer.vocab_size': 16,
    'model.target.tokenizer.n_hid': 8,
    'model.target.tokenizer.n_init': 8,
    'train_dataloader.batch_size': 2,
    'default_hooks.logger.interval': 1,
    'vis_backends': [],
    'visualizer.vis_backends': [],
}


def write_shards_of(folder: Path) -> dict:
    write_shards(folder, count=5, per_shard=2)
    return {'data_root': str(folder), 'shards': 'train-{000000..000002}.tar'}


def write_table(folder: Path) -> dict:
    columns = dict(image=[dict(bytes=jpeg(index), path=None) for index in range(5)], label=[0, 1, 0, 1, 0])
    table = datasets.Dataset.from_dict(columns).cast_column('image', datasets.Image())
    datasets.DatasetDict(train=table).save_to_disk(folder)
    return {'path': str(folder)}


WRITERS = dict(imagenet22k_shards=write_shards_of, imagenet22k_huggingface=write_table)


@pytest.mark.parametrize('num_workers', [0, 2])
@pytest.mark.parametrize('source', WRITERS)
def test_two_steps_of_pretraining(source, num_workers, tmp_path):
    config = tmp_path / f'{source}_{num_workers}.py'
    config.write_text(RECIPE.format(bases=BASES, source=source))
    options = {f'train_dataloader.dataset.{key}': value for key, value in WRITERS[source](tmp_path / 'data').items()}
    loader = {'train_dataloader.num_workers': num_workers, 'train_dataloader.persistent_workers': False}
    train(config, tmp_path / 'run', cfg_options={**SHRUNK, **options, **loader})
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    assert 'train data: 5 images\n' in log
    assert 'Epoch(train) [1][1/2]' in log and 'Epoch(train) [1][2/2]' in log and 'loss: 2.7' in log
    assert (tmp_path / 'run' / 'epoch_1.pth').is_file()


@pytest.mark.parametrize('source', WRITERS)
def test_only_the_source_differs_from_the_folders(source):
    folders, other = (Config.fromfile(BASES / 'datasets' / f'{name}.py') for name in ('imagenet_pretrain', source))
    pipelines = [cfg.train_dataloader.pop('dataset').pipeline for cfg in (folders, other)]
    assert folders.to_dict() == other.to_dict()
    assert pipelines[0] == pipelines[1] and pipelines[1][0].type == 'beit_mm.LoadImage'
