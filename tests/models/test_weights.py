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
from support.fidelity import GivenTokens
from torch import nn

from beit_mm.models import BEiT, MaskedImageModel, VisualTokens
from beit_mm.models.backbones.relative_position import expand_bias
from beit_mm.models.weights import resize_position_embedding

WIDTH = dict(embed_dim=32, depth=2, num_heads=4)
SHARED_TABLE = 'backbone.rel_pos_bias.relative_position_bias_table'
BLOCK_TABLE = 'backbone.blocks.{}.attn.relative_position_bias_table'


def pre_training_model() -> MaskedImageModel:
    backbone = BEiT(
        img_size=64, **WIDTH, use_rel_pos_bias=False, use_shared_rel_pos_bias=True, use_mask_token=True, out_type='raw'
    )
    return draw(MaskedImageModel(backbone, VisualTokens(GivenTokens(16))))


@DefaultScope.overwrite_default_scope('mmpretrain')
def classifier(img_size=96, init_cfg=None, **kwargs) -> ImageClassifier:
    constant = dict(type='Constant', layer='Linear', val=0.25, bias=0.5)
    return ImageClassifier(
        dict(type='beit_mm.BEiT', img_size=img_size, **{**WIDTH, **kwargs}, init_cfg=init_cfg),
        head=dict(type='LinearClsHead', num_classes=5, in_channels=32, init_cfg=constant),
    )


@DefaultScope.overwrite_default_scope('mmseg')
def segmentor(img_size=(64, 96)) -> nn.Module:
    head = dict(in_channels=32, in_index=1, channels=8, num_convs=1, concat_input=False, num_classes=3)
    return build_segmentor(
        dict(
            type='EncoderDecoder',
            backbone=dict(type='beit_mm.BEiT', img_size=img_size, **WIDTH, out_type='featmap', out_indices=[0, 1]),
            decode_head=dict(type='FCNHead', **head, norm_cfg=dict(type='BN')),
            test_cfg=dict(mode='whole'),
        )
    )


def draw(model: nn.Module) -> nn.Module:
    """Parameters that none of which equals its initial value or another model's."""
    torch.manual_seed(0)
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


def assert_trunk_equal(loaded: dict, given: dict) -> None:
    """All tensors of the loaded trunk but its tables and its own norms are the given ones."""
    own = ('backbone.fc_norm', 'backbone.norm', 'backbone.grid_size')
    names = [
        name for name in loaded if name.startswith('backbone.') and 'table' not in name and not name.startswith(own)
    ]
    assert len(names) >= 33
    for name in names:
        assert torch.equal(loaded[name], given[name]), name


