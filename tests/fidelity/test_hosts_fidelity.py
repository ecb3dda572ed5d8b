"""MMSegmentation's and MMPretrain's own BEiT and tokenizer: their files in our models, and our files in theirs."""

import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.models.utils import TwoNormDataPreprocessor
from mmpretrain.registry import MODELS
from mmseg.models import build_segmentor
from support.fidelity import (
    assert_same,
    classifier,
    coloured_squares,
    compare,
    convert_to,
    draw,
    images,
    load,
    masks,
    pre_training_logits,
    pre_training_model,
    save,
    segmentation_logits,
    segmentor,
)

from beit_mm.models import BEiT, DiscreteVAE

SIZE = dict(img_size=64, embed_dim=32, depth=4, num_heads=2)
BLOCKS = [0, 1, 2, 3]
PIXELS, MASK = images(64), masks(4)
ARCH = dict(embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=128)


def weights_of(path) -> dict:
    return torch.load(path, weights_only=True)['state_dict']


@DefaultScope.overwrite_default_scope('mmseg')
def mmsegmentation() -> torch.nn.Module:
    trunk = dict(img_size=(64, 64), embed_dims=32, num_layers=4, num_heads=2, init_values=0.1, out_indices=BLOCKS)
    norm = dict(norm_cfg=dict(type='BN'), align_corners=False, num_classes=9)
    auxiliary = dict(in_channels=32, in_index=2, channels=16, num_convs=1, concat_input=False)
    return build_segmentor(
        dict(
            type='EncoderDecoder',
            backbone=dict(type='BEiT', **trunk, norm_cfg=dict(type='LN', eps=1e-6)),
            neck=dict(type='Feature2Pyramid', embed_dim=32, rescales=[4, 2, 1, 0.5], norm_cfg=norm['norm_cfg']),
            decode_head=dict(type='UPerHead', in_channels=[32] * 4, in_index=[0, 1, 2, 3], channels=32, **norm),
            auxiliary_head=dict(type='FCNHead', **auxiliary, **norm),
            test_cfg=dict(mode='whole'),
        )
    )


def our_segmentor() -> torch.nn.Module:
    return segmentor(**SIZE, out_indices=BLOCKS)


def compare_segmentors(what: str, actual: torch.nn.Module, expected: torch.nn.Module) -> None:
    pairs = zip(segmentation_logits(actual, PIXELS), segmentation_logits(expected, PIXELS))
    for head, (logits, wanted) in zip(('decode', 'auxiliary'), pairs):
        compare('mmsegmentation', f'EncoderDecoder, {head} head', what, logits, wanted)


# MMSegmentation


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_weights_of_mmsegmentation(prefix, folder):
    peer = draw(mmsegmentation())
    start = {f'{prefix}{name}': tensor for name, tensor in peer.state_dict().items()}
    torch.save(dict(state_dict=start, meta={}), folder / 'theirs.pth')
    compare_segmentors(f'names with "{prefix}"', load(our_segmentor(), folder / 'theirs.pth'), peer)
    ours = convert_to('beit_mm', folder / 'theirs.pth', folder / 'ours.pth')
    compare_segmentors('converted', load(our_segmentor(), ours), peer)
    back = convert_to('mmsegmentation', ours, folder / 'back.pth')
    assert_same(weights_of(back), peer.state_dict())


def test_our_weights_in_mmsegmentation(folder):
    model = draw(our_segmentor())
    theirs = convert_to('mmsegmentation', save(folder / 'ours.pth', model), folder / 'theirs.pth')
    peer = draw(mmsegmentation(), seed=99)
    peer.load_state_dict(weights_of(theirs), strict=True)
    compare_segmentors('our weights in theirs', peer, model)
    compare_segmentors('our weights in theirs, by load_checkpoint', load(mmsegmentation(), theirs), model)
    assert_same(weights_of(convert_to('beit_mm', theirs, folder / 'back.pth')), model.state_dict())


@torch.no_grad()
def test_trunk_of_mmsegmentation(folder):
    peer = draw(mmsegmentation()).backbone
    torch.save(peer.state_dict(), folder / 'trunk.pth')
    trunk = load(BEiT(**SIZE, out_type='featmap', out_indices=BLOCKS), folder / 'trunk.pth')
    for block, features, wanted in zip(BLOCKS, trunk(PIXELS), peer(PIXELS)):
        compare('mmsegmentation', 'BEiT', f'block {block}', features, wanted)
    path = convert_to('mmsegmentation', save(folder / 'ours.pth', trunk), folder / 'back.pth')
    assert_same(weights_of(path), peer.state_dict())


