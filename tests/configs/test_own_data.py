"""configs/own_data: all else follows from a user's own path, classes and image size."""

import re
import shutil
from pathlib import Path

import pytest
from mmengine.config import Config
from support import CONFIGS, ROOT
from support.clone import run_command, write_released_weights
from support.data import write_own
from support.recipes import load
from support.tools import leave_text_as_it_is, scores

CLASSES = [f'class_{index}' for index in range(7)]
VALUES = dict(
    tokenizer=dict(data_root='elsewhere/images', img_size=96),
    tokenizer_kmeans={},
    pretrain=dict(data_root='elsewhere/images', img_size=96),
    finetune=dict(data_root='elsewhere/classify', classes=CLASSES, img_size=64),
    segment=dict(data_root='elsewhere/segment', classes=CLASSES[:5], crop=64),
    finetune_base=dict(data_root='elsewhere/classify', classes=CLASSES),
    segment_base=dict(data_root='elsewhere/segment', classes=CLASSES[:5]),
)
PUBLISHED = {name: f'beit_{name}.py' for name in VALUES} | dict(
    tokenizer_kmeans='beit_tokenizer.py',
    finetune_base='classify/beit_base_224_22k_to_1k.py',
    segment_base='segment/beit_base_512_ft22k_to_ade20k.py',
)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A working directory in which a user has changed the values at the top of the configs."""
    shutil.copytree(CONFIGS, tmp_path / 'configs')
    (tmp_path / 'tools').symlink_to(ROOT / 'tools')
    for name, values in VALUES.items():
        config = tmp_path / 'configs' / 'own_data' / f'{name}.py'
        text = config.read_text()
        for key, value in values.items():
            text, count = re.subn(rf'^{key} = [^#\n]*', f'{key} = {value!r}', text, flags=re.M)
            assert count == 1, key
        config.write_text(text)
    leave_text_as_it_is(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_grids_heads_and_colours_follow(project):
    pretrain, finetune, finetune_base, segment, segment_base = (
        Config.fromfile(f'configs/own_data/{name}.py')
        for name in ('pretrain', 'finetune', 'finetune_base', 'segment', 'segment_base')
    )
    mask = next(step for step in pretrain.train_dataloader.dataset.pipeline if 'MaskGenerator' in step.type)
    assert mask.grid == (6, 6) and mask.num_masked == 14 and mask.min_block_size == 3  # as configs/demo
    for cfg in (finetune, finetune_base):
        assert cfg.model.head.num_classes == cfg.model.data_preprocessor.num_classes == 7
        assert cfg.val_evaluator.topk == (1, 5)
    for cfg in (segment, segment_base):
        assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == 5
        assert cfg.train_dataloader.dataset.pipeline[1].num_classes == 5
        assert len({tuple(colour) for colour in cfg.test_dataloader.dataset.metainfo.palette}) == 5
    assert segment.model.test_cfg == dict(mode='slide', crop_size=(64, 64), stride=(42, 42))


@pytest.mark.long
def test_all_stages_train_and_are_tested(project):
    write_own(project / 'elsewhere', CLASSES, num_labels=5)
    write_released_weights(project)
    for name in VALUES:
        run_command(f'python tools/train.py configs/own_data/{name}.py')
    run_command('python tools/test.py configs/own_data/finetune.py work_dirs/own_data/finetune/epoch_100.pth')
    assert {'accuracy/top1', 'accuracy/top5'} <= set(scores(project / 'work_dirs/own_data/finetune'))
    run_command('python tools/test.py configs/own_data/segment.py work_dirs/own_data/segment/iter_20000.pth --tta')
    assert 'mIoU' in scores(project / 'work_dirs/own_data/segment')


def test_a_short_tokenizer_training_draws_after_every_update(tmp_path):
    text = (CONFIGS / 'own_data' / 'tokenizer.py').read_text().replace('../beit', f'{CONFIGS}/beit')
    (tmp_path / 'short.py').write_text(text.replace('max_iters = 20000', 'max_iters = 10'))
    assert Config.fromfile(tmp_path / 'short.py').default_hooks.pictures.interval == 1


@pytest.mark.parametrize('name', VALUES)
def test_formulas_give_the_papers_numbers_at_the_papers_size(name):
    ours, paper = load(f'own_data/{name}.py'), load(PUBLISHED[name])
    for loader in {'train_dataloader', 'val_dataloader'} & set(paper):
        pipelines = [cfg[loader].dataset.pipeline for cfg in (ours, paper)]
        for step in (step for pipeline in pipelines for step in pipeline):
            step.pop('num_classes', None)
        assert pipelines[0][1:] == pipelines[1][1:]
    if 'segment' in name:
        for cfg in (ours, paper):
            cfg.tta_pipeline[1].transforms[2][0].pop('num_classes', None)  # maybe the same object as above
        assert ours.tta_pipeline == paper.tta_pipeline
        assert ours.model.test_cfg == paper.model.test_cfg
