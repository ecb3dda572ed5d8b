"""BEiT and tokenizers of MMSegmentation, MMPretrain and timm: their files in our models, and our files in theirs."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import timm
import torch
from mmengine.registry import DefaultScope
from mmpretrain.models.utils import TwoNormDataPreprocessor
from mmpretrain.registry import MODELS
from mmseg.models import build_segmentor
from safetensors.torch import load_file, save_file
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
from torch import nn, Tensor
from torch.nn import functional as F

from beit_mm.errors import UserError
from beit_mm.models import BEiT, DiscreteVAE, VectorQuantisedTokenizer

BLOCKS = [0, 1, 2, 3]
PIXELS, MASK = images(64), masks(4)
SIZE = dict(img_size=64, embed_dim=32, depth=4, num_heads=2)
ARCH = dict(embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=128)  # the same for MMPretrain
SHRUNK = dict(embed_dim=64, depth=3, num_heads=4)  # for timm and us
BASE = 'beit_base_patch16_224'


class Pair(NamedTuple):
    """A model of theirs, the same of ours, and their outputs by name, (ours, theirs).

    Names of our weights that start with `left_out` have no counterpart.
    """

    layout: str
    model: str
    theirs: Callable[[], nn.Module]
    ours: Callable[[], nn.Module]
    outputs: Callable[[nn.Module, nn.Module], dict[str, tuple[Tensor, Tensor]]]
    left_out: tuple = ()
    suffix: str = 'pth'

    @torch.no_grad()
    def compare(self, how: str, ours: nn.Module, theirs: nn.Module) -> None:
        for name, (actual, expected) in self.outputs(ours, theirs).items():
            compare(self.layout, f'{self.model}, {name}', how, actual, expected)


def first(outputs: Tensor | tuple) -> Tensor:
    return outputs[0] if isinstance(outputs, tuple) else outputs


def logits(pixels: Tensor, ours: nn.Module, theirs: nn.Module) -> dict:
    """Also with attention written out, where timm fuses it."""
    actual = first(ours(pixels))
    outputs = {'logits': (actual, first(theirs(pixels)))}
    fused = [block.attn for block in getattr(theirs, 'blocks', []) if hasattr(block.attn, 'fused_attn')]
    for attention in fused:
        attention.fused_attn = False
    return {**outputs, 'attention written out': (actual, theirs(pixels))} if fused else outputs


def heads(ours: nn.Module, theirs: nn.Module) -> dict:
    pairs = zip(segmentation_logits(ours, PIXELS), segmentation_logits(theirs, PIXELS))
    return dict(zip(('decode head', 'auxiliary head'), pairs))


def features(ours: nn.Module, theirs: nn.Module) -> dict:
    return {f'block {block}': pair for block, *pair in zip(BLOCKS, ours(PIXELS), theirs(PIXELS))}


def pre_training(ours: nn.Module, theirs: nn.Module) -> dict:
    """Trunk, head and tokenizer. MMPretrain maps the tokenizer's pixels in its preprocessor's second normalisation."""
    tokens = theirs.backbone(PIXELS, MASK)[0]
    views = coloured_squares(112)
    first, second = dict(mean=[127.5] * 3, std=[127.5] * 3), dict(second_mean=[-31.875] * 3, second_std=[318.75] * 3)
    preprocessor = TwoNormDataPreprocessor(**first, **second)
    codes = theirs.target_generator(preprocessor(dict(inputs=[views, views], data_samples=None))['inputs'][1])
    targets, tokenizer = ours.target(PIXELS, views / 255), ours.target.tokenizer
    assert torch.equal(targets, codes.argmax(dim=1))
    assert len(targets.unique()) > (10 if tokenizer.vocab_size == 8192 else 3)
    return {
        'trunk': (ours(PIXELS, mask=MASK)[0], tokens),
        'head': (pre_training_logits(ours, PIXELS, MASK), theirs.head.cls_head(tokens[:, 1:])),
        'DALL-E encoder': (tokenizer.encode_logits(views / 255), codes),
    }


@DefaultScope.overwrite_default_scope('mmseg')
def mmsegmentation() -> nn.Module:
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


@DefaultScope.overwrite_default_scope('mmpretrain')
def mmpretrain(out_type: str = 'avg_featmap', **options) -> nn.Module:
    trunk = dict(type='BEiTViT', arch=ARCH, img_size=64, patch_size=16, out_type=out_type, **options)
    head = dict(type='LinearClsHead', num_classes=10, in_channels=32)
    return MODELS.build(dict(type='ImageClassifier', backbone=trunk, head=head))


@DefaultScope.overwrite_default_scope('mmpretrain')
def mmpretrain_pre_training(n_hid: int, vocab: int) -> nn.Module:
    trunk = dict(arch=ARCH, img_size=64, patch_size=16, layer_scale_init_value=0.1, final_norm=True, out_type='raw')
    head = dict(type='BEiTV1Head', embed_dims=32, num_embed=vocab, loss=dict(type='CrossEntropyLoss'))
    target = dict(type='DALL-E', n_hid=n_hid, vocab_size=vocab)
    return MODELS.build(
        dict(type='BEiT', backbone=dict(type='BEiTPretrainViT', **trunk), head=head, target_generator=target)
    )


def our_pre_training(n_hid: int, vocab: int) -> nn.Module:
    tokenizer = dict(type='beit_mm.DiscreteVAE', n_hid=n_hid, n_init=n_hid // 2, vocab_size=vocab)
    return pre_training_model(vocab, dict(type='beit_mm.VisualTokens', tokenizer=tokenizer), **SIZE)


VQKD = dict(type='VQKD', num_embed=61, embed_dims=8)
TOKENIZER_V2 = dict(vocab_size=61, code_dim=8, img_size=64, embed_dim=32, num_heads=2, encoder_depth=4, decoder_depth=1)
# MMPretrain has none of these.
LEFT_OUT_V2 = tuple(f'target.tokenizer.{part}' for part in ('decoder.', 'decode_task_layer.', 'encoder.grid_size'))


def mmpretrain_tokenizer_v2() -> dict:
    """As in its configs of BEiT v2."""
    positions = dict(use_abs_pos_emb=True, use_rel_pos_bias=False, use_shared_rel_pos_bias=False)
    encoder = dict(arch=ARCH, img_size=64, patch_size=16, **positions, layer_scale_init_value=0.0)
    return dict(
        VQKD, encoder_config=dict(encoder, final_norm=True, out_type='featmap', norm_cfg=dict(type='LN', eps=1e-6))
    )


@DefaultScope.overwrite_default_scope('mmpretrain')
def mmpretrain_pre_training_v2() -> nn.Module:
    arch = dict(ARCH, depth=ARCH['num_layers'])
    trunk = dict(arch=arch, img_size=64, patch_size=16, out_indices=[-2, -1], layer_scale_init_value=0.1)
    neck = dict(type='BEiTV2Neck', num_layers=2, early_layers=3, backbone_arch=arch)
    head = dict(type='BEiTV2Head', embed_dims=32, num_embed=61, loss=dict(type='CrossEntropyLoss'))
    backbone = dict(type='BEiTPretrainViT', **trunk, final_norm=False, out_type='raw')
    tokenizer = mmpretrain_tokenizer_v2()
    return MODELS.build(dict(type='BEiT', backbone=backbone, neck=neck, head=head, target_generator=tokenizer))


def our_pre_training_v2() -> nn.Module:
    target = dict(type='beit_mm.VisualTokens', tokenizer=dict(type='beit_mm.VectorQuantisedTokenizer', **TOKENIZER_V2))
    return pre_training_model(61, target, bottleneck=dict(early_layers=3, head_layers=2), **SIZE)


def two_predictions(ours: nn.Module, theirs: nn.Module) -> dict:
    latent = theirs.backbone(PIXELS, MASK)
    expected = theirs.neck(latent, rel_pos_bias=theirs.backbone.shared_rel_pos_bias)
    actual = ours.bottleneck(ours.backbone, PIXELS, MASK)
    return {
        what: (ours.lm_head(own[:, 1:]), theirs.head.cls_head(their))
        for what, own, their in zip(('last block', 'class token'), actual, expected)
    }


def mmpretrain_pair(what: str, theirs: dict, ours: dict) -> Pair:
    outputs = partial(logits, PIXELS)
    model = partial(classifier, num_classes=10, **SIZE, **ours)
    return Pair('mmpretrain', f'ImageClassifier, {what}', partial(mmpretrain, **theirs), model, outputs)


def mmpretrain_pre_training_pair(*size: int) -> Pair:
    theirs, ours = partial(mmpretrain_pre_training, *size), partial(our_pre_training, *size)
    # MMPretrain has no decoder; only reconstructing images needs it.
    return Pair('mmpretrain', f'BEiT, {size}', theirs, ours, pre_training, ('target.tokenizer.decoder.',))


def timm_pair(name: str, what: str, side: int, size: dict, theirs: dict, ours: dict, suffix: str = 'pth') -> Pair:
    peer = partial(timm.create_model, name, **size, **theirs)
    model = partial(classifier, name.split('_')[1], img_size=side, **size, **ours)
    outputs = partial(logits, images(side, count=1))
    return Pair('timm', f'{name}, {what}', peer, model, outputs, suffix=suffix)


SHARED = dict(use_rel_pos_bias=False, use_shared_rel_pos_bias=True)
PAIRS = [
    Pair('mmsegmentation', 'EncoderDecoder', mmsegmentation, partial(segmentor, **SIZE, out_indices=BLOCKS), heads),
    Pair('mmsegmentation', 'BEiT', lambda: mmsegmentation().backbone,
         partial(BEiT, **SIZE, out_type='featmap', out_indices=BLOCKS), features),
    mmpretrain_pair('mean of the patches', {}, {}),
    mmpretrain_pair('class token', dict(out_type='cls_token', final_norm=True), dict(out_type='cls_token')),
    mmpretrain_pair('absolute positions', dict(use_abs_pos_emb=True), dict(use_abs_pos_emb=True)),
    mmpretrain_pair('shared bias', SHARED, SHARED),
    mmpretrain_pair('no LayerScale', dict(layer_scale_init_value=0), dict(layer_scale_init_value=0)),
    Pair('mmpretrain', 'BEiTViT', lambda: mmpretrain().backbone, partial(BEiT, **SIZE), partial(logits, PIXELS)),
    mmpretrain_pre_training_pair(32, 512),
    Pair('mmpretrain', 'BEiT v2', mmpretrain_pre_training_v2, our_pre_training_v2, two_predictions, LEFT_OUT_V2),
    pytest.param(mmpretrain_pre_training_pair(256, 8192), marks=pytest.mark.long),  # OpenAI's
    timm_pair(BASE, 'shrunk', 224, SHRUNK, {}, {}),
    timm_pair('beit_base_patch16_384', 'shrunk', 384, SHRUNK, {}, {}, 'safetensors'),
    timm_pair('beit_large_patch16_224', 'shrunk', 224, SHRUNK, {}, {}, 'safetensors'),
    timm_pair('beit_large_patch16_384', 'shrunk', 384, SHRUNK, {}, {}),
    timm_pair('beit_large_patch16_512', 'shrunk', 512, SHRUNK, {}, {}, 'safetensors'),
    pytest.param(timm_pair(BASE, 'full size', 224, {}, {}, {}, 'safetensors'), marks=pytest.mark.long),
    pytest.param(timm_pair('beit_large_patch16_224', 'full size', 224, {}, {}, {}), marks=pytest.mark.long),
    timm_pair('beitv2_base_patch16_224', 'shrunk', 224, SHRUNK, {}, {}, 'safetensors'),
    timm_pair('beitv2_large_patch16_224', 'shrunk', 224, SHRUNK, {}, {}),
    pytest.param(timm_pair('beitv2_base_patch16_224', 'full size', 224, {}, {}, {}), marks=pytest.mark.long),
    timm_pair(BASE, 'class token', 224, SHRUNK, dict(global_pool='token'), dict(out_type='cls_token')),
    timm_pair(BASE, 'absolute positions', 224, SHRUNK, dict(use_abs_pos_emb=True), dict(use_abs_pos_emb=True)),
    timm_pair(BASE, 'no LayerScale', 224, SHRUNK, dict(init_values=0.0), dict(layer_scale_init_value=None)),
    timm_pair(BASE, 'no bias on q, k and v', 224, SHRUNK, dict(qkv_bias=False), dict(qkv_bias=False)),
    Pair('timm', 'trunk', partial(timm.create_model, BASE, num_classes=0, **SHRUNK), partial(BEiT, **SHRUNK),
         partial(logits, images(224, count=1))),
]  # fmt: skip


def weights_of(path) -> dict:
    if path.suffix == '.safetensors':
        return load_file(path)
    content = torch.load(path, weights_only=True)
    return content.get('state_dict', content)


def without(weights: dict, prefix: str | tuple) -> dict:
    return {name: tensor for name, tensor in weights.items() if not prefix or not name.startswith(prefix)}


@pytest.mark.parametrize('pair', PAIRS, ids=lambda pair: f'{pair.layout} {pair.model}')
def test_their_weights_give_their_outputs_in_our_model_and_are_the_same_after_a_round_trip(pair, folder):
    peer, path = draw(pair.theirs()), folder / f'theirs.{pair.suffix}'
    save_file(peer.state_dict(), path) if pair.suffix == 'safetensors' else save(path, peer)
    model = load(pair.ours(), path, strict=not pair.left_out)
    pair.compare('their weights in ours', model, peer)
    ours = convert_to('beit_mm', path, folder / f'ours.{pair.suffix}')
    assert_same(load(pair.ours(), ours, strict=not pair.left_out).state_dict(), model.state_dict())
    back = convert_to(pair.layout, ours, folder / f'back.{pair.suffix}')
    assert_same(weights_of(back), peer.state_dict())


@pytest.mark.parametrize('pair', PAIRS, ids=lambda pair: f'{pair.layout} {pair.model}')
def test_our_weights_give_our_outputs_in_their_model_and_are_the_same_after_a_round_trip(pair, folder):
    model = draw(pair.ours())
    path = save(folder / 'ours.pth', model)
    theirs = convert_to(pair.layout, path, folder / f'theirs.{pair.suffix}', left_out=pair.left_out)
    peer = draw(pair.theirs(), seed=99)
    peer.load_state_dict(weights_of(theirs), strict=True)
    pair.compare('our weights in theirs', model, peer)
    opened = draw(pair.theirs(), seed=99)  # as their users open it
    timm.models.load_checkpoint(opened, str(theirs)) if pair.layout == 'timm' else load(opened, theirs)
    assert_same(opened.state_dict(), peer.state_dict())
    back = convert_to('beit_mm', theirs, folder / 'back.pth')
    assert_same(weights_of(back), without(model.state_dict(), pair.left_out))
    again = load(pair.ours(), theirs, strict=not pair.left_out).state_dict()
    assert_same(without(again, pair.left_out), weights_of(back))


# Special files


def test_names_with_a_prefix_of_parallel_training(folder):
    pair, peer = PAIRS[0], draw(mmsegmentation())
    start = {f'module.{name}': tensor for name, tensor in peer.state_dict().items()}
    torch.save(dict(state_dict=start, meta={}), folder / 'theirs.pth')
    pair.compare('names with "module."', load(pair.ours(), folder / 'theirs.pth'), peer)
    ours = convert_to('beit_mm', folder / 'theirs.pth', folder / 'ours.pth')
    pair.compare('names with "module.", converted', load(pair.ours(), ours), peer)


@torch.no_grad()
@pytest.mark.parametrize('wrapped', [False, True])
@pytest.mark.parametrize('n_hid, vocab', [pytest.param(256, 8192, marks=pytest.mark.long), (32, 512)])
def test_mmpretrains_encoder_alone_whose_names_start_with_blocks(n_hid, vocab, wrapped, folder):
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


@torch.no_grad()
def test_mmpretrains_tokenizer_of_v2_alone_and_in_its_pre_training_gives_its_tokens_and_has_no_decoder(folder):
    peer = draw(mmpretrain_pre_training_v2())
    codes = peer.target_generator.quantize.embedding.weight
    codes.copy_(F.normalize(codes, dim=1))
    peer.target_generator.encoder.patch_embed.projection.weight.mul_(8)  # else all patches have the same few tokens
    alone = save(folder / 'vqkd.pth', peer.target_generator)
    views = coloured_squares(64) / 255
    expected = peer.target_generator(2 * views - 1).unflatten(1, (4, 4))
    assert len(expected.unique()) > 5
    whole = load(our_pre_training_v2(), save(folder / 'pre_training.pth', peer), strict=False)
    for tokenizer in (load(VectorQuantisedTokenizer(**TOKENIZER_V2), alone, strict=False), whole.target.tokenizer):
        assert torch.equal(tokenizer.encode(views), expected)
        with pytest.raises(UserError, match='decoding needs a tokenizer with its decoder, got weights without one'):
            tokenizer.decode_features(expected)


def test_a_checkpoint_of_timms_training_has_weights_and_averaged_weights(folder):
    peer, averaged = (draw(timm.create_model(BASE, **SHRUNK), seed) for seed in (0, 1))
    weights = dict(state_dict=peer.state_dict(), state_dict_ema=averaged.state_dict())
    torch.save(dict(epoch=3, arch=BASE, metric=1.0, **weights), folder / 'checkpoint-3.pth.tar')
    model, pixels = load(classifier(**SHRUNK), folder / 'checkpoint-3.pth.tar'), images(224, count=1)
    compare('timm', BASE, 'a checkpoint of its training script', model(pixels), peer(pixels))


@torch.no_grad()
def test_our_pre_training_weights_in_timm_have_a_copy_of_the_shared_table_in_every_block(folder):
    model, pixels = draw(pre_training_model(32, **SHRUNK)), images(224, count=1)
    left_out = ('backbone.mask_token', 'lm_head.')
    path = convert_to('timm', save(folder / 'ours.pth', model), folder / 'timm.pth', left_out)
    peer = timm.create_model(BASE, num_classes=0, global_pool='token', checkpoint_path=str(path), **SHRUNK).eval()
    compare('timm', BASE, 'our pre-training weights in theirs', peer(pixels), model(pixels)[0][:, 0])


@torch.no_grad()
@pytest.mark.parametrize('size', [(48, 80), (80, 48)])
def test_a_grid_that_is_not_square_in_timms_bare_weights(size, folder):
    """Its files do not tell 3 x 5 from 5 x 3 patches, so ours may not claim to know."""
    peer, pixels = draw(timm.create_model(BASE, img_size=size, **SHRUNK)), images(*size, count=1)
    torch.save(peer.state_dict(), folder / 'timm.pth')
    ours = convert_to('beit_mm', folder / 'timm.pth', folder / 'ours.pth')
    for path, how in ((folder / 'timm.pth', 'as it is'), (ours, 'converted')):
        model = load(classifier(img_size=size, **SHRUNK), path)
        compare('timm', BASE, f'{size[0]} x {size[1]} pixels, {how}', model(pixels), peer(pixels))
