"""Convolutions of up-sampled maps, computed at their own resolution."""

import pytest
import torch
from torch.nn import functional as F

from beit_mm.models.decode_heads.upernet_head import conv_of_joined, conv_of_upsampled

SIZES = [((8, 8), (16, 16)), ((4, 6), (16, 24)), ((1, 1), (5, 7)), ((3, 5), (7, 9)), ((6, 6), (4, 4)), ((2, 3), (2, 9))]


@pytest.mark.parametrize('source, target', SIZES)
@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('kernel_size', [1, 3, 5])
def test_it_equals_up_sampling_first(source, target, align_corners, kernel_size):
    torch.manual_seed(0)
    weight = torch.randn(7, 5, kernel_size, kernel_size, dtype=torch.double, requires_grad=True)
    level = torch.randn(2, 5, *source, dtype=torch.double, requires_grad=True)
    actual = conv_of_upsampled(weight, level, target, align_corners)
    expected = F.conv2d(
        F.interpolate(level, size=target, mode='bilinear', align_corners=align_corners),
        weight,
        padding=kernel_size // 2,
    )
    assert torch.allclose(actual, expected, rtol=0, atol=1e-12)
    grad = torch.randn_like(expected)
    for ours, theirs in zip(*(torch.autograd.grad(result, (weight, level), grad) for result in (actual, expected))):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-11)


def test_levels_are_joined_by_channels_at_the_size_of_the_first():
    torch.manual_seed(0)
    levels = [torch.randn(1, 4, 16, 24), torch.randn(1, 3, 8, 12), torch.randn(1, 2, 16, 24), torch.randn(1, 5, 2, 3)]
    weight = torch.randn(6, 14, 3, 3)
    joined = torch.cat([F.interpolate(level, size=(16, 24), mode='bilinear') for level in levels], dim=1)
    expected = F.conv2d(joined, weight, padding=1)
    assert (conv_of_joined(weight, [levels[0], levels[1], levels[2], levels[3]]) - expected).abs().max() < 1e-4
