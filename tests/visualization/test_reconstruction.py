"""Pictures and numbers of a masked image model, against computations one by one."""

import numpy as np
import pytest
import torch
from support.tiny import masked_image_model, pixel_model, raw_batch

from beit_mm.visualization import draw_reconstructions, reconstruct_batch
from beit_mm.visualization.reconstruction import to_uint8


@pytest.fixture
def model():
    return masked_image_model()


@pytest.fixture
def batch(model):
    return model.data_preprocessor(raw_batch())


@torch.no_grad()
def test_numbers_are_those_of_every_image_alone_and_modes_stay(model, batch):
    made = reconstruct_batch(model.train(), **batch)
    assert len(made) == 3
    assert model.training and model.backbone.pos_drop.training and not model.target.tokenizer.training
    model.eval()
    for index, image in enumerate(made):
        inputs, views, mask = (batch[key][index : index + 1] for key in ('inputs', 'views', 'mask'))
        (sample,) = model.predict(inputs, views, mask)
        logits = model.lm_head(model.backbone(inputs, mask)[-1][0, 1:][mask.flatten()])
        loss = torch.nn.functional.cross_entropy(logits, sample['target'])
        assert image['perplexity'] == pytest.approx(loss.exp().item(), rel=1e-4)
        assert image['token_accuracy'] == (sample['predicted'] == sample['target']).float().mean().item()
        for name, key in (('predicted', 'predicted'), ('tokens', 'target')):
            assert np.array_equal(image[name][mask[0].numpy()], sample[key].numpy())


@torch.no_grad()
def test_masked_patches_are_gray_and_only_they_are_predicted(model, batch):
    made = reconstruct_batch(model, **batch)
    tokens, predicted, original, masked, tokens_decoded, completed = (
        np.stack([image[name] for image in made])
        for name in ('tokens', 'predicted', 'original', 'masked', 'tokens_decoded', 'completed')
    )
    assert np.array_equal(original, raw_batch()['views'].flip(1).permute(0, 2, 3, 1).numpy())  # in RGB
    mask = batch['mask'].numpy()
    gray = mask.repeat(8, axis=1).repeat(8, axis=2)
    assert (masked[gray] == 128).all() and np.array_equal(masked[~gray], original[~gray])
    tokenizer = model.target.tokenizer
    assert np.array_equal(tokens, tokenizer.encode(batch['views']).numpy())
    assert np.array_equal(predicted[~mask], tokens[~mask]) and not np.array_equal(predicted, tokens)
    assert np.array_equal(tokens_decoded, to_uint8(tokenizer.decode(torch.from_numpy(tokens))))
    assert np.array_equal(completed, to_uint8(tokenizer.decode(torch.from_numpy(predicted))))


def contains(sheet: np.ndarray, picture: np.ndarray) -> bool:
    height, width = picture.shape[:2]
    corners = zip(*np.nonzero((sheet[: 1 - height, : 1 - width] == picture[0, 0]).all(axis=2)))
    return any(np.array_equal(sheet[top : top + height, left : left + width], picture) for top, left in corners)


def test_the_sheet_has_four_columns_and_a_row_for_every_image(model, batch):
    images = reconstruct_batch(model, **batch)
    pixels = np.asarray(draw_reconstructions(images, ['a.jpg', 'b.jpg', 'c.jpg'], cell=32))
    for name in ('original', 'masked', 'tokens_decoded', 'completed'):
        assert all(contains(pixels, image[name]) for image in images)


def test_a_model_that_cannot_reconstruct_is_refused(model, batch):
    class Encoder(torch.nn.Module):
        pass

    with pytest.raises(ValueError, match='needs a MaskedImageModel, got BEiT'):
        reconstruct_batch(model.backbone, **batch)
    with pytest.raises(ValueError, match='needs a model that predicts visual tokens, got .* NormalisedPixels'):
        reconstruct_batch(pixel_model(), **batch)
    with pytest.raises(ValueError, match=r'mask must be \(3, 4, 4\) to fit views of 32 x 32, got \(3, 2, 2\)'):
        reconstruct_batch(model, **dict(batch, mask=batch['mask'][:, :2, :2]))
    model.target.tokenizer = Encoder()
    with pytest.raises(ValueError, match='needs a tokenizer with `decode`, got Encoder'):
        reconstruct_batch(model, **batch)


def test_weights_without_a_decoder_are_refused_until_it_is_loaded_or_trained(model, batch):
    tokenizer = model.target.tokenizer
    # The biases are not those of a new model.
    whole = {name: value + 0.1 if name.endswith('.b') else value for name, value in tokenizer.state_dict().items()}
    encoder = {name: value for name, value in whole.items() if 'decoder' not in name}
    tokenizer.load_state_dict(encoder, strict=False)
    tokens = tokenizer.encode(batch['views'])
    for decode in (lambda: tokenizer.decode(tokens), lambda: reconstruct_batch(model, **batch)):
        with pytest.raises(ValueError, match='tokenizer .* got weights without .*: give both files, .*decoder.pkl'):
            decode()
    # Pre-training that began with encoder.pkl saves the decoder, too, as it was built.
    resumed = masked_image_model()
    resumed.load_state_dict(model.state_dict())
    assert resumed.target.tokenizer.has_encoder and not resumed.target.tokenizer.has_decoder
    tokenizer.load_state_dict(whole)
    assert tokenizer.decode(tokens).shape == batch['views'].shape
    tokenizer.load_state_dict(encoder, strict=False)
    tokenizer.loss(batch['views'])
    assert tokenizer.decode(tokens).isfinite().all()
