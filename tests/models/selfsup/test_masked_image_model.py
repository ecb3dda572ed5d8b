"""MaskedImageModel and its targets: what counts in the loss, what learns, what is refused."""

import pytest
import torch
from mmengine.registry import MODELS
from support.tiny import masked_image_model, pixels, PRE_TRAINING
from torch import nn
from torch.nn import functional as F

from beit_mm.models import (
    AllPatches,
    BEiT,
    DiscreteVAE,
    MaskedImageModel,
    MaskedPatches,
    NormalisedPixels,
    VisualTokens,
)

VOCAB = 16
TABLE = 'backbone.rel_pos_bias.relative_position_bias_table'
BACKBONE = dict(img_size=64, embed_dim=32, depth=2, num_heads=4, **PRE_TRAINING)
TOKENIZER = dict(vocab_size=VOCAB, n_hid=8, n_init=8, blocks_per_group=1)


class ViewsAsTokens(nn.Module):
    def __init__(self, vocab_size=VOCAB):
        super().__init__()
        self.vocab_size = vocab_size

    def encode(self, views):
        self.autocast = torch.is_autocast_enabled('cpu')
        return views


def build(target=None, recovered=None, **trunk) -> MaskedImageModel:
    """Predictions differ from patch to patch."""
    torch.manual_seed(0)
    model = MaskedImageModel(BEiT(**{**BACKBONE, **trunk}), target or VisualTokens(ViewsAsTokens()), recovered)
    nn.init.normal_(model.lm_head.weight)
    if model.backbone.pos_embed is not None:
        nn.init.normal_(model.backbone.pos_embed)
    return model


