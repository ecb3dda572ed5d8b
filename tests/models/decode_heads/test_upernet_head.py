"""UperNetHead against MMSegmentation's UPerHead."""

import pytest
import torch
from mmengine.registry import DefaultScope
from mmseg.models.decode_heads import UPerHead

from beit_mm.models import UperNetHead

WIDTHS = [8, 12, 16, 20]
EVEN = [(16, 24), (8, 12), (4, 6), (2, 3)]
ODD = [(13, 17), (7, 9), (4, 5), (3, 2)]
UNRELATED = [(9, 9), (11, 4), (5, 5), (1, 1)]


@pytest.fixture(autouse=True)
def host_scope():
    with DefaultScope.overwrite_default_scope('mmseg'):  # where the heads look for their losses
        yield


def pair(seed=0, **kwargs):
    """UperNetHead with UPerHead's weights, and that."""
    kwargs = {
        **dict(
            in_channels=WIDTHS,
            in_index=[0, 1, 2, 3],
            channels=8,
            num_classes=5,
            dropout_ratio=0,
            norm_cfg=dict(type='BN'),
            align_corners=False,
        ),
        **kwargs,
    }
    torch.manual_seed(seed)
    ours, theirs = UperNetHead(**kwargs), UPerHead(**kwargs)
    with torch.no_grad():
        for name, tensor in theirs.state_dict().items():
            if tensor.is_floating_point():  # variances positive, nothing at its initial value
                tensor.uniform_(0.5, 1.5) if 'running_var' in name else tensor.normal_(std=0.3)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def levels(sizes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, width, *size, generator=generator) for width, size in zip(WIDTHS, sizes)]


def test_parameters_are_named_and_shaped_as_upsamples_are():
    ours, theirs = pair()
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == {
        name: tensor.shape for name, tensor in theirs.state_dict().items()
    }
    theirs.load_state_dict(ours.state_dict(), strict=True)


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('sizes', [EVEN, ODD, UNRELATED], ids=['even', 'odd', 'unrelated'])
@pytest.mark.parametrize('training', [False, True], ids=['evaluation', 'training'])
@pytest.mark.filterwarnings('ignore:When align_corners')
def test_outputs_and_statistics_are_equal(training, sizes, align_corners):
    ours, theirs = (head.train(training) for head in pair(align_corners=align_corners))
    output, expected = ours(levels(sizes)), theirs(levels(sizes))
    assert output.shape == (2, 5, *sizes[0])
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    for (name, buffer), (_, wanted) in zip(ours.named_buffers(), theirs.named_buffers()):
        torch.testing.assert_close(buffer, wanted, rtol=1e-5, atol=1e-5, msg=name)


def test_gradients_are_equal():
    ours, theirs = (head.eval() for head in pair())
    inputs = [[level.requires_grad_() for level in levels(ODD)] for _ in range(2)]
    for head, given in zip((ours, theirs), inputs):
        head(given).square().sum().backward()
    for ours_level, their_level in zip(*inputs):
        torch.testing.assert_close(ours_level.grad, their_level.grad, rtol=1e-4, atol=1e-4)
    wanted = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
        torch.testing.assert_close(parameter.grad, wanted[name].grad, rtol=1e-4, atol=1e-3, msg=name)


def test_other_pool_scales_and_levels_equal_too():
    ours, theirs = (head.eval() for head in pair(pool_scales=(1, 3), in_channels=[20, 8, 12], in_index=[3, 0, 1]))
    given = levels(UNRELATED)
    torch.testing.assert_close(ours(given), theirs(given), rtol=1e-5, atol=1e-5)
    assert ours(given).shape == (2, 5, 1, 1)
