"""The tools as a user runs them: training, resuming, testing, processes, and mistakes that end in one sentence."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import ROOT
from support.tools import data_options, run, scores, SMALL_TRUNK, tool

DEMO = 'configs/demo'
TARGET = 'model.target.tokenizer'
SMALL_TOKENIZER = ['vocab_size=16', 'n_hid=8', 'n_init=8']
EPOCH = ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'default_hooks.checkpoint.interval=1']
ITERATIONS = ['train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'default_hooks.checkpoint.interval=2']
DEMO_COMMAND = ['-m', 'beit_mm', 'demo', '--work-dir', '{}']
CHECK = ['-m', 'beit_mm', 'check', 'configs/demo/finetune.py']
LOGGED = 'default_hooks.logger.interval=1'


@pytest.fixture(scope='module')
def tokenizer(digits, tmp_path_factory) -> Path:
    """Checkpoint of a tokenizer trained for two steps."""
    folder = tmp_path_factory.mktemp('tokenizer')
    small = [*(f'model.{option}' for option in SMALL_TOKENIZER), 'val_evaluator.vocab_size=16']
    options = ['--cfg-options', *small, *ITERATIONS, LOGGED, *data_options(digits)]
    (folder / 'traceback.txt').write_text("an earlier run's")
    output = tool('train', f'{DEMO}/tokenizer.py', '--work-dir', folder, *options)
    assert not (folder / 'traceback.txt').exists()
    for logged in ('eta:', 'perplexity:', 'used_codes:', 'temperature:', 'loss_kl:', 'psnr:'):
        assert logged in output, logged
    assert list(folder.glob('*/vis_data/events.out.tfevents*')), 'TensorBoard is on by default'
    return folder / 'iter_2.pth'


@pytest.fixture(scope='module')
def pretrain_options(digits, tokenizer) -> list[str]:
    small = [*SMALL_TRUNK, *(f'{TARGET}.{option}' for option in SMALL_TOKENIZER)]
    start = f'{TARGET}.init_cfg.checkpoint={tokenizer}'
    return ['--cfg-options', *small, start, *data_options(digits), *EPOCH[1:], LOGGED]


@pytest.fixture(scope='module')
def pretrained(pretrain_options, tmp_path_factory) -> Path:
    """Checkpoint of a pre-training of six epochs."""
    folder = tmp_path_factory.mktemp('pretrain')
    length = ['train_cfg.max_epochs=6', 'param_scheduler.0.end=1']
    output = tool('train', f'{DEMO}/pretrain.py', '--work-dir', folder, *pretrain_options, *length)
    losses = [float(value) for value in re.findall(r' loss: ([\d.]+)', output)]
    assert len(losses) == 6 * 12  # 100 images, 8 a step, the last dropped
    assert sum(losses[-6:]) < 0.98 * sum(losses[:6]), 'the loss falls'
    assert 'masked_token_accuracy:' in output and 'eta:' in output
    return folder / 'epoch_6.pth'


def class_scores(folder: Path) -> list[dict]:
    (record,) = folder.glob('*/vis_data/run_test.json')
    return list(json.loads(record.read_text())['class_scores'].values())


def test_pretraining_resumes_from_the_latest_checkpoint(pretrain_options, pretrained, tmp_path):
    folder = shutil.copytree(pretrained.parent, tmp_path / 'copy')
    options = ['--resume', *pretrain_options, 'train_cfg.max_epochs=7']
    output = tool('train', f'{DEMO}/pretrain.py', '--work-dir', folder, *options)
    assert 'resumed epoch: 6' in output and 'Epoch(train) [7]' in re.sub(r' +', ' ', output)
    assert (folder / 'epoch_7.pth').is_file()


def test_pretraining_is_tested_by_masked_token_accuracy(pretrain_options, pretrained, tmp_path):
    tool('test', f'{DEMO}/pretrain.py', pretrained, '--work-dir', tmp_path, *pretrain_options)
    assert 0 <= scores(tmp_path)['masked_token/accuracy'] <= 100


@pytest.fixture(scope='module')
def finetune_options(digits, pretrained) -> list[str]:
    start = f'model.backbone.init_cfg.checkpoint={pretrained}'
    small = [*SMALL_TRUNK, 'model.head.in_channels=32', 'param_scheduler.0.end=1']
    return ['--cfg-options', *small, start, *data_options(digits), *EPOCH]


@pytest.fixture(scope='module')
def classifier(finetune_options, tmp_path_factory) -> tuple[Path, float]:
    """Checkpoint of a classifier, and its score."""
    folder = tmp_path_factory.mktemp('finetune')
    output = tool('train', f'{DEMO}/finetune.py', '--work-dir', folder, '--auto-scale-lr', *finetune_options)
    assert re.search(
        r'BEiT trunk: \d+ of \d+ tensors loaded; adapted: shared bias table to 2 blocks; '
        r'missing: fc_norm \(2\); left out: mask_token \(1\), norm \(2\)',
        output,
    )
    assert 'Scaling the original LR by 0.25' in output  # 8 images a step instead of 32
    return folder / 'epoch_1.pth', float(re.findall(r'accuracy/top1: ([\d.]+)', output)[-1])


@pytest.mark.parametrize('processes', [1, pytest.param(2, marks=pytest.mark.long)])
def test_fine_tuning_starts_from_pretraining_and_is_tested(processes, finetune_options, classifier, tmp_path):
    checkpoint, score = classifier
    arguments = [f'{DEMO}/finetune.py', checkpoint]
    options = ['--work-dir', tmp_path, *finetune_options]
    if processes == 1:
        tool('test', *arguments, '--show-dir', tmp_path / 'shown', *options)
        assert len(list((tmp_path / 'shown').rglob('*.png'))) == sum(row['images'] for row in class_scores(tmp_path))
    else:
        run('tools/dist_test.sh', *arguments, '2', *options)
    assert scores(tmp_path)['accuracy/top1'] == pytest.approx(score, abs=1e-3)
    if processes == 1:
        rows = class_scores(tmp_path)
        right, images = sum(row['accuracy'] * row['images'] for row in rows), sum(row['images'] for row in rows)
        assert right / images == pytest.approx(score, abs=1e-3)


@pytest.fixture(scope='module')
def segment_options(digits, pretrained) -> list[str]:
    heads = ['decode_head.in_channels=[32,32,32,32]', 'decode_head.channels=16', 'auxiliary_head.in_channels=32']
    model = [
        'backbone.out_indices=[0,0,1,1]',
        f'backbone.init_cfg.checkpoint={pretrained}',
        'neck.embed_dim=32',
        *heads,
    ]
    batches = ['val_dataloader.batch_size=1', 'test_dataloader.batch_size=1']
    data = [*data_options(digits, 'ade20k', batch_size=4), *batches]
    return ['--cfg-options', *SMALL_TRUNK, *(f'model.{option}' for option in model), *ITERATIONS, *data]


@pytest.fixture(scope='module')
def segmentor(segment_options, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('segment')
    output = tool('train', f'{DEMO}/segment.py', '--work-dir', folder, *segment_options)
    assert 'shared bias table to 2 blocks' in output and 'mIoU' in output
    return folder / 'iter_2.pth'


def test_segmentation_draws_and_dumps_predictions(segment_options, segmentor, tmp_path):
    folders = ['--work-dir', tmp_path, '--show-dir', tmp_path / 'shown', '--out', tmp_path / 'labels']
    tool('test', f'{DEMO}/segment.py', segmentor, *folders, *segment_options)
    ious = [row['IoU'] for row in class_scores(tmp_path)]
    assert scores(tmp_path)['mIoU'] == pytest.approx(np.nanmean(ious), abs=0.01)
    assert len(list((tmp_path / 'labels').glob('*.png'))) == 4, 'a label map per scene'
    assert list((tmp_path / 'shown').rglob('*.png')), 'a picture per image'


def test_segmentation_at_several_scales_and_flipped(segment_options, segmentor, tmp_path):
    """Sizes that are no multiple of the patch or of the window, also smaller than it."""
    config = tmp_path / 'several_scales.py'
    config.write_text(f"""_base_ = '{ROOT}/{DEMO}/segment.py'
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