# MMPretrain: classification


@DefaultScope.overwrite_default_scope('mmpretrain')
def mmpretrain(out_type: str = 'avg_featmap', **options) -> torch.nn.Module:
    trunk = dict(type='BEiTViT', arch=ARCH, img_size=64, patch_size=16, out_type=out_type, **options)
    head = dict(type='LinearClsHead', num_classes=10, in_channels=32)
    return MODELS.build(dict(type='ImageClassifier', backbone=trunk, head=head))


CLASSIFIERS = {  # MMPretrain's options, ours
    'mean of the patches': ({}, {}),
    'class token': (dict(out_type='cls_token', final_norm=True), dict(out_type='cls_token')),
    'absolute positions': (dict(use_abs_pos_emb=True), dict(use_abs_pos_emb=True)),
    'shared bias': (dict(use_rel_pos_bias=False, use_shared_rel_pos_bias=True),
                    dict(use_rel_pos_bias=False, use_shared_rel_pos_bias=True)),
    'no LayerScale': (dict(layer_scale_init_value=0), dict(layer_scale_init_value=0)),
}  # yapf: disable


@torch.no_grad()
@pytest.mark.parametrize('what', CLASSIFIERS)
def test_weights_of_mmpretrain(what, folder):
    theirs, ours = CLASSIFIERS[what]
    peer = draw(mmpretrain(**theirs))
    save(folder / 'theirs.pth', peer)
    model = load(classifier(num_classes=10, **SIZE, **ours), folder / 'theirs.pth')
    compare('mmpretrain', 'ImageClassifier', what, model(PIXELS), peer(PIXELS))
    path = convert_to('beit_mm', folder / 'theirs.pth', folder / 'ours.pth')
    assert_same(weights_of(path), load(classifier(num_classes=10, **SIZE, **ours), path).state_dict())
    assert_same(weights_of(convert_to('mmpretrain', path, folder / 'back.pth')), peer.state_dict())


@torch.no_grad()
@pytest.mark.parametrize('what', CLASSIFIERS)
def test_our_weights_in_mmpretrain(what, folder):
    theirs, ours = CLASSIFIERS[what]
    model = draw(classifier(num_classes=10, **SIZE, **ours))
    path = convert_to('mmpretrain', save(folder / 'ours.pth', model), folder / 'theirs.pth')
    peer = draw(mmpretrain(**theirs), seed=99)
    peer.load_state_dict(weights_of(path), strict=True)
    compare('mmpretrain', 'ImageClassifier', f'{what}, our weights in theirs', peer(PIXELS), model(PIXELS))
    assert_same(weights_of(convert_to('beit_mm', path, folder / 'back.pth')), model.state_dict())


@torch.no_grad()
def test_trunk_of_mmpretrain(folder):
    peer = draw(mmpretrain()).backbone
    torch.save(peer.state_dict(), folder / 'trunk.pth')
    trunk = load(BEiT(**SIZE), folder / 'trunk.pth')
    compare('mmpretrain', 'BEiTViT', 'a trunk alone', trunk(PIXELS)[0], peer(PIXELS)[0])
    ours = convert_to('beit_mm', folder / 'trunk.pth', folder / 'ours.pth')
    back = convert_to('mmpretrain', ours, folder / 'back.pth')
    assert_same(weights_of(back), peer.state_dict())


# MMPretrain: pre-training

# The tokenizer's width and vocabulary; the first is OpenAI's.
TOKENIZERS = pytest.mark.parametrize('n_hid, vocab', [pytest.param(256, 8192, marks=pytest.mark.long), (32, 512)])


@DefaultScope.overwrite_default_scope('mmpretrain')
def mmpretrain_pre_training(n_hid: int, vocab: int) -> torch.nn.Module:
    trunk = dict(arch=ARCH, img_size=64, patch_size=16, layer_scale_init_value=0.1, final_norm=True, out_type='raw')
    head = dict(type='BEiTV1Head', embed_dims=32, num_embed=vocab, loss=dict(type='CrossEntropyLoss'))
    target = dict(type='DALL-E', n_hid=n_hid, vocab_size=vocab)
    return MODELS.build(
        dict(type='BEiT', backbone=dict(type='BEiTPretrainViT', **trunk), head=head, target_generator=target)
    )


