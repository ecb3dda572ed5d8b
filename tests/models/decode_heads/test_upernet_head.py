"""UperNetHead against MMSegmentation's UPerHead."""

import pytest
import torch
from mmengine.registry import DefaultScope
from mmseg.models.decode_heads import UPerHead
from torch.nn import functional as F

from beit_mm.models import UperNetHead
from beit_mm.models.decode_heads.upernet_head import conv_of_upsampled

WIDTHS = [8, 12, 16, 20]
EVEN = [(16, 24), (8, 12), (4, 6), (2, 3)]
ODD = [(13, 17), (7, 9), (4, 5), (3, 2)]
UNRELATED = [(9, 9), (11, 4), (9, 9), (1, 1)]


@pytest.fixture(autouse=True)
def host_scope():
    with DefaultScope.overwrite_default_scope('mmseg'):  # where the heads look for their losses
        yield


def pair(**kwargs):
    """UperNetHead and UPerHead with the same weights."""
    torch.manual_seed(0)
    options = dict(in_channels=WIDTHS, in_index=[0, 1, 2, 3], channels=8, num_classes=5, dropout_ratio=0)
    options.update({'norm_cfg': dict(type='BN'), **kwargs})
    ours, theirs = UperNetHead(**options), UPerHead(**options)
    with torch.no_grad():
        for name, tensor in theirs.state_dict().items():
            if tensor.is_floating_point():  # variances positive, nothing at its initial value
                tensor.uniform_(0.5, 1.5) if 'running_var' in name else tensor.normal_(std=0.3)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def levels(sizes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, width, *size, generator=generator) for width, size in zip(WIDTHS, sizes)]


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('sizes', [EVEN, ODD, UNRELATED], ids=['even', 'odd', 'unrelated'])
@pytest.mark.parametrize('training', [False, True], ids=['evaluation', 'training'])
@pytest.mark.filterwarnings('ignore:When align_corners')
def test_outputs_statistics_and_gradients_are_equal(training, sizes, align_corners):
    ours, theirs = (head.train(training) for head in pair(align_corners=align_corners))
    inputs = [[level.requires_grad_() for level in levels(sizes)] for _ in range(2)]
    output, expected = (head(features) for head, features in zip((ours, theirs), inputs))
    assert output.shape == (2, 5, *sizes[0])
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dict(ours.named_buffers()), dict(theirs.named_buffers()), rtol=1e-5, atol=1e-5)
    if not training:
        output.square().sum().backward()
        expected.square().sum().backward()
        torch.testing.assert_close(*([level.grad for level in part] for part in inputs), rtol=1e-4, atol=1e-3)
        ours, theirs = ({name: p.grad for name, p in head.named_parameters()} for head in (ours, theirs))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)
        assert all(gradient.any() for gradient in ours.values())


def test_other_pool_scales_and_levels_equal_too():
    ours, theirs = (head.eval() for head in pair(pool_scales=(1, 3), in_channels=[20, 8, 12], in_index=[3, 0, 1]))
    features = levels(UNRELATED)
    torch.testing.assert_close(ours(features), theirs(features), rtol=1e-5, atol=1e-5)
    assert ours(features).shape == (2, 5, 1, 1)


SIZES = [((8, 8), (16, 16)), ((4, 6), (16, 24)), ((1, 1), (5, 7)), ((3, 5), (7, 9)), ((6, 6), (4, 4)), ((2, 3), (2, 9))]


@pytest.mark.parametrize('source, target', SIZES)
@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('kernel_size', [1, 3])
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
