"""The benchmark's sections on models compare like with like."""

from dataclasses import replace

import pytest
import torch
from mmengine.optim import OptimWrapper
from support.tools import import_tool

pretraining = import_tool('benchmark', 'pretraining')
scaling = import_tool('benchmark', 'scaling')
segmentation = import_tool('benchmark', 'segmentation')
trunks = import_tool('benchmark', 'trunks')
steps = import_tool('benchmark', 'steps')

TINY = import_tool('benchmark', 'measuring').Sizes(rounds=1, batch=2, width=64, depth=2, size=32)
SCENES = replace(TINY, depth=6, size=48)
FLOAT32 = ['ours, float32'] * (steps.computing_dtype() != torch.float32)  # then ours is timed in float32 as well


def check(rows, names) -> None:
    assert [row.name for row in rows] == names
    assert all(row.seconds > 0 and row.share_of_limit > 0 and row.dtype for row in rows)


def count(model: torch.nn.Module) -> int:
    """Of parameters; MMPretrain hands its tokenizer to the optimizer, where it has no gradient."""
    named = model.named_parameters()
    return sum(value.numel() for name, value in named if not name.startswith(('target.', 'target_generator.')))


def test_pretraining():
    rows = pretraining.compare_pretraining(TINY)
    check(rows, ['ours', *FLOAT32, "the release's steps", 'MMPretrain'])
    assert {row.dtype for row in rows[1:]} == {'float32'}


def test_pretraining_models_have_the_same_sizes_and_the_optimizers_of_their_recipes():
    (ours, our_config), (host, host_config) = pretraining.our_model(TINY), pretraining.hosts_model(TINY)
    assert count(ours) == count(host)
    wrapper = steps.build_hosts_wrapper(host, host_config)
    trained = [name for name, parameter in host.named_parameters() if parameter.requires_grad]
    groups = wrapper.optimizer.param_groups
    assert type(wrapper) is OptimWrapper and len(groups) == len(trained)
    assert {group['weight_decay'] for group in groups} == {0.0, 0.05} and not any(g['fused'] for g in groups)
    groups = steps.build_wrapper(ours, our_config).optimizer.param_groups
    assert len(groups) == 2 and all(group['fused'] for group in groups)


@pytest.mark.long
def test_trunks():
    rows = trunks.compare_trunks(TINY)
    timm = ['timm', *(name.replace('ours', 'timm') for name in FLOAT32)]
    names = ['ours', *FLOAT32, 'ours, no bias', 'ours, activation checkpointing', *timm, 'MMPretrain']
    check(rows[: len(names)], names)
    assert {'ours', 'ours, no bias', 'timm', 'MMPretrain'} <= {row.name for row in rows[len(names) :]}


def test_classifiers_have_the_same_sizes():
    bare = trunks.our_classifier(TINY, use_rel_pos_bias=False)[0]
    ours, host = (build(TINY)[0] for build in (trunks.our_classifier, trunks.hosts_classifier))
    assert count(ours) == count(host) == count(bare) + 2 * (3 * 3 + 3)  # two tables of a 2 x 2 grid


def test_segmentation():
    rows = segmentation.compare_segmentation(SCENES)
    check(rows, ['ours', 'MMSegmentation', 'ours', *FLOAT32, 'MMSegmentation'])
    assert rows[0].figures['differing pixels'] == 0
    assert 0 < rows[0].figures['largest difference of logits'] < 1e-4


def test_segmentors_with_different_results_are_not_compared():
    ours, host = (model.eval() for model, _ in segmentation.segmentors(SCENES).values())
    images = segmentation.draw_images(48)
    assert [tuple(pixels.shape[2:]) for pixels, _ in images] == [(48, 64), (48, 48)]
    with torch.no_grad():
        host.decode_head.conv_seg.bias[7] += 10
    with pytest.raises(ValueError, match=r'the class maps .* must agree .* more than 0.0001 apart, \d+ pixels differ'):
        segmentation.differences(ours, host, images)


@pytest.mark.parametrize('processes', [(1,), pytest.param((1, 2), marks=pytest.mark.long)])
def test_scaling(processes):
    rows = scaling.compare_scaling(replace(TINY, batch=1), sides=(32, 48), processes=processes)
    names = ['32 x 32', '48 x 48', *(f'{images} images' for images in (1, 2, 4, 8))]
    check(rows[:9], [*names, '1 blocks', '2 blocks', '4 blocks'])
    first, *others = rows[9:]
    assert [row.name for row in rows[9:]] == ['1 process', '2 processes'][: len(processes)] and first.seconds > 0
    for row in others:
        assert row.figures == {'share of 2 times the first': pytest.approx(1 / 2 / row.ratio)}
