"""The tools as a user runs them: training, resuming, testing, two processes, and mistakes that end in one sentence."""

import re
import shutil
from pathlib import Path

import pytest
from support import ROOT
from support.tools import data_options, run, scores, SMALL_TRUNK, tool

SMALL_TOKENIZER = ['vocab_size=16', 'n_hid=8', 'n_init=8']


@pytest.fixture(scope='session')
def tokenizer(digits, tmp_path_factory) -> Path:
    """Checkpoint of a tokenizer trained for two steps."""
    folder = tmp_path_factory.mktemp('tokenizer')
    output = tool(
        'train',
        'configs/demo/tokenizer.py',
        '--work-dir',
        folder,
        '--cfg-options',
        *(f'model.{option}' for option in SMALL_TOKENIZER),
        'train_cfg.max_iters=2',
        'train_cfg.val_interval=2',
        'default_hooks.checkpoint.interval=2',
        'default_hooks.logger.interval=1',
        'val_evaluator.vocab_size=16',
        *data_options(digits),
    )
    for logged in ('eta:', 'perplexity:', 'used_codes:', 'temperature:', 'loss_kl:', 'psnr:'):
        assert logged in output, logged
    assert list(folder.glob('*/vis_data/events.out.tfevents*')), 'TensorBoard is on by default'
    return folder / 'iter_2.pth'


def pretrain_options(digits: Path, tokenizer: Path) -> list:
    target = 'model.target.tokenizer'
    return [
        '--cfg-options',
        *SMALL_TRUNK,
        *(f'{target}.{option}' for option in SMALL_TOKENIZER),
        f'{target}.init_cfg.checkpoint={tokenizer}',
        *data_options(digits),
        'default_hooks.logger.interval=1',
        'train_cfg.val_interval=1',
        'default_hooks.checkpoint.interval=1',
    ]


@pytest.fixture(scope='session')
def pretrained(digits, tokenizer, tmp_path_factory) -> Path:
    """Checkpoint of a pre-training on two processes."""
    folder = tmp_path_factory.mktemp('pretrain')
    output = run(
        'tools/dist_train.sh',
        'configs/demo/pretrain.py',
        '2',
        '--work-dir',
        folder,
        *pretrain_options(digits, tokenizer),
        'train_cfg.max_epochs=6',
        'train_dataloader.batch_size=4',
        'param_scheduler.0.end=1',
    )
    assert 'find_unused_parameters' not in output
    losses = [float(value) for value in re.findall(r' loss: ([\d.]+)', output)]
    # 100 images, 2 processes x 4: 12 steps an epoch, the last of them dropped.
    assert len(losses) == 6 * 12
    assert sum(losses[-6:]) < 0.98 * sum(losses[:6]), 'the loss falls'
    assert 'masked_token_accuracy:' in output and 'eta:' in output
    return folder / 'epoch_6.pth'


def test_pretraining_resumes_from_the_latest_checkpoint(digits, tokenizer, pretrained, tmp_path):
    folder = shutil.copytree(pretrained.parent, tmp_path / 'copy')
    output = tool(
        'train',
        'configs/demo/pretrain.py',
        '--work-dir',
        folder,
        '--resume',
        *pretrain_options(digits, tokenizer),
        'train_cfg.max_epochs=7',
        'train_cfg.allow_world_size_change=True',
    )  # pre-trained by two processes
    assert 'resumed epoch: 6' in output
    assert 'Epoch(train) [7]' in re.sub(r' +', ' ', output)
    assert (folder / 'epoch_7.pth').is_file()


def test_pretraining_is_tested_by_masked_token_accuracy(digits, tokenizer, pretrained, tmp_path):
    tool('test', 'configs/demo/pretrain.py', pretrained, '--work-dir', tmp_path, *pretrain_options(digits, tokenizer))
    assert 0 <= scores(tmp_path)['masked_token/accuracy'] <= 100


