"""The hosts' own tools and programming interfaces run our configs, in a project that has our wheel."""

import pickle
from pathlib import Path

import mmpretrain
import pytest
from support import CONFIGS
from support.project import last_score
from support.recipes import load, RECIPES
from support.tools import run_here, SMALL_TRUNK

NO_WORKERS = ('num_workers=0', 'persistent_workers=False')
TOKENIZER = ('vocab_size=16', 'n_hid=8', 'n_init=8', 'init_cfg=None')


@pytest.mark.long
def test_mmpretrain_pre_trains(project):
    """Our recipe itself, not a config of the project."""
    output = project.host_tool(
        'mmpretrain',
        'train',
        project.mim / 'configs' / 'demo' / 'pretrain.py',
        '--work-dir=work_dirs/pretrain',
        '--cfg-options',
        *SMALL_TRUNK,
        *(f'model.target.tokenizer.{option}' for option in TOKENIZER),
        *(f'{part}_dataloader.{option}' for part in ('train', 'val', 'test') for option in NO_WORKERS),
        *('train_dataloader.batch_size=25', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1'),
        *('param_scheduler.0.end=1', 'default_hooks.checkpoint.interval=1'),
    )
    assert 0 <= last_score(output, 'masked_token/accuracy') <= 100
    assert (project.folder / 'work_dirs' / 'pretrain' / 'epoch_1.pth').is_file()


@pytest.mark.long
def test_mmpretrain_tests_what_it_trained(project, classifier_score):
    checkpoint = 'work_dirs/classify/epoch_1.pth'
    output = project.host_tool('mmpretrain', 'test', 'configs/classify.py', checkpoint, '--out', 'predictions.pkl')
    assert last_score(output, 'accuracy/top1') == classifier_score
    predictions = pickle.loads((project.folder / 'predictions.pkl').read_bytes())
    assert len(predictions) == len(list((project.folder / 'data/digits/imagenet/val').rglob('*.jpg')))


@pytest.mark.long
def test_mmseg_tests_what_it_trained(project, segmentor_score):
    checkpoint = 'work_dirs/segment/iter_2.pth'
    output = project.host_tool('mmseg', 'test', 'configs/segment.py', checkpoint, '--out', 'labels')
    assert last_score(output, 'mIoU') == segmentor_score
    assert len(list((project.folder / 'labels').glob('*.png'))) == 2


@pytest.mark.parametrize(
    'name, options', [('pretrain', ()), ('finetune', ('optim_wrapper.paramwise_cfg.layer_decay_rate=1.0',))]
)
def test_mmpretrain_draws_our_schedules(name, options, tmp_path, monkeypatch):
    """Its tool gives the training loop a loader that is built."""
    tool = Path(mmpretrain.__file__).parent / '.mim' / 'tools' / 'visualization' / 'vis_scheduler.py'
    monkeypatch.setenv('MPLBACKEND', 'agg')
    words = [CONFIGS / 'demo' / f'{name}.py', '-d', '300', '--not-show', '-s', tmp_path / 'curve.png']
    run_here([tool, *words, '--cfg-options', f'work_dir={tmp_path}', *options])
    assert (tmp_path / 'curve.png').stat().st_size > 1000


@pytest.mark.long
@pytest.mark.parametrize('script', ['use_mmpretrain.py', 'use_mmseg.py'])
def test_programming_interfaces(script, project, segmentor_score, flat_copy):
    assert '5 passed' in project.python('-m', 'pytest', '-q', '-p', 'no:cacheprovider', script).stdout


@pytest.mark.parametrize('name', [name for name in RECIPES if 'segment' in name])
def test_mmsegs_inference_model_finds_the_pipeline(name):
    """It reads `test_pipeline` of the config."""
    cfg = load(name)
    assert cfg.default_scope == 'mmseg'
    assert cfg.get('test_pipeline') == cfg.test_dataloader.dataset.pipeline
    assert cfg.test_pipeline[0].type == 'LoadImageFromFile'