def batch(size=3, counts=(3, 4, 5)):
    """Images, tokens and masks of so many patches."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size, 3, 64, 64, generator=generator)
    tokens = torch.randint(VOCAB, (size, 4, 4), generator=generator)
    mask = torch.stack([torch.randperm(16, generator=generator) < count for count in counts[:size]])
    return images, tokens, mask.view(size, 4, 4)


def test_visible_patches_inform_the_prediction_and_masked_ones_do_not():
    model = build()
    images, tokens, mask = batch()
    large = mask.repeat_interleave(16, dim=1).repeat_interleave(16, dim=2)[:, None]
    loss = model.loss(images, tokens, mask)['loss']
    noise = torch.randn_like(images)
    assert torch.equal(model.loss(torch.where(large, noise, images), tokens, mask)['loss'], loss)
    assert not torch.equal(model.loss(torch.where(large, images, noise), tokens, mask)['loss'], loss)


@pytest.mark.parametrize('counts', [(3, 4, 5), (1, 16, 16), (5, 0, 0)])
def test_the_loss_is_the_mean_cross_entropy_and_predictions_come_image_by_image(counts):
    model = build(use_abs_pos_emb=True)
    images, tokens, mask = batch(counts=counts)
    losses, samples = (model(images, tokens, mask, mode=mode) for mode in ('loss', 'predict'))
    logits = model.lm_head(model.backbone(images, mask)[0][:, 1:]).unflatten(1, (4, 4))
    torch.testing.assert_close(losses['loss'], F.cross_entropy(logits[mask], tokens[mask]))
    accuracy = (logits[mask].argmax(dim=1) == tokens[mask]).float().mean()
    assert losses['masked_token_accuracy'] == accuracy and not losses['masked_token_accuracy'].requires_grad
    assert [len(sample['predicted']) for sample in samples] == list(counts)
    for index, sample in enumerate(samples):
        assert torch.equal(sample['target'], tokens[index][mask[index]])
        assert torch.equal(sample['predicted'], logits[index][mask[index]].argmax(dim=1))
    assert len(torch.cat([sample['predicted'] for sample in samples]).unique()) > 1


def test_features_without_a_mask_are_the_trunks():
    model, images = masked_image_model().eval(), pixels(64, 64)
    assert torch.equal(model.extract_feat(images)[0], model.backbone(images)[0])


def test_images_of_another_size_are_trained_on_with_masks_of_their_grid():
    mask = torch.zeros(2, 3, 5, dtype=torch.bool)
    mask[:, -1] = True
    model = build()
    model.loss(torch.randn(2, 3, 48, 80), torch.zeros(2, 3, 5, dtype=torch.int64), mask)['loss'].backward()
    assert model.backbone.rel_pos_bias.relative_position_bias_table.grad.any()


def test_pixels_of_a_patch_lie_row_by_row_with_their_channels_together():
    images = torch.arange(2 * 3 * 16 * 24).float().view(2, 3, 16, 24)
    target = NormalisedPixels(patch_size=8)
    patches = target(images, None)
    assert patches.shape == (2, 2, 3, 192) and target.num_outputs == 192
    for image, row, column in ((0, 0, 0), (1, 1, 2)):
        block = images[image, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        assert torch.equal(patches[image, row, column], block.permute(1, 2, 0).flatten())


@pytest.mark.parametrize('recovered', [None, dict(type='beit_mm.AllPatches')], ids=['masked', 'all'])
def test_the_loss_on_pixels_is_the_mean_squared_error(recovered):
    model, (images, views, mask) = build(dict(type='beit_mm.NormalisedPixels'), recovered), batch()
    assert not [name for name in model.state_dict() if name.startswith(('recovered', 'target'))]
    losses = model(images, views, mask, mode='loss')
    error = model.lm_head(model.backbone(images, mask)[0][:, 1:]).unflatten(1, (4, 4)) - model.target(images, views)
    assert set(losses) == {'loss'}
    torch.testing.assert_close(losses['loss'], (error if recovered else error[mask]).square().mean())
    predictions = model(images, views, mask, mode='predict')
    assert [tuple(sample['predicted'].shape) for sample in predictions] == [(3, 768), (4, 768), (5, 768)]


@pytest.mark.parametrize('num_masked', [1, 5, 15, 16])
def test_a_known_number_of_masked_patches_gives_the_same_indices(num_masked):
    mask = batch(counts=[num_masked] * 3)[2]
    assert torch.equal(MaskedPatches(num_masked)(mask), MaskedPatches()(mask))
    assert torch.equal(AllPatches()(mask), torch.arange(48))


@pytest.mark.parametrize('kwargs', [{}, dict(use_abs_pos_emb=True, use_rel_pos_bias=True)], ids=['shared', 'all'])
def test_the_model_learns_and_the_tokenizer_stays_in_evaluation_mode_as_it_was(kwargs):
    tokenizer = DiscreteVAE(**TOKENIZER)
    tokenizer.drop = nn.Dropout(0.5)
    model = build(VisualTokens(tokenizer), **kwargs).train()
    assert model.training and model.backbone.training and not any(m.training for m in tokenizer.modules())
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    images, _, mask = batch()
    model.parse_losses(model(images, torch.rand(3, 3, 32, 32), mask, mode='loss'))[0].backward()
    optimizer.step()
    assert len([name for name in before if name.startswith('target.')]) > 50
    for name, parameter in model.named_parameters():
        learns = name.startswith(('backbone.', 'lm_head.'))
        assert parameter.requires_grad == learns == (parameter.grad is not None), name
        assert torch.equal(parameter, before[name]) != learns, name
        assert not learns or parameter.grad.any(), name


def test_the_tokenizer_runs_outside_of_autocast():
    target = VisualTokens(ViewsAsTokens())
    with torch.autocast('cpu', torch.bfloat16):
        target(None, torch.zeros(1, 2, 2, dtype=torch.int64))
    assert target.tokenizer.autocast is False


def test_layers_are_counted_from_the_trunk():
    model = build()
    layers = {'backbone.mask_token': 0, 'backbone.blocks.1.norm1.weight': 2, TABLE: 3, 'lm_head.weight': 3}
    for name, layer in layers.items():
        assert name in dict(model.named_parameters()) and model.get_layer_depth(name) == (layer, 4)


@pytest.mark.parametrize(
    'trunk, message',
    [
        (dict(out_type='featmap'), "backbone with out_type='raw', got 'featmap'"),
        (dict(use_mask_token=False), 'backbone with use_mask_token=True'),
        (dict(patch_size=8), "target.patch_size must be the backbone's 8, got 16"),
    ],
)
def test_parts_that_do_not_fit_are_refused(trunk, message):
    with pytest.raises(ValueError, match=message):
        build(NormalisedPixels(), **trunk)


@pytest.mark.parametrize(
    'tokens, message',
    [
        (torch.zeros(3, 3, 3), r'generator\), \(4, 4\), got \(3, 3\)'),
        (torch.zeros(3, 2, 8), r'generator\), \(4, 4\), got \(2, 8\)'),
        (torch.full((3, 4, 4), VOCAB), '0 to 15 to fit lm_head, got 16 to 16'),
        (torch.full((3, 4, 4), -1), '0 to 15 to fit lm_head, got -1 to -1'),
    ],
)
def test_tokens_of_another_grid_or_beyond_the_vocabulary_are_refused_naming_both(tokens, message):
    images, _, mask = batch()
    with pytest.raises(ValueError, match=message):
        build().loss(images, tokens.long(), mask)


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: VisualTokens(ViewsAsTokens(None)), 'vocab_size, ViewsAsTokens has None'),
        (lambda: VisualTokens(ViewsAsTokens('16')), "vocab_size, ViewsAsTokens has '16'"),
        (lambda: VisualTokens(nn.Identity()), 'vocab_size, Identity has None'),
        (lambda: MaskedPatches(4)(batch()[2]), r'recovered.num_masked .* got 4 and \[3, 4, 5\]'),
        (lambda: NormalisedPixels(8)(torch.zeros(1, 3, 12, 16), None), 'multiples of the patch size 8'),
        (
            lambda: build().load_state_dict(build(VisualTokens(ViewsAsTokens(32))).state_dict(), strict=False),
            'lm_head must have 16 outputs .* has 32',
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_config_builds_it_with_a_head_of_the_tokenizers_vocabulary():
    model = MODELS.build(
        dict(
            type='beit_mm.MaskedImageModel',
            backbone=dict(type='beit_mm.BEiT', **BACKBONE),
            target=dict(type='beit_mm.VisualTokens', tokenizer=dict(type='beit_mm.DiscreteVAE', **TOKENIZER)),
            data_preprocessor=dict(type='beit_mm.TwoViewPreprocessor', mean=[0.0] * 3, std=[255.0] * 3),
        )
    )
    assert model.lm_head.weight.shape == (VOCAB, 32)
    assert model.lm_head.weight.abs().max() <= 0.02 and not model.lm_head.bias.any()
    images, views = (torch.zeros(2, 3, side, side, dtype=torch.uint8) for side in (64, 32))
    samples = model.val_step(dict(inputs=images, views=views, mask=batch(size=2)[2]))
    assert [len(sample['target']) for sample in samples] == [3, 4]
