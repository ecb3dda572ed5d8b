"""Weights from one task's model into another's: whoever loads them, the trunk fits them to itself and says so."""

import copy
import logging
import math
import re

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint
from mmpretrain.models import ImageClassifier
from mmseg.models import build_segmentor
from torch import nn

from beit_mm.models import BEiT, MaskedImageModel, NormalisedPixels
from beit_mm.models.backbones.relative_position import expand_bias
from beit_mm.models.weights import resize_position_embedding

WIDTH = dict(embed_dim=32, depth=2, num_heads=4)
SHARED = dict(use_rel_pos_bias=False, use_shared_rel_pos_bias=True)
SHARED_TABLE = 'backbone.rel_pos_bias.relative_position_bias_table'
BLOCK_TABLE = 'backbone.blocks.{}.attn.relative_position_bias_table'


def pre_training_model() -> MaskedImageModel:
    backbone = BEiT(img_size=64, **WIDTH, **SHARED, use_mask_token=True, out_type='raw')
    return draw(MaskedImageModel(backbone, NormalisedPixels()), seed=1)


@DefaultScope.overwrite_default_scope('mmpretrain')
def classifier(img_size=96, init_cfg=None, **options) -> ImageClassifier:
    constant = dict(type='Constant', layer='Linear', val=0.25, bias=0.5)
    return ImageClassifier(
        dict(type='beit_mm.BEiT', img_size=img_size, **{**WIDTH, **options}, init_cfg=init_cfg),
        head=dict(type='LinearClsHead', num_classes=5, in_channels=32, init_cfg=constant),
    )


@DefaultScope.overwrite_default_scope('mmseg')
def segmentor() -> nn.Module:
    head = dict(in_channels=32, in_index=1, channels=8, num_convs=1, concat_input=False, num_classes=3)
    return build_segmentor(
        dict(
            type='EncoderDecoder',
            backbone=dict(type='beit_mm.BEiT', img_size=(64, 96), **WIDTH, out_type='featmap', out_indices=[0, 1]),
            decode_head=dict(type='FCNHead', **head, norm_cfg=dict(type='BN')),
            test_cfg=dict(mode='whole'),
        )
    )


def draw(model: nn.Module, seed: int = 0) -> nn.Module:
    """Parameters that none of which equals its initial value or that of another seed."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def snapshot(model: nn.Module) -> dict:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def save(path, model_or_state) -> str:
    state = model_or_state.state_dict() if isinstance(model_or_state, nn.Module) else model_or_state
    torch.save(dict(state_dict=state, meta=dict(epoch=1)), path)
    return str(path)


def without(state: dict, *parts: str) -> dict:
    return {name: tensor for name, tensor in state.items() if not any(part in name for part in parts)}


def assert_equal(actual: dict, expected: dict) -> None:
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name


@pytest.fixture
def log():
    """What the trunk says to the current MMEngine logger, which does not pass it on to Python's root logger."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    handler.addFilter(lambda record: record.getMessage().startswith('BEiT trunk:'))
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


TABLES = 'bias tables 4 x 4 to '
OF_PRE_TRAINING = 'mask_token (1), norm (2)'
# The models of the weights and of the task, the new grid, and what is adapted, missing and left out.
TRANSFERS = {
    'to a classifier of another size': (
        (pre_training_model, classifier, (6, 6)),
        (f'shared bias table to 2 blocks; {TABLES}6 x 6', 'fc_norm (2)', OF_PRE_TRAINING),
    ),
    'to a segmentor of images that are not square': (
        (pre_training_model, segmentor, (4, 6)),
        (f'shared bias table to 2 blocks; {TABLES}4 x 6', 'none', OF_PRE_TRAINING),
    ),
    'to a trunk without any bias': (
        (pre_training_model, lambda: classifier(use_rel_pos_bias=False), None),
        ('shared bias table dropped', 'fc_norm (2)', OF_PRE_TRAINING),
    ),
    'from a classifier to a segmentor': (
        (lambda: draw(classifier(64), seed=1), segmentor, (4, 6)),
        (f'{TABLES}4 x 6', 'none', 'fc_norm (2)'),
    ),
    'unchanged': ((lambda: draw(classifier(64), seed=1), lambda: classifier(64), (4, 4)), ('none', 'none', 'none')),
}


@pytest.mark.parametrize('name', TRANSFERS)
def test_weights_of_another_task_are_fitted_and_reported(name, tmp_path, log):
    (source, target, grid), (adapted, missing, left_out) = TRANSFERS[name]
    given, model = source(), draw(target())
    path, before = save(tmp_path / 'epoch_1.pth', given), snapshot(model)
    load_checkpoint(model, path)
    given, loaded = given.state_dict(), model.state_dict()
    expected = {**before, **{name: given[name] for name in before.keys() & without(given, 'table', 'grid_size')}}
    for block in (BLOCK_TABLE.format(index) for index in range(2)):
        if grid:
            expected[block] = expand_bias(given[block if block in given else SHARED_TABLE], (4, 4), grid)
    kept = {name for name in before if not name.startswith('backbone.')}
    assert_equal(loaded, {**expected, **({} if name == 'unchanged' else {name: before[name] for name in kept})})
    own = len(list(model.backbone.parameters()))
    assert log == [
        f'BEiT trunk: {own - (2 if missing != "none" else 0)} of {own} tensors loaded; adapted: {adapted}; '
        f'missing: {missing}; left out: {left_out}'
    ]


