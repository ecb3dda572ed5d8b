"""Sliding windows in batches give MMSegmentation's logits."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmseg.models.segmentors import EncoderDecoder as HostEncoderDecoder

from beit_mm.models.segmentors.encoder_decoder import EncoderDecoder, window_starts

PARTS = dict(
    backbone=dict(
        type='beit_mm.BEiT',
        img_size=64,
        embed_dim=32,
        depth=4,
        num_heads=2,
        out_type='featmap',
        out_indices=[0, 1, 2, 3],
    ),
    neck=dict(type='Feature2Pyramid', embed_dim=32, norm_cfg=dict(type='BN')),
    decode_head=dict(
        type='beit_mm.UperNetHead',
        in_channels=[32] * 4,
        in_index=[0, 1, 2, 3],
        channels=16,
        num_classes=5,
        norm_cfg=dict(type='BN'),
    ),
)


@DefaultScope.overwrite_default_scope('mmseg')
def build(kind, decode_head=PARTS['decode_head'], **test_cfg):
    torch.manual_seed(0)
    test_cfg = ConfigDict({**dict(mode='slide', crop_size=(64, 64), stride=(43, 43)), **test_cfg})
    return kind(**dict(PARTS, decode_head=decode_head), test_cfg=test_cfg).eval()


@pytest.mark.parametrize('size', [(64, 64), (64, 100), (150, 107), (65, 200)])
@pytest.mark.parametrize('windows', [None, 1, 3, 100])
def test_logits_are_those_of_mmsegmentation(size, windows):
    images = torch.randn(2, 3, *size)
    ours = build(EncoderDecoder, **(dict(windows_per_batch=windows) if windows else {}))
    host = build(HostEncoderDecoder)
    host.load_state_dict(ours.state_dict())
    with torch.no_grad():
        expected = host.inference(images, [dict(ori_shape=size)] * 2)
        logits = ours.inference(images, [dict(ori_shape=size)] * 2)
    assert logits.shape == (2, 5, *size)
    assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()
    assert torch.equal(logits.argmax(1), expected.argmax(1))


@pytest.mark.parametrize('size', [(64, 64), (150, 107)])
def test_class_maps_are_those_of_mmsegmentation_s_own_head(size):
    images = torch.randn(2, 3, *size)
    ours = build(EncoderDecoder)
    host = build(HostEncoderDecoder, decode_head=dict(PARTS['decode_head'], type='UPerHead'))
    host.load_state_dict(ours.state_dict())
    with torch.no_grad():
        expected, logits = (model.inference(images, [dict(ori_shape=size)] * 2) for model in (host, ours))
    highest = expected.topk(2, dim=1).values
    is_clear = highest[:, 0] - highest[:, 1] > 1e-4
    assert is_clear.float().mean() > 0.99
    assert torch.equal(logits.argmax(1)[is_clear], expected.argmax(1)[is_clear])


@pytest.mark.parametrize('size', [(30, 64), (64, 17), (41, 100), (1, 1)])
def test_an_image_smaller_than_the_window_is_padded_to_it(size):
    model, images = build(EncoderDecoder), torch.randn(1, 3, *size)
    padded = torch.zeros(1, 3, *(max(side, 64) for side in size))
    padded[:, :, : size[0], : size[1]] = images
    with torch.no_grad():
        logits, expected = (model.inference(x, [dict(ori_shape=x.shape[2:])]) for x in (images, padded))
    assert logits.shape == (1, 5, *size)
    assert torch.equal(logits, expected[:, :, : size[0], : size[1]])


@pytest.mark.parametrize(
    'size, window, stride, starts',
    [
        (64, 64, 43, [0]),
        (65, 64, 43, [0, 1]),
        (107, 64, 43, [0, 43]),
        (108, 64, 43, [0, 43, 44]),
        (683, 512, 341, [0, 171]),
    ],
)
def test_windows_begin_every_stride_and_the_last_ends_with_the_image(size, window, stride, starts):
    assert window_starts(size, window, stride) == starts


def test_the_mode_whole_is_the_host_s():
    model = build(EncoderDecoder)
    model.test_cfg.mode = 'whole'
    with torch.no_grad():
        logits = model.inference(torch.randn(1, 3, 96, 64), [dict(ori_shape=(96, 64), img_shape=(96, 64))])
    assert logits.shape == (1, 5, 96, 64)


@pytest.mark.parametrize(
    'test_cfg, message',
    [
        (dict(stride=(43, 65)), r'stride must not exceed crop_size \(64, 64\), .* got \(43, 65\)'),
        (dict(crop_size=(64, 72)), 'test_cfg.crop_size must be multiples of the patch size 16, got 64 x 72'),
    ],
)
def test_windows_that_cannot_be_are_refused(test_cfg, message):
    with pytest.raises(ValueError, match=message):
        build(EncoderDecoder, **test_cfg)
