"""MMPretrain's and MMSegmentation's own tools/train.py and tools/test.py run our configs."""

import pickle

import pytest
from support.project import last_score

pytestmark = pytest.mark.long

LOADERS = [
    f'{name}.{key}={value}'
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader')
    for key, value in dict(num_workers=0, persistent_workers=False).items()
]
TRUNK = ['model.backbone.embed_dim=32', 'model.backbone.depth=2', 'model.backbone.num_heads=2']


def test_mmpretrain_pre_trains(project):
    tokenizer = ['vocab_size=16', 'n_hid=8', 'n_init=8', 'init_cfg=None']
    output = project.host_tool(
        'mmpretrain',
        'train',
        project.mim / 'configs' / 'demo' / 'pretrain.py',
        '--work-dir',
        'work_dirs/pretrain',
        '--cfg-options',
        *TRUNK,
        *(f'model.target.tokenizer.{option}' for option in tokenizer),
        *LOADERS,
        'train_dataloader.batch_size=25',
        'train_cfg.max_epochs=1',
        'train_cfg.val_interval=1',
        'param_scheduler.0.end=1',
        'default_hooks.checkpoint.interval=1',
    )
    assert 0 <= last_score(output, 'masked_token/accuracy') <= 100
    assert (project.folder / 'work_dirs' / 'pretrain' / 'epoch_1.pth').is_file()


def test_mmpretrain_tests_what_it_trained(project, classifier):
    """Our recipe itself, not the project's config."""
    output = project.host_tool(
        'mmpretrain',
        'test',
        project.mim / 'configs' / 'demo' / 'finetune.py',
        classifier.checkpoint,
        '--work-dir',
        'work_dirs/classify_test',
        '--out',
        'predictions.pkl',
        '--cfg-options',
        *TRUNK,
        'model.head.in_channels=32',
        *LOADERS,
    )
    assert last_score(output, 'accuracy/top1') == classifier.score
    predictions = pickle.loads((project.folder / 'predictions.pkl').read_bytes())
    assert len(predictions) == len(list((project.folder / 'data/digits/imagenet/val').rglob('*.jpg')))


def test_mmseg_tests_what_it_trained(project, segmentor):
    """Our recipe itself, not the project's config."""
    widths = [
        'model.neck.embed_dim=32',
        'model.decode_head.in_channels=[32,32,32,32]',
        'model.decode_head.channels=16',
        'model.auxiliary_head.in_channels=32',
        'model.auxiliary_head.channels=16',
    ]
    output = project.host_tool(
        'mmseg',
        'test',
        project.mim / 'configs' / 'demo' / 'segment.py',
        segmentor.checkpoint,
        '--work-dir',
        'work_dirs/segment_test',
        '--out',
        'labels',
        '--cfg-options',
        *TRUNK,
        'model.backbone.out_indices=[0,0,1,1]',
        *widths,
        *LOADERS,
    )
    assert last_score(output, 'mIoU') == segmentor.score
    assert len(list((project.folder / 'labels').glob('*.png'))) == 2
