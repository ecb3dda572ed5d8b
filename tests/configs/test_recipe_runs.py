"""A recipe of every structure trains two updates and is evaluated, on small data, shrunk by options alone.

Recipes of one structure differ in numbers, which test_recipes.py and test_schedules.py compare with the sources.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader
from support.data import enter
from support.recipes import load, logged_scores, shrink, SMALL_SCENES, test, train

STRUCTURES = {
    'tokenizer': 'beit_tokenizer.py',
    'tokens': 'beit_pretrain.py',
    'random masks': 'pretrain/beit_base_1k_300e_random_masks.py',
    'pixels': 'pretrain/beit_base_1k_300e_pixels.py',
    'all tokens': 'pretrain/beit_base_1k_300e_all_tokens.py',
    'absolute positions': 'pretrain/beit_base_1k_800e_absolute_positions.py',
    'tokenizer of v2': 'pretrain/beitv2_tokenizer_clip.py',
    'two predictions': 'pretrain/beitv2_base_1k_300e.py',
    'any images': 'pretrain/beit_small_own_data.py',
    'classifier': 'beit_finetune.py',
    'large classifier, accumulated': 'classify/beit_large_224_pt1k_to_1k.py',
    'another classifier before': 'classify/beit_base_384_22k_to_1k.py',
    'classes of ImageNet-22k': 'classify/beit_base_224_pt22k_to_22k.py',
    'CIFAR': 'classify/beit_base_224_ft1k_to_cifar100.py',
    'from scratch': 'classify/beit_base_224_scratch_to_1k.py',
    'segmentor': 'beit_segment.py',
    'linear segmentor': 'segment/linear_base_512_pt1k_to_ade20k.py',
    'segmentor of neighbours': 'segment/neighbours_base_512_pt1k_to_ade20k.py',
    'large segmentor, accumulated': 'segment/beit_large_640_ft22k_to_ade20k.py',
}


@pytest.fixture(scope='module')
def run(data, tmp_path_factory) -> Callable[[str], Path]:
    """The folder of a training of two updates by a recipe, done once."""
    folders: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp('run')
            train(name, folders[name], **start(name, get), **(SMALL_SCENES if 'segment/' in name else {}))
        return folders[name]

    with pytest.MonkeyPatch.context() as patch:
        enter(data, patch)
        yield get


def start(name: str, run: Callable[[str], Path]) -> dict[str, object]:
    """The option that names the checkpoint to start from: a small pre-trained or fine-tuned model."""
    if 'pretrain/beitv2_base' in name:
        tokenizer = (run('pretrain/beitv2_tokenizer_clip.py') / 'last_checkpoint').read_text()
        return {'model.target.tokenizer.init_cfg': dict(type='Pretrained', checkpoint=tokenizer)}
    init = load(name).model.get('backbone', {}).get('init_cfg')
    if not init:
        return {}
    is_fine_tuned = re.search('ft22k|ft1k|finetune|to_1k', init.checkpoint) is not None
    before = run('beit_finetune.py' if is_fine_tuned else 'beit_pretrain.py')
    return {'model.backbone.init_cfg.checkpoint': (before / 'last_checkpoint').read_text()}


@pytest.mark.parametrize('name', [STRUCTURES[kind] for kind in ('tokenizer', 'classifier', 'segmentor')])
def test_a_log_holds_no_warnings_of_the_hosts_own_code(name, run):
    log = ''.join(path.read_text() for path in run(name).glob('*/*.log'))
    assert 'train data: ' in log and not re.search('WARNING - .*(in future|prefix is not set)', log)


@pytest.mark.parametrize('name', STRUCTURES.values(), ids=list(STRUCTURES))
def test_two_updates_and_a_score(name, run, tmp_path):
    cfg, folder = load(name), run(name)
    checkpoint = (folder / 'last_checkpoint').read_text()
    content = CheckpointLoader.load_checkpoint(checkpoint)
    assert content['meta']['iter'] == 2 * cfg.optim_wrapper.get('accumulative_counts', 1)
    assert {int(state['step']) for state in content['optimizer']['state'].values()} == {2}
    assert all(tensor.isfinite().all() for tensor in content['state_dict'].values())
    if 'pretrain' not in name or 'tokenizer' in name:  # pre-training has no score
        scores = logged_scores(folder) if cfg.get('val_dataloader') else test(name, checkpoint, tmp_path)
        quality = 'teacher_distance' if 'v2' in name else 'psnr'
        score = f'tokenizer/{quality}' if 'tokenizer' in name else 'mIoU' if 'segment' in name else 'accuracy/top1'
        assert 0 <= scores[score] <= 100


def test_absolute_positions_are_fine_tuned(run, tmp_path):
    options = {
        'model.backbone.use_abs_pos_emb': True,
        'model.backbone.use_rel_pos_bias': False,
        'model.backbone.layer_scale_init_value': 0,
        'model.backbone.init_cfg.checkpoint': (run(STRUCTURES['absolute positions']) / 'last_checkpoint').read_text(),
    }
    train('beit_finetune.py', tmp_path, **options)
    assert 0 <= logged_scores(tmp_path)['accuracy/top1'] <= 100


@pytest.mark.long
def test_multi_scale_test_runs_at_640(run, tmp_path):
    name = 'segment/beit_base_640_ft22k_to_ade20k.py'
    small = {'model.backbone.depth': 1, 'model.backbone.out_indices': [0] * 4}
    cfg = load(name)
    cfg.merge_from_dict({**shrink(cfg), **small})
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), tmp_path / 'random.pth')
    loader = {'test_dataloader.batch_size': 1, 'test_dataloader.dataset.indices': 1}
    scores = test(name, tmp_path / 'random.pth', tmp_path / 'test', tta=True, **small, **loader)
    assert 0 <= scores['mIoU'] <= 100
