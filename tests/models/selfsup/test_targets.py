"""What is predicted, and where: pixels instead of tokens, all patches instead of the masked ones."""

import pytest
import torch
from support.tiny import PRE_TRAINING

from beit_mm.models import BEiT, MaskedImageModel, NormalisedPixels
from beit_mm.models.selfsup.targets import AllPatches, MaskedPatches


def model(**kwargs) -> MaskedImageModel:
    torch.manual_seed(0)
    trunk = BEiT(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, **PRE_TRAINING)
    return MaskedImageModel(trunk, dict(type='beit_mm.NormalisedPixels', patch_size=8), **kwargs)


def batch(num_masked: int = 5):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 3, 32, 32, generator=generator)
    mask = torch.stack([torch.randperm(16, generator=generator) < num_masked for _ in range(3)]).view(3, 4, 4)
    return images, torch.zeros(3, 3, 32, 32), mask


def test_pixels_of_a_patch_lie_row_by_row_with_their_channels_together():
    images = torch.arange(2 * 3 * 16 * 24).float().view(2, 3, 16, 24)
    target = NormalisedPixels(patch_size=8)
    patches = target(images, None)
    assert patches.shape == (2, 2, 3, 192) and target.num_outputs == 192
    for image, row, column in ((0, 0, 0), (1, 1, 2)):
        block = images[image, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        assert torch.equal(patches[image, row, column], block.permute(1, 2, 0).flatten())


def test_the_loss_on_pixels_is_the_mean_squared_error_at_masked_patches():
    net, (images, views, mask) = model(), batch()
    losses = net(images, views, mask, mode='loss')
    predicted = net.lm_head(net.backbone(images, mask)[0][:, 1:])
    expected = (predicted.view(3, 4, 4, -1) - net.target(images, views))[mask].square().mean()
    assert set(losses) == {'loss'} and torch.allclose(losses['loss'], expected)
    predictions = net(images, views, mask, mode='predict')
    assert [tuple(sample['predicted'].shape) for sample in predictions] == [(5, 192)] * 3


def test_an_image_that_the_patch_does_not_divide_is_refused():
    with pytest.raises(ValueError, match='multiples of the patch size 8'):
        NormalisedPixels(patch_size=8)(torch.zeros(1, 3, 12, 16), None)


def test_all_patches_count_if_asked():
    net, (images, views, mask) = model(recovered=dict(type='beit_mm.AllPatches')), batch()
    predicted = net.lm_head(net.backbone(images, mask)[0][:, 1:]).view(3, 4, 4, -1)
    expected = (predicted - net.target(images, views)).square().mean()
    assert torch.allclose(net(images, views, mask, mode='loss')['loss'], expected)
    assert len(net(images, views, mask, mode='predict')[0]['predicted']) == 5, 'predictions are those of masked patches'


@pytest.mark.parametrize('num_masked', [1, 5, 15, 16])
def test_a_known_number_of_masked_patches_gives_the_same_places(num_masked):
    mask = batch(num_masked)[2]
    assert torch.equal(MaskedPatches(num_masked)(mask), MaskedPatches()(mask))
    assert torch.equal(AllPatches()(mask), torch.arange(48))


def test_a_wrong_number_of_masked_patches_is_told_at_the_first_batch():
    with pytest.raises(ValueError, match=r'recovered.num_masked .* got 4 and \[5, 5, 5\]'):
        MaskedPatches(4)(batch()[2])


def test_parts_without_weights_leave_the_checkpoint_as_it_is():
    assert not [name for name in model().state_dict() if name.startswith(('recovered', 'target'))]