@pytest.fixture
def log():
    """Lines of the current MMEngine logger, which does not pass them on to Python's root logger."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def trunk_lines(lines: list) -> list:
    return [line for line in lines if line.startswith('BEiT trunk:')]


@pytest.fixture
def pre_training():
    return pre_training_model()


# Pre-training weights into the other tasks


@pytest.mark.parametrize('way', ['init_cfg', 'load_from'])
def test_a_classifier_of_another_size_takes_pre_training_weights(way, tmp_path, pre_training, log):
    path = save(tmp_path / 'epoch_1.pth', pre_training)
    if way == 'init_cfg':
        model = classifier(init_cfg=dict(type='Pretrained', checkpoint=path, prefix='backbone.'))
        model.init_weights()
    else:
        model = classifier()
        model.init_weights()
        load_checkpoint(model, path)
    given, loaded = pre_training.state_dict(), model.state_dict()
    assert_trunk_equal(loaded, given)
    for index in range(2):
        expected = expand_bias(given[SHARED_TABLE], (4, 4), (6, 6))
        torch.testing.assert_close(loaded[BLOCK_TABLE.format(index)], expected, rtol=0, atol=0)
    assert loaded[BLOCK_TABLE.format(0)].data_ptr() != loaded[BLOCK_TABLE.format(1)].data_ptr()
    assert (loaded['head.fc.weight'] == 0.25).all() and (loaded['head.fc.bias'] == 0.5).all()
    assert (loaded['backbone.fc_norm.weight'] == 1).all() and not loaded['backbone.fc_norm.bias'].any()
    own = len(list(model.backbone.parameters()))
    assert trunk_lines(log) == [
        f'BEiT trunk: {own - 2} of {own} tensors loaded; adapted: shared bias table to 2 blocks; bias tables 4 x 4 to '
        '6 x 6; missing: fc_norm (2); left out: mask_token (1), norm (2)'
    ]


def test_a_segmentor_of_a_size_that_is_not_square_takes_pre_training_weights(tmp_path, pre_training, log):
    model = draw(segmentor())
    before = snapshot(model)
    load_checkpoint(model, save(tmp_path / 'epoch_1.pth', pre_training))
    given, loaded = pre_training.state_dict(), model.state_dict()
    assert_trunk_equal(loaded, given)
    for index in range(2):
        assert torch.equal(loaded[BLOCK_TABLE.format(index)], expand_bias(given[SHARED_TABLE], (4, 4), (4, 6)))
    for name in loaded:
        if not name.startswith('backbone.'):
            assert torch.equal(loaded[name], before[name]), name
    own = len(list(model.backbone.parameters()))
    assert trunk_lines(log) == [
        f'BEiT trunk: {own} of {own} tensors loaded; adapted: shared bias table to 2 blocks; bias tables 4 x 4 to '
        '4 x 6; missing: none; left out: mask_token (1), norm (2)'
    ]


def test_an_unchanged_trunk_is_reported_as_such(tmp_path, log):
    model = draw(classifier())
    load_checkpoint(classifier(), save(tmp_path / 'epoch_1.pth', model))
    own = len(list(model.backbone.parameters()))
    assert trunk_lines(log) == [
        f'BEiT trunk: {own} of {own} tensors loaded; adapted: none; missing: none; left out: none'
    ]


def test_a_trunk_without_any_bias_drops_the_shared_table_and_says_so(tmp_path, pre_training, log):
    model = classifier(use_rel_pos_bias=False)
    load_checkpoint(model, save(tmp_path / 'epoch_1.pth', pre_training))
    assert_trunk_equal(model.state_dict(), pre_training.state_dict())
    assert 'adapted: shared bias table dropped;' in trunk_lines(log)[0]


def test_the_trunk_adapts_weights_under_any_prefix(pre_training):
    trunk = BEiT(img_size=96, **WIDTH)
    given = pre_training.state_dict()
    weights = {name.replace('backbone.', 'module.student.'): tensor for name, tensor in given.items()}
    nn.ModuleDict(dict(module=nn.ModuleDict(dict(student=trunk)))).load_state_dict(weights, strict=False)
    expected = expand_bias(given[SHARED_TABLE], (4, 4), (6, 6))
    assert torch.equal(trunk.blocks[1].attn.relative_position_bias_table, expected)
    assert torch.equal(trunk.patch_embed.proj.weight, given['backbone.patch_embed.proj.weight'])


def test_loading_leaves_the_given_weights_as_they_were(pre_training):
    given = pre_training.state_dict()
    names, tensors = list(given), snapshot(pre_training)
    classifier().load_state_dict(given, strict=False)
    assert list(given) == names and all(torch.equal(given[name], tensors[name]) for name in names)


def test_position_embeddings_are_resized_to_the_trunks_grid():
    small = draw(BEiT(img_size=64, **WIDTH, use_abs_pos_emb=True))
    large = BEiT(img_size=(64, 96), **WIDTH, use_abs_pos_emb=True)
    large.load_state_dict(small.state_dict(), strict=True)
    patches = small.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    expected = nn.functional.interpolate(patches, (4, 6), mode='bicubic', align_corners=False)
    assert torch.equal(large.pos_embed[:, :1], small.pos_embed[:, :1])
    torch.testing.assert_close(large.pos_embed[:, 1:], expected.flatten(2).transpose(1, 2))


def test_position_embeddings_that_contradict_their_grid_are_refused():
    with pytest.raises(ValueError, match='a grid of 3 x 5 patches must have 16 rows, got 10'):
        resize_position_embedding(torch.zeros(1, 10, 4), (2, 2), (3, 5))


def test_blocks_do_not_share_the_table_they_were_given(pre_training):
    trunk = BEiT(img_size=64, **WIDTH, out_type='featmap')
    weights = {
        name.removeprefix('backbone.'): tensor
        for name, tensor in pre_training.state_dict().items()
        if name.startswith('backbone.')
    }
    trunk.load_state_dict(weights, strict=False, assign=True)
    first, second = (block.attn.relative_position_bias_table for block in trunk.blocks)
    assert torch.equal(first, second) and first.data_ptr() != second.data_ptr()


def test_what_is_left_out_is_not_reported_a_second_time(pre_training):
    missing, unexpected = segmentor().load_state_dict(pre_training.state_dict(), strict=False)
    assert not [name for name in missing if name.startswith('backbone.')]
    assert sorted(unexpected) == ['lm_head.bias', 'lm_head.weight']


# Fine-tuned weights into another task


def test_a_segmentor_takes_a_classifiers_weights(tmp_path, log):
    given = draw(classifier(64))
    model = draw(segmentor())
    before = snapshot(model)
    load_checkpoint(model, save(tmp_path / 'epoch_1.pth', given))
    given, loaded = given.state_dict(), model.state_dict()
    assert_trunk_equal(loaded, given)
    for index in range(2):
        name = BLOCK_TABLE.format(index)
        assert torch.equal(loaded[name], expand_bias(given[name], (4, 4), (4, 6)))
    assert not torch.equal(given[BLOCK_TABLE.format(0)], given[BLOCK_TABLE.format(1)])
    assert torch.equal(loaded['decode_head.conv_seg.weight'], before['decode_head.conv_seg.weight'])
    assert trunk_lines(log)[0].endswith('adapted: bias tables 4 x 4 to 4 x 6; missing: none; left out: fc_norm (2)')


# Own weights


@pytest.mark.parametrize('build', [pre_training_model, classifier, segmentor])
def test_a_model_loads_its_own_weights_strictly(build):
    model, other = draw(build()), build()
    other.load_state_dict(model.state_dict(), strict=True)
    given, loaded = model.state_dict(), other.state_dict()
    assert list(given) == list(loaded) and all(torch.equal(given[name], loaded[name]) for name in given)


def test_a_deep_copy_loads_into_itself(pre_training):
    model = classifier()
    before = snapshot(model)
    copied = copy.deepcopy(model)
    copied.load_state_dict(pre_training.state_dict(), strict=False)
    given, loaded = pre_training.state_dict(), copied.state_dict()
    assert_trunk_equal(loaded, given)
    assert torch.equal(loaded[BLOCK_TABLE.format(1)], expand_bias(given[SHARED_TABLE], (4, 4), (6, 6)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# Weights that do not fit


def refusal(model: nn.Module, path: str) -> tuple[tuple[int, int, int], str]:
    """Numbers of matched, own and unknown tensors in the message, and its end; nothing was loaded."""
    before = snapshot(model)
    with pytest.raises(ValueError) as error:
        load_checkpoint(model, path)
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in after if name.startswith('backbone.'))
    message = str(error.value)
    found = re.fullmatch(
        r'the checkpoint does not fit this BEiT trunk: (\d+) of its (\d+) tensors match under "backbone\." '
        r"\(at least 90% expected\), (\d+) of the checkpoint's are unknown(; [\w.]+ (is missing|is unknown|"
        r'must be \([\d, ]+\), got \([\d, ]+\)))?',
        message,
    )
    assert found, message
    return tuple(int(number) for number in found.groups()[:3]), found[4]


RESIDUAL_NETWORK = {
    'backbone.conv1.weight': torch.zeros(64, 3, 7, 7),
    'head.fc.weight': torch.zeros(5, 512),
    **{
        f'backbone.layer{layer}.0.bn1.{name}': torch.zeros(64)
        for layer in (1, 2, 3, 4)
        for name in ('weight', 'bias', 'running_mean', 'running_var')
    },
}
PER_BLOCK, OTHERS = 16, 5  # tensors of a block, and of the embeddings and the norm


@pytest.mark.parametrize(
    'state, depth, matched, unknown, end',
    [
        (RESIDUAL_NETWORK, 2, 0, 17, 'cls_token is missing'),
        ({}, 2, 0, 0, 'cls_token is missing'),
        ({'head.fc.weight': torch.zeros(5, 32)}, 2, 0, 0, 'cls_token is missing'),
        (classifier(embed_dim=48).state_dict(), 2, 2, 0, 'cls_token must be (1, 1, 32), got (1, 1, 48)'),  # tables fit
        (classifier(depth=2).state_dict(), 12, 2 * PER_BLOCK + OTHERS, 0, 'is missing'),
        (classifier(depth=12).state_dict(), 2, 2 * PER_BLOCK + OTHERS, 10 * PER_BLOCK, 'is unknown'),
    ],
    ids=['residual network', 'empty', 'head alone', 'wide', 'shallow', 'deep'],
)
def test_weights_of_another_model_are_refused(state, depth, matched, unknown, end, tmp_path):
    model = classifier(depth=depth)
    numbers, text = refusal(model, save(tmp_path / 'other.pth', state))
    assert numbers == (matched, depth * PER_BLOCK + OTHERS, unknown) and text.endswith(end)


def test_nine_tenths_of_the_trunk_must_find_a_match(tmp_path, log):
    model = draw(segmentor())
    state = model.state_dict()
    names = [name for name in state if name.startswith('backbone.') and 'grid_size' not in name]
    enough = math.ceil(0.9 * len(names))
    few, many = ({name: state[name] for name in names[:count]} for count in (enough - 1, enough))
    assert refusal(segmentor(), save(tmp_path / 'few.pth', few))[0] == (enough - 1, len(names), 0)
    target = segmentor()
    load_checkpoint(target, save(tmp_path / 'many.pth', many))
    assert all(torch.equal(target.state_dict()[name], tensor) for name, tensor in many.items())
    assert trunk_lines(log)[0].startswith(
        f'BEiT trunk: {enough} of {len(names)} tensors loaded; adapted: none; '
        f'missing: blocks ({len(names) - enough}); left out: none'
    )


def test_nine_tenths_of_the_checkpoints_trunk_must_find_a_place(tmp_path):
    state = draw(segmentor()).state_dict()
    own = len([name for name in state if name.startswith('backbone.') and 'grid_size' not in name])
    most = own // 9  # a tenth of what then stands under the prefix
    for count in (most, most + 1):
        strange = {f'backbone.extra_{index}': torch.zeros(1) for index in range(count)}
        path = save(tmp_path / f'{count}.pth', {**state, **strange})
        model = segmentor()
        if count == most:
            load_checkpoint(model, path)
            assert torch.equal(model.backbone.cls_token, state['backbone.cls_token'])
        else:
            assert refusal(model, path)[0] == (own, own, count)


@pytest.mark.parametrize('given, name', [(dict(num_heads=2), 'table'), (dict(patch_size=8), 'patch_embed')])
def test_a_tensor_of_another_shape_is_refused_however_few_they_are(given, name):
    """Other heads or another patch change few tensors and everything they mean."""
    own = dict(img_size=64, embed_dim=32, depth=12, num_heads=4, use_rel_pos_bias=name == 'patch_embed')
    if name == 'table':
        own.update(use_shared_rel_pos_bias=True)
    with pytest.raises(ValueError, match=name):
        BEiT(**own).load_state_dict(BEiT(**{**own, **given}).state_dict(), strict=False)


@pytest.mark.parametrize('given, own', [(11, 12), (12, 11)])
def test_a_single_block_too_few_or_too_many_is_refused(given, own):
    size = dict(img_size=64, embed_dim=16, num_heads=2)
    with pytest.raises(ValueError, match=r'blocks\.11'):
        BEiT(depth=own, **size).load_state_dict(BEiT(depth=given, **size).state_dict(), strict=False)


def test_init_cfg_with_a_prefix_that_the_file_lacks_names_the_file(tmp_path):
    path = save(tmp_path / 'other.pth', {'stem.weight': torch.zeros(3)})
    model = classifier(init_cfg=dict(type='Pretrained', checkpoint=path, prefix='backbone.'))
    with pytest.raises(ValueError, match='other.pth'):
        model.init_weights()


def test_position_embeddings_of_a_grid_that_is_not_square():
    given = BEiT(img_size=(64, 96), **WIDTH, use_abs_pos_emb=True, use_rel_pos_bias=False)
    draw(given)
    same = BEiT(img_size=(128, 192), **WIDTH, use_abs_pos_emb=True, use_rel_pos_bias=False)
    same.load_state_dict(given.state_dict())
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


def test_released_weights_without_a_grid_load_strictly():
    source, target = (BEiT(img_size=64, **WIDTH) for _ in range(2))
    state = source.state_dict()
    del state['grid_size']
    target.load_state_dict(state, strict=True)
    assert target.grid_size.tolist() == [4, 4]