def test_fine_tuning_starts_from_pretraining_and_is_tested(digits, pretrained, tmp_path):
    options = [
        '--cfg-options',
        *SMALL_TRUNK,
        'model.head.in_channels=32',
        *data_options(digits),
        'train_cfg.max_epochs=1',
        'train_cfg.val_interval=1',
        'default_hooks.checkpoint.interval=1',
        f'model.backbone.init_cfg.checkpoint={pretrained}',
        'param_scheduler.0.end=1',
    ]
    output = tool('train', 'configs/demo/finetune.py', '--work-dir', tmp_path, '--auto-scale-lr', *options)
    assert re.search(
        r'BEiT trunk: \d+ of \d+ tensors loaded; adapted: shared bias table to 2 blocks; '
        r'missing: fc_norm \(2\); left out: mask_token \(1\), norm \(2\)',
        output,
    )
    assert 'Scaling the original LR by 0.5' in output  # 8 images a step instead of 16
    trained = re.findall(r'accuracy/top1: ([\d.]+)', output)[-1]

    run(
        'tools/dist_test.sh',
        'configs/demo/finetune.py',
        tmp_path / 'epoch_1.pth',
        '2',
        '--work-dir',
        tmp_path / 'test',
        *options,
    )
    assert scores(tmp_path / 'test')['accuracy/top1'] == pytest.approx(float(trained), abs=1e-3)


@pytest.fixture(scope='session')
def segment_options(digits, pretrained) -> list:
    return [
        '--cfg-options',
        *SMALL_TRUNK,
        'model.backbone.out_indices=[0,0,1,1]',
        'model.neck.embed_dim=32',
        'model.decode_head.in_channels=[32,32,32,32]',
        'model.decode_head.channels=16',
        'model.auxiliary_head.in_channels=32',
        f'model.backbone.init_cfg.checkpoint={pretrained}',
        'train_cfg.max_iters=2',
        'train_cfg.val_interval=2',
        'default_hooks.checkpoint.interval=2',
        *data_options(digits, 'ade20k', batch_size=4),
        'val_dataloader.batch_size=1',
        'test_dataloader.batch_size=1',
    ]


