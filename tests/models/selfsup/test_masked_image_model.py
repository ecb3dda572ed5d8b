"""MaskedImageModel: what counts in the loss, what learns, what is refused."""

import re

import pytest
import torch
from mmengine.registry import MODELS
from support.tiny import PRE_TRAINING
from torch import nn
from torch.nn import functional as F

from beit_mm.models import BEiT, DiscreteVAE, MaskedImageModel, NormalisedPixels, VisualTokens

VOCAB = 16
BACKBONE = dict(img_size=64, embed_dim=32, depth=2, num_heads=4, **PRE_TRAINING)
TOKENIZER = dict(vocab_size=VOCAB, n_hid=8, n_init=8, blocks_per_group=1)


class GivenTokens(nn.Module):
    """Takes the views for tokens."""

    vocab_size = VOCAB

    def encode(self, views):
        return views


def build(tokenizer=None, seed=0, **kwargs) -> MaskedImageModel:
    torch.manual_seed(seed)
    return MaskedImageModel(BEiT(**{**BACKBONE, **kwargs}), VisualTokens(tokenizer or GivenTokens()))


def batch(seed=0, size=3):
    """Images, tokens and masks of 3, 4 and 5 patches."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, 64, 64, generator=generator)
    tokens = torch.randint(VOCAB, (size, 4, 4), generator=generator)
    mask = torch.zeros(size, 16, dtype=torch.bool)
    for index in range(size):
        mask[index, torch.randperm(16, generator=generator)[: 3 + index]] = True
    return images, tokens, mask.view(size, 4, 4)


# The loss


def test_the_loss_is_the_mean_cross_entropy_over_all_masked_patches():
    model = build()
    images, tokens, mask = batch()
    (features,) = model.backbone(images, mask)
    terms = []
    for image in range(3):
        for row in range(4):
            for column in range(4):
                if mask[image, row, column]:
                    logits = model.lm_head(features[image, 1 + 4 * row + column])
                    terms.append(-logits.log_softmax(dim=0)[tokens[image, row, column]])
    assert len(terms) == 3 + 4 + 5
    torch.testing.assert_close(model(images, tokens, mask, mode='loss')['loss'], torch.stack(terms).mean())


def test_visible_patches_inform_the_prediction_and_masked_ones_do_not():
    model = build()
    nn.init.normal_(model.lm_head.weight)
    images, tokens, mask = batch()
    large = mask.repeat_interleave(16, dim=1).repeat_interleave(16, dim=2)[:, None]
    loss = model.loss(images, tokens, mask)['loss']
    noise = torch.randn_like(images)
    assert torch.equal(model.loss(torch.where(large, noise, images), tokens, mask)['loss'], loss)
    assert not torch.allclose(model.loss(torch.where(large, images, noise), tokens, mask)['loss'], loss, rtol=1e-4)


@pytest.mark.parametrize('counts', [(1, 16), (16, 16), (5, 0)])
def test_images_may_have_unequal_numbers_of_masked_patches(counts):
    model = build()
    images, tokens, _ = batch(size=2)
    mask = torch.stack([(torch.arange(16) < count).view(4, 4) for count in counts])
    losses = [model.loss(images[i : i + 1], tokens[i : i + 1], mask[i : i + 1])['loss'] for i in range(2) if counts[i]]
    weights = torch.tensor([float(count) for count in counts if count])
    together = model.loss(images, tokens, mask)['loss']
    torch.testing.assert_close(together, (torch.stack(losses) * weights).sum() / weights.sum())


def test_images_of_another_size_are_trained_on_with_masks_of_their_grid():
    mask = torch.zeros(2, 3, 5, dtype=torch.bool)
    mask[:, -1] = True
    model = build()
    model.loss(torch.randn(2, 3, 48, 80), torch.zeros(2, 3, 5, dtype=torch.int64), mask)['loss'].backward()
    assert model.backbone.rel_pos_bias.relative_position_bias_table.grad.any()


def test_accuracy_is_the_share_of_masked_patches_predicted():
    logits = F.one_hot(torch.tensor([3, 1, 0, 2]), 4).float() * 5
    losses = VisualTokens.loss(logits, torch.tensor([3, 1, 2, 2]))
    assert losses['masked_token_accuracy'].item() == 0.75 and not losses['masked_token_accuracy'].requires_grad
    expected = -(3 * F.log_softmax(logits[0], dim=0)[3] + logits[2].log_softmax(dim=0)[2]) / 4
    torch.testing.assert_close(losses['loss'], expected)


# What learns and what does not


@pytest.mark.parametrize('kwargs', [{}, dict(use_abs_pos_emb=True, use_rel_pos_bias=True)], ids=['shared', 'all'])
def test_every_trainable_parameter_receives_a_gradient(kwargs):
    model = build(DiscreteVAE(**TOKENIZER), **kwargs)
    images, _, mask = batch()
    losses = model(images, torch.rand(3, 3, 32, 32), mask, mode='loss')
    model.parse_losses(losses)[0].backward()
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split('.')[0] for name in trainable} == {'backbone', 'lm_head'}
    for name, parameter in trainable.items():
        assert parameter.grad is not None and parameter.grad.any(), name
    assert all(p.grad is None for p in model.target.parameters()) and len(list(model.target.parameters())) > 50


def test_the_tokenizer_stays_in_evaluation_mode_and_as_it_was():
    tokenizer = DiscreteVAE(**TOKENIZER)
    tokenizer.drop = nn.Dropout(0.5)
    model = build(tokenizer).train()
    assert model.training and model.backbone.training and not any(m.training for m in tokenizer.modules())
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    images, _, mask = batch()
    model.loss(images, torch.rand(3, 3, 32, 32), mask)['loss'].backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith('target.'), name


# Predictions


def test_predictions_are_given_image_by_image_at_masked_patches():
    model = build(use_abs_pos_emb=True)
    nn.init.normal_(model.backbone.pos_embed)  # without it all masked patches are much alike
    nn.init.normal_(model.lm_head.weight)
    images, tokens, mask = batch()
    samples = model(images, tokens, mask, mode='predict')
    logits = model.lm_head(model.backbone(images, mask)[0][:, 1:]).unflatten(1, (4, 4))
    assert [len(sample['predicted']) for sample in samples] == [3, 4, 5]
    for index, sample in enumerate(samples):
        assert torch.equal(sample['target'], tokens[index][mask[index]])
        assert torch.equal(sample['predicted'], logits[index][mask[index]].argmax(dim=1))
    assert len(torch.cat([sample['predicted'] for sample in samples]).unique()) > 1


# What is refused


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
        MaskedImageModel(BEiT(**{**BACKBONE, **trunk}), NormalisedPixels())


@pytest.mark.parametrize('grid', [(3, 3), (2, 8)])
def test_tokens_of_another_grid_than_the_masks_are_refused_naming_both(grid):
    images, _, mask = batch()
    with pytest.raises(ValueError, match=re.escape('generator), (4, 4), got ' + str(grid))):
        build().loss(images, torch.zeros(3, *grid, dtype=torch.int64), mask)


@pytest.mark.parametrize('token', [VOCAB, -1])
def test_tokens_beyond_the_vocabulary_are_refused_naming_both(token):
    images, tokens, mask = batch()
    tokens[0, 0, 0] = token
    given = '-1 to' if token < 0 else f'0 to {token}'
    with pytest.raises(ValueError, match=f'0 to 15 to fit lm_head, got {given}'):
        build().loss(images, tokens, mask)


@pytest.mark.parametrize('vocab_size', [None, 16.0, '16'])
def test_a_tokenizer_without_a_whole_vocab_size_is_refused(vocab_size):
    tokenizer = GivenTokens()
    tokenizer.vocab_size = vocab_size
    with pytest.raises(ValueError, match=f'vocab_size, GivenTokens has {vocab_size!r}'):
        VisualTokens(tokenizer)
    with pytest.raises(ValueError, match='vocab_size, Identity has None'):
        VisualTokens(nn.Identity())


def test_a_checkpoint_with_a_head_of_another_vocabulary_is_refused_naming_both():
    tokenizer = GivenTokens()
    tokenizer.vocab_size = 32
    state = build(tokenizer).state_dict()
    with pytest.raises(ValueError, match='lm_head must have 16 outputs .* has 32'):
        build().load_state_dict(state, strict=False)


# From a config


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
    data = dict(
        inputs=torch.zeros(2, 3, 64, 64, dtype=torch.uint8),
        mask=batch(size=2)[2],
        views=torch.zeros(2, 3, 32, 32, dtype=torch.uint8),
    )
    samples = model.val_step(data)
    assert [len(sample['target']) for sample in samples] == [3, 4]


def test_layers_are_counted_from_the_trunk():
    model = build()
    for name, layer in (
        ('backbone.mask_token', 0),
        ('backbone.patch_embed.proj.weight', 0),
        ('backbone.blocks.1.norm1.weight', 2),
        ('backbone.norm.weight', 3),
        ('lm_head.weight', 3),
    ):
        assert name in dict(model.named_parameters()) and model.get_layer_depth(name) == (layer, 4)


def test_the_tokenizer_runs_outside_of_autocast():
    class Spy(nn.Module):
        vocab_size = 4

        def encode(self, views):
            self.autocast = torch.is_autocast_enabled('cpu')
            return torch.zeros(1, 2, 2, dtype=torch.int64)

    target = VisualTokens(Spy())
    with torch.autocast('cpu', torch.bfloat16):
        target(None, torch.zeros(1, 3, 16, 16))
    assert target.tokenizer.autocast is False
    assert not target.tokenizer.training
