"""Pictures and numbers of a masked image model, against computations one by one."""

import numpy as np
import pytest
import torch
from support.tiny import masked_image_model, pixel_model, raw_batch

from beit_mm.visualization import reconstruct_batch, reconstruction_panel
from beit_mm.visualization.reconstruction import draw_reconstructions, split_images


@pytest.fixture
def model():
    return masked_image_model()


@pytest.fixture
def batch(model):
    return model.data_preprocessor(raw_batch())


@torch.no_grad()
def test_numbers_are_those_of_every_image_alone(model, batch):
    made = reconstruct_batch(model, **batch)
    model.eval()
    for index in range(3):
        inputs, views, mask = (batch[key][index : index + 1] for key in ('inputs', 'views', 'mask'))
        (sample,) = model.predict(inputs, views, mask)
        loss = torch.nn.functional.cross_entropy(
            model.lm_head(model.backbone(inputs, mask)[-1][0, 1:][mask.flatten()]), sample['target']
        )
        assert made.perplexity[index] == pytest.approx(loss.exp().item(), rel=1e-4)
        assert made.token_accuracy[index] == (sample['predicted'] == sample['target']).float().mean()
        assert torch.equal(made.predicted[index][mask[0]], sample['predicted'])
        assert torch.equal(made.tokens[index][mask[0]], sample['target'])


@torch.no_grad()
def test_predictions_stand_at_masked_patches_only(model, batch):
    made, mask = reconstruct_batch(model, **batch), batch['mask']
    tokenizer = model.target.tokenizer
    assert torch.equal(made.tokens, tokenizer.encode(batch['views']))
    assert torch.equal(made.predicted[~mask], made.tokens[~mask]) and not torch.equal(made.predicted, made.tokens)
    assert torch.equal(made.tokens_decoded, tokenizer.decode(made.tokens))
    assert torch.equal(made.completed, tokenizer.decode(made.predicted))


def test_a_masked_patch_is_grey_and_others_stay(model, batch):
    made = reconstruct_batch(model, **batch)
    masked = batch['mask'].repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None].expand_as(made.masked)
    assert torch.equal(made.original, batch['views'])
    assert (made.masked[masked] == 0.5).all() and torch.equal(made.masked[~masked], made.original[~masked])


def test_the_mode_of_every_part_stays_and_dropout_is_off(model, batch):
    model.train()
    first = reconstruct_batch(model, **batch)
    assert model.training and model.backbone.pos_drop.training and not model.target.tokenizer.training
    model.eval()
    assert torch.equal(first.completed, reconstruct_batch(model, **batch).completed) and not model.training


def test_an_image_alone_is_a_dict_of_pictures_and_numbers(model, batch):
    made = reconstruct_batch(model, **batch)
    first, *_ = images = split_images(made)
    assert len(images) == 3 and set(first) == set(made._fields)
    for name in ('original', 'masked', 'tokens_decoded', 'completed'):
        assert first[name].shape == (32, 32, 3) and first[name].dtype == np.uint8
    assert np.array_equal(first['original'], raw_batch()['views'][0].flip(0).permute(1, 2, 0).numpy())  # in RGB
    assert isinstance(first['perplexity'], float) and first['predicted'].shape == (4, 4)


def contains(sheet: np.ndarray, picture: np.ndarray) -> bool:
    height, width = picture.shape[:2]
    places = zip(*np.nonzero((sheet[: 1 - height, : 1 - width] == picture[0, 0]).all(axis=2)))
    return any(np.array_equal(sheet[top : top + height, left : left + width], picture) for top, left in places)


def test_the_sheet_has_four_columns_and_a_row_for_every_image(model, batch):
    images = split_images(reconstruct_batch(model, **batch))
    pixels = np.asarray(draw_reconstructions(images, ['a.jpg', 'b.jpg', 'c.jpg'], cell=32))
    for name in ('original', 'masked', 'tokens_decoded', 'completed'):
        for image in images:
            assert contains(pixels, image[name])
    assert np.array_equal(np.asarray(reconstruction_panel(model, batch)), np.asarray(draw_reconstructions(images)))


def test_what_is_missing_is_one_sentence(model, batch):
    with pytest.raises(ValueError, match='needs a MaskedImageModel, got BEiT'):
        reconstruct_batch(model.backbone, **batch)
    with pytest.raises(ValueError, match='needs a model that predicts visual tokens, got .* NormalisedPixels'):
        reconstruct_batch(pixel_model(), **batch)
    with pytest.raises(ValueError, match=r'mask must be \(3, 4, 4\) to fit views of 32 x 32, got \(3, 2, 2\)'):
        reconstruct_batch(model, **dict(batch, mask=batch['mask'][:, :2, :2]))


def encoder_of(state: dict) -> dict:
    return {name: tensor for name, tensor in state.items() if 'decoder' not in name}


def trained(model) -> dict:
    """A state dict whose biases are not those of a new model."""
    return {name: tensor + 0.1 if name.endswith('.b') else tensor for name, tensor in model.state_dict().items()}


def test_weights_without_a_decoder_are_refused_until_it_comes(model, batch):
    tokenizer = model.target.tokenizer
    tokenizer.load_state_dict(encoder_of(trained(tokenizer)), strict=False)
    tokens = tokenizer.encode(batch['views'])
    for decode in (lambda: tokenizer.decode(tokens), lambda: reconstruct_batch(model, **batch)):
        with pytest.raises(ValueError, match='tokenizer .* got weights without .*: give both files, .*decoder.pkl'):
            decode()
    tokenizer.load_state_dict(trained(tokenizer))
    assert tokenizer.decode(tokens).shape == batch['views'].shape


def test_a_decoder_saved_untrained_beside_its_encoder_is_none(model):
    """Pre-training that began with encoder.pkl saves the decoder, too, as it was built."""
    saved = masked_image_model()
    saved.target.tokenizer.load_state_dict(encoder_of(trained(saved.target.tokenizer)), strict=False)
    model.load_state_dict(saved.state_dict())
    assert model.target.tokenizer.has_encoder and not model.target.tokenizer.has_decoder


def test_a_decoder_in_training_decodes(model, batch):
    tokenizer = model.target.tokenizer
    tokenizer.load_state_dict(encoder_of(trained(tokenizer)), strict=False)
    tokenizer.loss(batch['views'])
    assert tokenizer.decode(tokenizer.encode(batch['views'])).isfinite().all()


def test_a_tokenizer_that_encodes_alone_is_refused_by_name(model, batch):
    class Encoder(torch.nn.Module):
        vocab_size = 16

        def encode(self, images):
            return torch.zeros(len(images), 4, 4, dtype=torch.long)

    model.target.tokenizer = Encoder()
    with pytest.raises(ValueError, match='needs a tokenizer with `decode`, got Encoder'):
        reconstruct_batch(model, **batch)
