"""timm's BEiT: its files in our model, our files in its model, and back to the start."""

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from support.fidelity import assert_same, classifier, compare, convert_to, draw, images, load, pre_training_model, save

from beit_mm.models import BEiT

SHRUNK = dict(embed_dim=64, depth=3, num_heads=4)
SIDES = dict(
    beit_base_patch16_224=224,
    beit_base_patch16_384=384,
    beit_large_patch16_224=224,
    beit_large_patch16_384=384,
    beit_large_patch16_512=512,
)


def ours_for(name: str, **options) -> torch.nn.Module:
    """Our model of the same size, from the config of that name."""
    return classifier(name.split('_')[1], img_size=SIDES[name], **options)


@torch.no_grad()
def compare_with_timm(name: str, folder, **options) -> None:
    """Timm's file in our model gives timm's logits, and converted there and back it is the start.

    Args:
        name: timm's name of the model.
        folder: for the files.
        **options: embed_dim, depth and num_heads; none for the full size.
    """
    peer = draw(timm.create_model(name, **options))
    start = peer.state_dict()
    save_file(start, folder / 'timm.safetensors')
    pixels = images(SIDES[name], count=1)
    model = load(ours_for(name, **options), folder / 'timm.safetensors')
    what = f'{name}, {"shrunk" if options else "full size"}'
    logits = model(pixels)
    compare('timm', what, 'their weights in ours', logits, peer(pixels))
    for block in peer.blocks:
        block.attn.fused_attn = False
    compare('timm', what, 'their attention written out', logits, peer(pixels))
    del model, peer

    convert_to('beit_mm', folder / 'timm.safetensors', folder / 'ours.safetensors')
    convert_to('timm', folder / 'ours.safetensors', folder / 'back.safetensors')
    assert_same(load_file(folder / 'back.safetensors'), start)


@pytest.mark.parametrize('name', SIDES)
def test_weights_of_timm(name, folder):
    compare_with_timm(name, folder, **SHRUNK)


@pytest.mark.long
@pytest.mark.parametrize('name', ['beit_base_patch16_224', 'beit_large_patch16_224'])
def test_weights_of_timm_at_full_size(name, folder):
    compare_with_timm(name, folder)


@torch.no_grad()
@pytest.mark.parametrize('name', SIDES)
@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_our_weights_in_timm(name, suffix, folder):
    model = draw(ours_for(name, **SHRUNK))
    path = convert_to('timm', save(folder / 'ours.pth', model), folder / f'timm.{suffix}')
    peer = timm.create_model(name, checkpoint_path=str(path), **SHRUNK).eval()  # strict
    pixels = images(SIDES[name], count=1)
    compare('timm', f'{name}, shrunk', f'our weights in theirs, .{suffix}', peer(pixels), model(pixels))

    back = convert_to('beit_mm', path, folder / 'back.pth')
    assert_same(torch.load(back, weights_only=True)['state_dict'], model.state_dict())
    assert_same(load(ours_for(name, **SHRUNK), path).state_dict(), model.state_dict())


def test_a_checkpoint_of_timms_training(folder):
    """`state_dict` beside `state_dict_ema` and the arguments."""
    name = 'beit_base_patch16_224'
    peer, averaged = (draw(timm.create_model(name, **SHRUNK), seed) for seed in (0, 1))
    torch.save(
        dict(epoch=3, arch=name, state_dict=peer.state_dict(), state_dict_ema=averaged.state_dict(), metric=1.0),
        folder / 'checkpoint-3.pth.tar',
    )
    model = load(ours_for(name, **SHRUNK), folder / 'checkpoint-3.pth.tar')
    pixels = images(224, count=1)
    compare('timm', f'{name}, shrunk', 'a checkpoint of its training script', model(pixels), peer(pixels))


VARIANTS = {  # timm's options, ours
    'class token': (dict(global_pool='token'), dict(out_type='cls_token')),
    'absolute positions': (dict(use_abs_pos_emb=True), dict(use_abs_pos_emb=True)),
    'no LayerScale': (dict(init_values=0.0), dict(layer_scale_init_value=None)),
    'no bias on q, k and v': (dict(qkv_bias=False), dict(qkv_bias=False)),
}  # yapf: disable


@torch.no_grad()
@pytest.mark.parametrize('what', VARIANTS)
def test_variants(what, folder):
    name, (theirs, ours), pixels = 'beit_base_patch16_224', VARIANTS[what], images(224, count=1)
    peer = draw(timm.create_model(name, **SHRUNK, **theirs))
    torch.save(peer.state_dict(), folder / 'timm.pth')
    model = load(ours_for(name, **SHRUNK, **ours), folder / 'timm.pth')
    compare('timm', f'{name}, shrunk', what, model(pixels), peer(pixels))
    back = convert_to('timm', save(folder / 'ours.pth', model), folder / 'back.pth')
    assert_same(torch.load(back, weights_only=True), peer.state_dict())


@torch.no_grad()
def test_a_trunk_alone(folder):
    name, pixels = 'beit_base_patch16_224', images(224, count=1)
    peer = draw(timm.create_model(name, num_classes=0, **SHRUNK))
    torch.save(peer.state_dict(), folder / 'timm.pth')
    trunk = load(BEiT(**SHRUNK), folder / 'timm.pth')
    compare('timm', f'{name}, shrunk', 'a trunk alone', trunk(pixels)[0], peer(pixels))
    back = convert_to('timm', save(folder / 'ours.pth', trunk), folder / 'back.pth')
    again = timm.create_model(name, num_classes=0, checkpoint_path=str(back), **SHRUNK)
    assert_same(again.state_dict(), peer.state_dict())


@torch.no_grad()
def test_our_pre_training_weights_in_timm(folder):
    """Every block gets a copy of the shared bias table."""
    name, pixels = 'beit_base_patch16_224', images(224, count=1)
    model = draw(pre_training_model(32, **SHRUNK))
    path = convert_to(
        'timm', save(folder / 'ours.pth', model), folder / 'timm.pth', left_out=('backbone.mask_token', 'lm_head.')
    )
    peer = timm.create_model(name, num_classes=0, global_pool='token', checkpoint_path=str(path), **SHRUNK).eval()
    compare('timm', f'{name}, shrunk', 'our pre-training weights in theirs', peer(pixels), model(pixels)[0][:, 0])


@torch.no_grad()
@pytest.mark.parametrize('size', [(48, 80), (80, 48)])
def test_a_grid_that_is_not_square(size, folder):
    """Its files do not tell 3 x 5 from 5 x 3 patches, so ours may not claim to know."""
    name, pixels = 'beit_base_patch16_224', images(*size, count=1)
    peer = draw(timm.create_model(name, img_size=size, **SHRUNK))
    torch.save(peer.state_dict(), folder / 'timm.pth')
    ours = convert_to('beit_mm', folder / 'timm.pth', folder / 'ours.pth')
    for path, how in ((folder / 'timm.pth', 'as it is'), (ours, 'converted')):
        model = load(classifier(img_size=size, **SHRUNK), path)
        compare('timm', f'{name}, shrunk', f'{size[0]} x {size[1]} pixels, {how}', model(pixels), peer(pixels))