def without(weights: dict, prefix: str) -> dict:
    return {name: tensor for name, tensor in weights.items() if not name.startswith(prefix)}


DECODER = 'target.tokenizer.decoder.'  # MMPretrain has none; only reconstructing images needs it


def our_pre_training(n_hid: int, vocab: int) -> torch.nn.Module:
    tokenizer = dict(type='beit_mm.DiscreteVAE', n_hid=n_hid, n_init=n_hid // 2, vocab_size=vocab)
    return pre_training_model(vocab, dict(type='beit_mm.VisualTokens', tokenizer=tokenizer), **SIZE)


def compare_pre_training(what: str, model: torch.nn.Module, peer: torch.nn.Module) -> None:
    """Trunk, head and tokenizer. MMPretrain maps the tokenizer's pixels in its preprocessor's second normalisation."""
    features = peer.backbone(PIXELS, MASK)[0]
    compare('mmpretrain', 'BEiTPretrainViT', what, model(PIXELS, mask=MASK)[0], features)
    logits = peer.head.cls_head(features[:, 1:])
    compare('mmpretrain', 'BEiTV1Head', what, pre_training_logits(model, PIXELS, MASK), logits)

    views = coloured_squares(112)
    first, second = dict(mean=[127.5] * 3, std=[127.5] * 3), dict(second_mean=[-31.875] * 3, second_std=[318.75] * 3)
    preprocessor = TwoNormDataPreprocessor(**first, **second)
    codes = peer.target_generator(preprocessor(dict(inputs=[views, views], data_samples=None))['inputs'][1])
    tokenizer = model.target.tokenizer
    compare('mmpretrain', 'DALL-E encoder', what, tokenizer.encode_logits(views / 255), codes)
    tokens = model.target(PIXELS, views / 255)
    assert torch.equal(tokens, codes.argmax(dim=1))
    assert len(tokens.unique()) > (10 if tokenizer.vocab_size == 8192 else 3)


@torch.no_grad()
@TOKENIZERS
def test_pre_training_weights_of_mmpretrain(n_hid, vocab, folder):
    peer = draw(mmpretrain_pre_training(n_hid, vocab))
    save(folder / 'theirs.pth', peer)
    model = load(our_pre_training(n_hid, vocab), folder / 'theirs.pth', strict=False)
    compare_pre_training('their weights in ours', model, peer)
    path = convert_to('beit_mm', folder / 'theirs.pth', folder / 'ours.pth')
    assert_same(weights_of(path), without(model.state_dict(), DECODER))
    assert_same(weights_of(convert_to('mmpretrain', path, folder / 'back.pth')), peer.state_dict())


@torch.no_grad()
@TOKENIZERS
def test_our_pre_training_weights_in_mmpretrain(n_hid, vocab, folder):
    model = draw(our_pre_training(n_hid, vocab))
    path = convert_to('mmpretrain', save(folder / 'ours.pth', model), folder / 'theirs.pth', left_out=(DECODER,))
    peer = draw(mmpretrain_pre_training(n_hid, vocab), seed=99)
    peer.load_state_dict(weights_of(path), strict=True)
    compare_pre_training('our weights in theirs', model, peer)
    back = convert_to('beit_mm', path, folder / 'back.pth')
    assert_same(weights_of(back), without(model.state_dict(), DECODER))


@torch.no_grad()
@pytest.mark.parametrize('wrapped', [False, True])
@TOKENIZERS
def test_tokenizer_of_mmpretrain(n_hid, vocab, wrapped, folder):
    """MMPretrain distributes the encoder alone, under names that start with `blocks.`."""
    peer = draw(MODELS.build(dict(type='DALL-E', n_hid=n_hid, vocab_size=vocab)))
    start = peer.state_dict()
    torch.save(dict(state_dict=start) if wrapped else start, folder / 'encoder.pth')
    model = load(DiscreteVAE(vocab, n_hid), folder / 'encoder.pth', strict=False)
    views = coloured_squares(32) / 255
    codes = peer(0.8 * views + 0.1)
    what = 'a checkpoint of it alone' if wrapped else 'a state dict of it alone'
    compare('mmpretrain', 'DALL-E encoder', what, model.encode_logits(views), codes)
    assert torch.equal(model.encode(views), codes.argmax(dim=1))
    encoder = without(model.state_dict(), 'decoder.')
    assert_same({name.removeprefix('encoder.'): tensor for name, tensor in encoder.items()}, start)