@pytest.mark.parametrize(
    'options, words',
    [
        (['--cfg-options', 'train_dataloader.dataset.data_root=nowhere'], 'train_dataloader.dataset.*nowhere'),
        (['--cfg-options', 'optim_wraper.optimizer.lr=1'], 'configs/demo/tokenizer.py.*optim_wraper'),
        (['--launcher', 'pytorch'], '--launcher pytorch is for processes that tools/dist_train.sh'),
        (['--resume', 'nowhere.pth'], '--resume names a checkpoint that does not exist: nowhere.pth'),
    ],
)
def test_a_training_that_cannot_start_ends_in_one_sentence(options, words, tmp_path):
    output = tool('train', f'{DEMO}/tokenizer.py', '--work-dir', tmp_path, *options, ok=False)
    (sentence,) = [line for line in output.splitlines() if line.startswith('error: ')]
    assert re.search(words, sentence)
    assert 'Iter(train)' not in output and 'Traceback' not in output and (tmp_path / 'traceback.txt').is_file()


@pytest.mark.long
def test_one_failing_process_ends_all(pretrain_options, tmp_path):
    """The other process waits for the failing one in a collective and must not hang."""
    config = tmp_path / 'one_bad_process.py'
    config.write_text(f"""_base_ = '{ROOT}/{DEMO}/pretrain.py'
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
    options = ['--work-dir', tmp_path / 'run', *pretrain_options]
    output = run('tools/dist_train.sh', config, '2', *options, ok=False, PYTHONPATH=f'{tmp_path}:{ROOT}')
    assert output.splitlines()[-1].endswith(': no mask can be drawn on this process')


def test_a_port_in_use_is_one_sentence_and_the_last():
    """Of several nodes; one node finds a free port by itself."""
    with socket.create_server(('0.0.0.0', 0)) as other:
        nodes = dict(NNODES='2', NODE_RANK='0', MASTER_ADDR='127.0.0.1', PORT=str(other.getsockname()[1]))
        output = run('tools/dist_train.sh', f'{DEMO}/finetune.py', '1', ok=False, **nodes)
    assert re.match('error: MASTER_ADDR and PORT must be free .*failed to listen', output.splitlines()[-1])
    assert 'Traceback' not in output


ANALYSIS = 'analysis_tools/report.py', 'analysis_tools/score_tokenizer.py'
SCRIPTS = 'train.py', 'test.py', 'torchrun.py', 'benchmark', 'misc/print_config.py', *ANALYSIS
COMMANDS = [*([f'tools/{name}'] for name in SCRIPTS), DEMO_COMMAND, CHECK]


@pytest.mark.parametrize(
    'words, module',
    [*((words, 'torch') for words in COMMANDS), *((words, 'argparse') for words in (*COMMANDS[:2], *COMMANDS[-2:]))],
)
def test_ctrl_c_while_a_module_is_imported(words, module, tmp_path):
    (tmp_path / f'{module}.py').write_text('import os, signal\nos.kill(os.getpid(), signal.SIGINT)')
    paths = dict(PYTHONPATH=f'{tmp_path}{os.pathsep}{ROOT}')
    ended = subprocess.run(
        [sys.executable, *(word.format(tmp_path) for word in words)],
        cwd=ROOT,
        env={**os.environ, **paths},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (130, 'interrupted\n')
