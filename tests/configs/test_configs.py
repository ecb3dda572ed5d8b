"""Every config builds its model, pipelines, optimiser and schedules, and follows the release's schedule."""

import math

import pytest
import torch
from mmcv.transforms import Compose
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, HOOKS, METRICS
from support.recipes import build, build_schedules, EPOCH_LENGTH, find, load, millions, on_meta, rates, RECIPES


def test_all_recipes_are_found():
    assert {
        'beit_tokenizer.py',
        'beit_pretrain.py',
        'beit_finetune.py',
        'beit_segment.py',
        'demo/tokenizer.py',
        'demo/pretrain.py',
        'demo/finetune.py',
        'demo/segment.py',
    } <= set(RECIPES)


@pytest.mark.parametrize('name', RECIPES)
def test_config_builds(name):
    cfg = load(name)
    assert cfg.custom_imports.imports == ['beit_mm']
    model = build(name, cfg)
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if cfg.get(key):
            dataset = cfg[key].dataset
            assert find(DATASETS, dataset.type) is not None
            assert len(Compose(dataset.pipeline).transforms) == len(dataset.pipeline)
    if 'tta_pipeline' in cfg:
        assert Compose(cfg.tta_pipeline).transforms
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert sum(len(group['params']) for group in wrapper.optimizer.param_groups) == len(trainable)
    assert build_schedules(cfg, wrapper.optimizer)
    for hook in [*cfg.default_hooks.values(), *cfg.get('custom_hooks', [])]:
        assert find(HOOKS, hook.type) is not None, hook.type
    for evaluator in ('val_evaluator', 'test_evaluator'):
        if cfg.get(evaluator):
            assert find(METRICS, cfg[evaluator].type) is not None
    assert {'LocalVisBackend', 'TensorboardVisBackend'} == {backend.type for backend in cfg.visualizer.vis_backends}


def test_sizes_are_the_published_ones():
    assert millions(on_meta(load('beit_finetune.py'))) == pytest.approx(86.53, abs=0.005)
    pretrain = on_meta(load('beit_pretrain.py'))
    assert pretrain.lm_head.out_features == 8192
    # 53.8 M in OpenAI's encoder, as computed from its layout.
    assert millions(pretrain.target.tokenizer.encoder) == pytest.approx(53.8, abs=0.1)


@pytest.mark.parametrize(
    'name, base, floor, warmup, epochs',
    [('beit_pretrain.py', 1.5e-3, 1e-5, 10, 800), ('beit_finetune.py', 4e-3, 1e-6, 20, 100)],
)
def test_cosine_schedules_follow_the_release(name, base, floor, warmup, epochs):
    """Release: a line from 0 over the warm-up steps, then half a cosine from base to floor."""
    steps, start = epochs * EPOCH_LENGTH, warmup * EPOCH_LENGTH
    found = rates(name, steps)
    line = torch.linspace(0, base, start)
    progress = torch.arange(steps - start) / (steps - start)
    expected = torch.cat([line, floor + (base - floor) * (1 + torch.cos(math.pi * progress)) / 2])
    assert (found - expected).abs().max() < 0.01 * base
    for step in (0, start - 1, (start + steps) // 2, steps - 1):
        assert found[step] == pytest.approx(expected[step].item(), rel=0.02, abs=1e-8), step


def test_segmentation_schedule_follows_the_release():
    """Release: (1 - step / 160000) of the rate, times a line from 1e-6 to 1 over 1,500 steps."""
    steps = 20000
    found = rates('beit_segment.py', steps)
    step = torch.arange(steps)
    expected = 7e-4 * (1 - step / 160000) * (1e-6 + (1 - 1e-6) * (step / 1499).clamp(max=1))
    assert (found - expected).abs().max() < 0.01 * 7e-4
    assert found[0] < 1e-9
