"""Sliding windows in batches give MMSegmentation's logits."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmseg.models.segmentors import EncoderDecoder as HostEncoderDecoder

from beit_mm.models.segmentors.encoder_decoder import EncoderDecoder, window_starts

LEVELS = [0, 1, 2, 3]
TRUNK = dict(img_size=64, embed_dim=32, depth=4, num_heads=2, out_type='featmap', out_indices=LEVELS)
NORM = dict(type='BN')
HEAD = dict(in_channels=[32] * 4, in_index=LEVELS, channels=16, num_classes=5, norm_cfg=NORM)


@DefaultScope.overwrite_default_scope('mmseg')
def build(segmentor, head='beit_mm.UperNetHead', **test_cfg):
    torch.manual_seed(0)
    return segmentor(
        backbone=dict(type='beit_mm.BEiT', **TRUNK),
        neck=dict(type='Feature2Pyramid', embed_dim=32, norm_cfg=NORM),
        decode_head=dict(type=head, **HEAD),
        test_cfg=ConfigDict({**dict(mode='slide', crop_size=(64, 64), stride=(43, 43)), **test_cfg}),
    ).eval()


@torch.no_grad()
def infer(model, images):
    size = images.shape[2:]
    return model.inference(images, [dict(ori_shape=size, img_shape=size)] * len(images))


@pytest.mark.parametrize('size', [(64, 64), (64, 100), (150, 107), (65, 200)])
def test_logits_are_those_of_mmsegmentation_for_any_number_of_windows_at_once(size):
    images, ours, host = torch.randn(2, 3, *size), build(EncoderDecoder), build(HostEncoderDecoder)
    other_head = build(HostEncoderDecoder, 'UPerHead')
    host.load_state_dict(ours.state_dict())
    other_head.load_state_dict(ours.state_dict())
    expected = infer(host, images)
    for windows in (None, 1, 3, 100):
        if windows:
            ours.test_cfg.windows_per_batch = windows
        logits = infer(ours, images)
        assert logits.shape == (2, 5, *size)
        assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()
        assert torch.equal(logits.argmax(1), expected.argmax(1))
    expected = infer(other_head, images)
    highest = expected.topk(2, dim=1).values
    is_clear = highest[:, 0] - highest[:, 1] > 1e-4
    assert is_clear.float().mean() > 0.99
    assert torch.equal(logits.argmax(1)[is_clear], expected.argmax(1)[is_clear])


@pytest.mark.parametrize('size', [(30, 64), (64, 17), (41, 100), (1, 1)])
def test_an_image_smaller_than_the_window_is_padded_to_it(size):
    model, images = build(EncoderDecoder), torch.randn(1, 3, *size)
    padded = torch.zeros(1, 3, *(max(side, 64) for side in size))
    padded[:, :, : size[0], : size[1]] = images
    logits = infer(model, images)
    assert logits.shape == (1, 5, *size)
    assert torch.equal(logits, infer(model, padded)[:, :, : size[0], : size[1]])


@pytest.mark.parametrize(
    'size, starts', [(64, [0]), (65, [0, 1]), (107, [0, 43]), (108, [0, 43, 44]), (200, [0, 43, 86, 129, 136])]
)
def test_windows_begin_every_stride_and_the_last_ends_with_the_image(size, starts):
    assert window_starts(size, 64, 43) == starts


def test_the_mode_whole_is_the_host_s():
    images, ours, host = torch.randn(1, 3, 96, 64), build(EncoderDecoder), build(HostEncoderDecoder)
    ours.test_cfg.mode = host.test_cfg.mode = 'whole'
    host.load_state_dict(ours.state_dict())
    assert torch.equal(infer(ours, images), infer(host, images))
    with pytest.raises(ValueError, match='size_divisor of data_preprocessor.test_cfg, .* got 60 x 80'):
        infer(ours, torch.randn(1, 3, 60, 80))


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