@pytest.fixture(scope='session')
def segmentor(segment_options, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('segment')
    output = tool('train', 'configs/demo/segment.py', '--work-dir', folder, *segment_options)
    assert 'shared bias table to 2 blocks' in output and 'mIoU' in output
    return folder / 'iter_2.pth'


def test_segmentation_draws_and_dumps_predictions(segment_options, segmentor, tmp_path):
    tool(
        'test',
        'configs/demo/segment.py',
        segmentor,
        '--work-dir',
        tmp_path,
        '--show-dir',
        tmp_path / 'shown',
        '--out',
        tmp_path / 'labels',
        *segment_options,
    )
    assert 0 <= scores(tmp_path)['mIoU'] <= 100
    assert len(list((tmp_path / 'labels').glob('*.png'))) == 4, 'a label map per scene'
    assert list((tmp_path / 'shown').rglob('*.png')), 'a picture per image'


def test_segmentation_at_several_scales_and_flipped(segment_options, segmentor, tmp_path):
    """Sizes that are no multiple of the patch or of the window, also smaller than it."""
    config = tmp_path / 'several_scales.py'
    config.write_text(f"""_base_ = '{ROOT}/configs/demo/segment.py'
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='Resize', scale=(400, side), keep_ratio=True) for side in (70, 96, 133)],
        [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
        [dict(type='LoadAnnotations')],
        [dict(type='PackSegInputs')]])]
""")
    tool('test', config, segmentor, '--work-dir', tmp_path, '--tta', *segment_options)
    assert 0 <= scores(tmp_path)['mIoU'] <= 100


def fails(config: str, folder: Path, *options: str) -> str:
    """The one sentence in which a training that cannot start ends."""
    output = tool('train', f'configs/demo/{config}.py', '--work-dir', folder, '--cfg-options', *options, ok=False)
    assert 'Epoch(train)' not in output and 'Iter(train)' not in output
    sentences = [line for line in output.splitlines() if line.startswith('error: ')]
    assert len(sentences) == 1 and 'Traceback' not in output, output[-2000:]
    assert (folder / 'traceback.txt').is_file()
    return sentences[0]


def test_missing_data_folder_is_named(tmp_path):
    message = fails('tokenizer', tmp_path, 'train_dataloader.dataset.data_root=nowhere')
    assert 'train_dataloader.dataset' in message and 'does not exist: nowhere' in message


def test_empty_data_folder_is_named(tmp_path):
    (tmp_path / 'data' / 'train' / 'class_without_pictures').mkdir(parents=True)
    message = fails('tokenizer', tmp_path, f'train_dataloader.dataset.data_root={tmp_path / "data"}')
    assert 'train_dataloader.dataset' in message and f'without any file: {tmp_path / "data" / "train"}' in message


def test_missing_checkpoint_is_named(digits, tmp_path):
    message = fails(
        'pretrain', tmp_path, *data_options(digits), 'model.target.tokenizer.init_cfg.checkpoint=nowhere.pth'
    )
    assert 'model.target.tokenizer.init_cfg.checkpoint names a checkpoint that does not exist: nowhere.pth' in message


def test_too_many_masked_patches(digits, tokenizer, tmp_path):
    message = fails(
        'pretrain',
        tmp_path,
        *pretrain_options(digits, tokenizer)[1:],
        'train_dataloader.dataset.pipeline.3.num_masked=37',
    )
    assert 'num_masked must be 1 to 36' in message and 'got 37' in message


def test_grids_of_tokens_and_masks_that_differ(digits, tokenizer, tmp_path):
    message = fails(
        'pretrain',
        tmp_path,
        *pretrain_options(digits, tokenizer)[1:],
        'train_dataloader.dataset.pipeline.2.second_scale=56',
    )
    assert '(6, 6), got (7, 7)' in message and 'second_scale' in message and 'grid of the mask generator' in message


def test_image_size_that_the_patch_does_not_divide(digits, tokenizer, tmp_path):
    message = fails(
        'pretrain', tmp_path, *pretrain_options(digits, tokenizer)[1:], 'train_dataloader.dataset.pipeline.2.scale=100'
    )
    assert 'scale' in message and 'multiples of the patch size 16, got 100 x 100' in message


def test_checkpoint_that_is_no_beit(digits, tokenizer, tmp_path):
    message = fails(
        'finetune', tmp_path, *data_options(digits), f'load_from={tokenizer}', 'model.backbone.init_cfg=None'
    )
    assert f'{tokenizer}: the checkpoint does not fit this BEiT trunk: 0 of its' in message
    message = fails(
        'finetune', tmp_path / 'init', *data_options(digits), f'model.backbone.init_cfg.checkpoint={tokenizer}'
    )
    assert str(tokenizer) in message and 'backbone. is not in the pretrained model' in message


def test_vocabulary_that_does_not_fit(digits, tokenizer, pretrained, tmp_path):
    """The tokenizer's file against the config, and a pre-trained head against the tokenizer."""
    options = pretrain_options(digits, tokenizer)[1:]
    message = fails('pretrain', tmp_path, *options, 'model.target.tokenizer.vocab_size=32')
    assert 'does not fit this tokenizer' in message and 'vocab_size=32' in message
    message = fails(
        'pretrain',
        tmp_path / 'head',
        *options,
        'model.target.tokenizer.vocab_size=32',
        'model.target.tokenizer.init_cfg=None',
        f'load_from={pretrained}',
    )
    assert 'lm_head must have 32 outputs' in message and 'has 16' in message


def test_one_failing_process_ends_all(digits, tokenizer, tmp_path):
    """The other process waits for the failing one in a collective and must not hang."""
    config = tmp_path / 'one_bad_process.py'
    config.write_text(f"""_base_ = '{ROOT}/configs/demo/pretrain.py'
custom_imports = dict(imports=['beit_mm', 'bad_transform'], allow_failed_imports=False)
""")
    (tmp_path / 'bad_transform.py').write_text("""
import os
from beit_mm.datasets import BlockwiseMaskGenerator
draw = BlockwiseMaskGenerator.generate
def generate(self):
    if os.environ['RANK'] == '1':
        raise ValueError('no mask can be drawn on this process')
    return draw(self)
BlockwiseMaskGenerator.generate = generate
""")
    output = run(
        'tools/dist_train.sh',
        config,
        '2',
        '--work-dir',
        tmp_path / 'run',
        *pretrain_options(digits, tokenizer),
        ok=False,
        PYTHONPATH=f'{tmp_path}:{ROOT}',
    )
    assert 'error: no mask can be drawn on this process' in output


def test_unknown_key_of_cfg_options(tmp_path):
    message = fails('tokenizer', tmp_path, 'optim_wraper.optimizer.lr=1')
    assert 'configs/demo/tokenizer.py' in message and 'optim_wraper' in message


def test_resuming_from_a_checkpoint_that_is_not_there(tmp_path):
    output = tool('train', 'configs/demo/tokenizer.py', '--work-dir', tmp_path, '--resume', 'nowhere.pth', ok=False)
    assert 'error: --resume names a checkpoint that does not exist: nowhere.pth' in output
