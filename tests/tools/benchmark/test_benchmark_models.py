"""The benchmark's sections on models compare like with like."""

import pytest
import torch
from mmengine.optim import OptimWrapper
from support.tools import import_tool

pretraining = import_tool('benchmark', 'pretraining')
scaling = import_tool('benchmark', 'scaling')
segmentation = import_tool('benchmark', 'segmentation')
trunks = import_tool('benchmark', 'trunks')
peers = import_tool('benchmark', 'peers')
steps = import_tool('benchmark', 'steps')


TINY = dict(rounds=1, depth=2, width=64)
HALF = steps.computing_dtype() != torch.float32  # then ours stands in float32 as well


def check(rows, names) -> None:
    assert [row.name for row in rows] == names
    assert all(row.seconds > 0 and row.share_of_limit > 0 and row.dtype for row in rows)


def test_pretraining():
    rows = pretraining.compare_pretraining(batch=2, n_hid=8, **TINY)
    check(rows, ['ours', *['ours, float32'] * HALF, "the release's steps", 'MMPretrain'])
    assert {row.dtype for row in rows[1:]} == {'float32'}


def test_pretraining_models_have_the_same_sizes():
    tokenizers = ('target.', 'target_generator.')  # MMPretrain hands its own to the optimizer, where it has no gradient
    counts = {
        sum(
            parameter.numel()
            for name, parameter in build(64, 2, 8)[0].named_parameters()
            if not name.startswith(tokenizers)
        )
        for build in (pretraining.our_model, pretraining.hosts_model)
    }
    assert len(counts) == 1


def test_the_hosts_optimizer_is_that_of_its_recipe():
    model, config = pretraining.hosts_model(64, 2, 8)
    wrapper = steps.build_hosts_wrapper(model, config)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = wrapper.optimizer.param_groups
    assert type(wrapper) is OptimWrapper and len(groups) == len(trained)
    assert {group['weight_decay'] for group in groups} == {0.0, 0.05} and not any(g['fused'] for g in groups)
    model, config = pretraining.our_model(64, 2, 8)
    groups = steps.build_wrapper(model, config).optimizer.param_groups
    assert len(groups) == 2 and all(group['fused'] for group in groups)


@pytest.mark.long
def test_trunks():
    rows = trunks.compare_trunks(batch=2, size=32, **TINY)
    names = [
        'ours',
        *['ours, float32'] * HALF,
        'ours, no bias',
        'ours, activation checkpointing',
        'timm',
        *['timm, float32'] * HALF,
        'MMPretrain',
    ]
    check(rows[: len(names)], names)
    assert {'ours', 'ours, no bias', 'timm', 'MMPretrain'} <= {row.name for row in rows[len(names) :]}
    check(rows, [row.name for row in rows])


def test_classifiers_have_the_same_sizes():
    ours, host, bare = (
        model
        for model, _ in (
            trunks.our_classifier(64, 2, 32),
            trunks.hosts_classifier(64, 2, 32),
            trunks.our_classifier(64, 2, 32, use_rel_pos_bias=False),
        )
    )
    counts = [sum(p.numel() for p in model.parameters()) for model in (ours, host, bare)]
    assert counts[0] == counts[1] == counts[2] + 2 * (3 * 3 + 3)  # two tables of a 2 x 2 grid


def test_segmentation():
    rows = segmentation.compare_segmentation(size=48, rounds=1, depth=6, width=64)
    check(rows, ['ours', 'MMSegmentation', 'ours', *['ours, float32'] * HALF, 'MMSegmentation'])
    assert rows[0].figures['differing pixels'] == 0
    assert 0 < rows[0].figures['largest difference of logits'] < 1e-4


def test_segmentors_with_different_results_are_not_compared():
    models = [model.eval() for model, _ in segmentation.segmentors(size=48, depth=6, width=64).values()]
    images = segmentation.draw_images(48)
    assert [tuple(pixels.shape[2:]) for pixels, _ in images] == [(48, 64), (48, 48)]
    assert segmentation.differences(*models, images)['differing pixels'] == 0
    with torch.no_grad():
        models[1].decode_head.conv_seg.bias[7] += 10
    with pytest.raises(ValueError, match=r'the class maps .* must agree .* more than 0.0001 apart, \d+ pixels differ'):
        segmentation.differences(*models, images)


@pytest.mark.parametrize('processes', [(1,), pytest.param((1, 2), marks=pytest.mark.long)])
def test_scaling(processes):
    rows = scaling.compare_scaling(batch=1, sizes=(32, 48), processes=processes, **TINY)
    parallel = rows[9:]
    assert [row.name for row in rows] == [
        '32 x 32',
        '48 x 48',
        '1 images',
        '2 images',
        '4 images',
        '8 images',
        '1 blocks',
        '2 blocks',
        '4 blocks',
        *['1 process', '2 processes'][: len(processes)],
    ]
    check(rows[:9], [row.name for row in rows[:9]])
    assert all(row.seconds > 0 for row in parallel)
    assert [row.figures for row in parallel[1:]] == [
        {'share of 2 times the first': pytest.approx(1 / 2 / row.ratio)} for row in parallel[1:]
    ]