def test_init_cfg_loads_the_trunk_and_the_rest_keeps_its_initial_weights(tmp_path):
    given = pre_training_model()
    path = save(tmp_path / 'epoch_1.pth', given)
    model = classifier(init_cfg=dict(type='Pretrained', checkpoint=path, prefix='backbone.'))
    model.init_weights()
    given, loaded = given.state_dict(), model.state_dict()
    assert_equal(loaded, without(given, 'table', 'mask_token', 'backbone.norm', 'grid_size', 'lm_head'))
    assert torch.equal(loaded[BLOCK_TABLE.format(1)], expand_bias(given[SHARED_TABLE], (4, 4), (6, 6)))
    assert (loaded['head.fc.weight'] == 0.25).all() and (loaded['head.fc.bias'] == 0.5).all()
    assert (loaded['backbone.fc_norm.weight'] == 1).all() and not loaded['backbone.fc_norm.bias'].any()

    save(tmp_path / 'epoch_1.pth', {'stem.weight': torch.zeros(3)})
    model = classifier(init_cfg=dict(type='Pretrained', checkpoint=path, prefix='backbone.'))
    with pytest.raises(ValueError, match='epoch_1.pth'):
        model.init_weights()


def test_weights_under_any_prefix_stay_as_they_were():
    given = pre_training_model().state_dict()
    weights = {name.replace('backbone.', 'module.student.'): tensor for name, tensor in given.items()}
    before = {name: tensor.clone() for name, tensor in weights.items()}
    trunk = BEiT(img_size=96, **WIDTH)
    nn.ModuleDict(dict(module=nn.ModuleDict(dict(student=trunk)))).load_state_dict(weights, strict=False)
    table = trunk.blocks[1].attn.relative_position_bias_table
    assert torch.equal(table, expand_bias(given[SHARED_TABLE], (4, 4), (6, 6)))
    assert torch.equal(trunk.patch_embed.proj.weight, given['backbone.patch_embed.proj.weight'])
    assert list(weights) == list(before)
    assert_equal(weights, before)

    weights = {name.removeprefix('backbone.'): tensor for name, tensor in given.items() if 'backbone.' in name}
    for assign in (False, True):  # the blocks do not share the table
        trunk = BEiT(img_size=64, **WIDTH, out_type='featmap')
        trunk.load_state_dict(weights, strict=False, assign=assign)
        first, second = (block.attn.relative_position_bias_table for block in trunk.blocks)
        assert torch.equal(first, second) and first.data_ptr() != second.data_ptr()
    missing, unexpected = segmentor().load_state_dict(given, strict=False)
    assert not [name for name in missing if name.startswith('backbone.')]
    assert sorted(unexpected) == ['lm_head.bias', 'lm_head.weight']  # what the trunk left out is not reported again


@pytest.mark.parametrize('build', [pre_training_model, classifier, segmentor])
def test_a_model_loads_its_own_weights_strictly_and_a_copy_loads_for_itself(build):
    model, other = draw(build()), build()
    copied = copy.deepcopy(other)
    before = snapshot(other)
    copied.load_state_dict(model.state_dict(), strict=True)
    assert list(model.state_dict()) == list(copied.state_dict())
    assert_equal(copied.state_dict(), model.state_dict())
    assert_equal(other.state_dict(), before)


# Grids


def test_position_embeddings_are_resized_to_the_trunk_s_grid():
    small, large = (BEiT(img_size=size, **WIDTH, use_abs_pos_emb=True) for size in (64, (64, 96)))
    large.load_state_dict(draw(small).state_dict(), strict=True)
    patches = small.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    expected = nn.functional.interpolate(patches, (4, 6), mode='bicubic', align_corners=False)
    assert torch.equal(large.pos_embed[:, :1], small.pos_embed[:, :1])
    torch.testing.assert_close(large.pos_embed[:, 1:], expected.flatten(2).transpose(1, 2))
    with pytest.raises(ValueError, match='a grid of 3 x 5 patches must have 16 rows, got 10'):
        resize_position_embedding(torch.zeros(1, 10, 4), (2, 2), (3, 5))


def test_position_embeddings_of_a_grid_that_is_not_square():
    options = dict(**WIDTH, use_abs_pos_emb=True, use_rel_pos_bias=False)
    given, same = (BEiT(img_size=size, **options) for size in ((64, 96), (128, 192)))
    same.load_state_dict(draw(given).state_dict())
    images = torch.randn(1, 3, 128, 192)
    torch.testing.assert_close(same(images)[0], given(images)[0])


@pytest.mark.parametrize('given, own', [((112, 80), 112), ((112, 80), (80, 112)), ((208, 80), 224)])
def test_weights_know_the_grid_they_were_trained_on(given, own):
    """The rows of a table do not: 7 x 5 and 5 x 7 patches have as many, 13 x 5 as many as 8 x 8."""
    size = dict(embed_dim=32, depth=1, num_heads=2, use_abs_pos_emb=True)
    source, target = draw(BEiT(img_size=given, **size)), BEiT(img_size=own, **size)
    target.load_state_dict(source.state_dict(), strict=True)
    table = source.blocks[0].attn.relative_position_bias_table
    assert torch.equal(target.blocks[0].attn.relative_position_bias_table, expand_bias(table, source.grid, target.grid))
    assert tuple(target.grid_size.tolist()) == target.grid
    same = BEiT(img_size=given, **size)
    same.load_state_dict(without(source.state_dict(), 'grid_size'), strict=True)  # as released weights
    assert tuple(same.grid_size.tolist()) == source.grid


# Weights that do not fit


def refusal(model: nn.Module, path: str) -> tuple[tuple[int, ...], str]:
    """Numbers of matched, own and unknown tensors in the message, and its end; nothing was loaded."""
    before = snapshot(model.backbone)
    with pytest.raises(ValueError) as error:
        load_checkpoint(model, path)
    assert_equal(model.backbone.state_dict(), before)
    found = re.fullmatch(
        r'the checkpoint does not fit this BEiT trunk: (\d+) of its (\d+) tensors match under "backbone\." '
        r"\(at least 90% expected\), (\d+) of the checkpoint's are unknown(; [\w.]+ (?:is missing|is unknown|"
        r'must be \([\d, ]+\), got \([\d, ]+\)))?',
        str(error.value),
    )
    assert found, error.value
    return tuple(int(number) for number in found.groups()[:3]), found[4]


RESIDUAL_NETWORK = {
    f'backbone.layer{layer}.0.bn1.{name}': torch.zeros(64)
    for layer in range(4)
    for name in ('weight', 'bias', 'running_mean', 'running_var')
}
PER_BLOCK, OTHERS = 16, 5  # tensors of a block, and of the embeddings and the norm


@pytest.mark.parametrize(
    'state, depth, matched, unknown, end',
    [
        (RESIDUAL_NETWORK, 2, 0, 16, 'cls_token is missing'),
        ({}, 2, 0, 0, 'cls_token is missing'),
        ({'head.fc.weight': torch.zeros(5, 32)}, 2, 0, 0, 'cls_token is missing'),
        (classifier(embed_dim=48).state_dict(), 2, 2, 0, 'cls_token must be (1, 1, 32), got (1, 1, 48)'),  # tables fit
        (classifier(depth=2).state_dict(), 12, 2 * PER_BLOCK + OTHERS, 0, 'is missing'),
        (classifier(depth=12).state_dict(), 2, 2 * PER_BLOCK + OTHERS, 10 * PER_BLOCK, 'is unknown'),
    ],
    ids=['residual network', 'empty', 'head alone', 'wide', 'shallow', 'deep'],
)
def test_weights_of_another_model_are_refused(state, depth, matched, unknown, end, tmp_path):
    numbers, text = refusal(classifier(depth=depth), save(tmp_path / 'other.pth', state))
    assert numbers == (matched, depth * PER_BLOCK + OTHERS, unknown) and text.endswith(end)


def test_nine_tenths_of_the_trunk_and_of_the_checkpoint_must_match(tmp_path, log):
    state = draw(segmentor()).state_dict()
    names = [name for name in state if name.startswith('backbone.') and 'grid_size' not in name]
    enough, own = math.ceil(0.9 * len(names)), len(names)
    most = own // 9  # a tenth of what then stands under the prefix
    few, many = ({name: state[name] for name in names[:count]} for count in (enough - 1, enough))
    strange, stranger = ({f'backbone.extra_{i}': torch.zeros(1) for i in range(count)} for count in (most, most + 1))
    assert refusal(segmentor(), save(tmp_path / 'few.pth', few))[0] == (enough - 1, own, 0)
    assert refusal(segmentor(), save(tmp_path / 'stranger.pth', {**state, **stranger}))[0] == (own, own, most + 1)
    for content in (many, {**state, **strange}):
        model = segmentor()
        load_checkpoint(model, save(tmp_path / 'enough.pth', content))
        assert_equal(model.state_dict(), {name: content[name] for name in names if name in content})
    assert f' {enough} of {own} tensors loaded; adapted: none; missing: blocks ({own - enough}); left' in log[0]


@pytest.mark.parametrize(
    'own, given, name',
    [
        (dict(num_heads=4, **SHARED), dict(num_heads=2), 'table'),
        ({}, dict(patch_size=8), 'patch_embed'),
        (dict(depth=11), dict(depth=12), r'blocks\.11'),
        (dict(depth=12), dict(depth=11), r'blocks\.11'),
    ],
)
def test_few_tensors_that_do_not_fit_are_refused(own, given, name):
    """Other heads or another patch change few tensors and everything they mean."""
    own = dict(img_size=64, embed_dim=16, depth=12, num_heads=4) | own
    with pytest.raises(ValueError, match=name):
        BEiT(**own).load_state_dict(BEiT(**(own | given)).state_dict(), strict=False)
