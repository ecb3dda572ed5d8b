"""Inference takes images with the bands of the model, in its dtype."""

from functools import partial

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny import draw

from beit_mm.apis import classify, extract_features, load_model, reconstruct, segment
from beit_mm.datasets.bad_images import BadImage
from beit_mm.errors import UserError
from beit_mm.export import export
from beit_mm.visualization import attention_figure, point_attention_maps

IMAGE = draw(60, 80)


def scores(results) -> np.ndarray:
    return np.stack([result['pred_scores'] for result in results])


def features(model, images=IMAGE, **options) -> np.ndarray:
    return np.stack([result['features'] for result in extract_features(model, images, **options)])


@pytest.mark.parametrize('bands', [1, 4, 13])
@torch.no_grad()
def test_models_see_the_bands_of_their_images(bands, pretrained, tmp_path):
    norm = {'model.data_preprocessor.mean': [*range(90, 90 + bands)], 'model.data_preprocessor.std': [50.0] * bands}
    options = {**pretrained.options, 'model.target.tokenizer.init_cfg': None, 'model.backbone.in_channels': bands}
    model = load_model(pretrained.model, options={**options, **norm}, device='cpu')
    image = np.random.default_rng(0).integers(0, 256, (37, 37, bands), dtype=np.uint8)  # the edge that is cropped to 32
    for pixels in (image, image.astype(np.uint16) * 200):
        inputs = torch.from_numpy(pixels[2:34, 2:34].astype(np.float32)).permute(2, 0, 1)[None]
        (tokens,) = model.backbone((inputs - model.data_preprocessor.mean) / 50)
        np.testing.assert_allclose(features(model, pixels)[0], tokens[0, 1:].mean(dim=0).numpy(), atol=2e-5)
    if bands in (1, 4):
        picture = Image.fromarray(image[..., 0] if bands == 1 else image[..., [2, 1, 0, 3]])
        picture.save(tmp_path / 'image.png')
        for source in (picture, tmp_path / 'image.png'):
            assert np.array_equal(features(model, source), features(model, image))
    maps = point_attention_maps(model, image, [(1, 2)])
    assert maps[1].shape == (1, 2, 2, 2) and attention_figure(image, [(1, 2)], maps).axes
    with pytest.raises(BadImage, match=f'must have the {bands} bands that the model takes, got 2'):
        features(model, image[..., :1].repeat(2, axis=2))


@pytest.mark.parametrize('bands', [1, 3])
def test_files_have_the_bits_of_the_training(bands, pretrained, tmp_path):
    """Of a pre-training, whose config has no test data set, images of one and three bands have 16 bits, too."""
    options = {
        **pretrained.options,
        'model.target.tokenizer.in_channels': bands,
        'model.target.tokenizer.init_cfg': None,
        'model.backbone.in_channels': bands,
        'model.data_preprocessor.mean': [32768.0] * bands,
        'model.data_preprocessor.std': [16384.0] * bands,
        'train_dataloader.dataset.pipeline.0.color_type': 'unchanged',
    }
    model = load_model(pretrained.model, options=options, device='cpu')
    pixels = np.random.default_rng(0).integers(0, 2**16, (37, 37, bands), dtype=np.uint16)
    assert cv2.imwrite(str(tmp_path / 'image.png'), pixels)
    for read in (
        lambda source: features(model, source),
        lambda source: reconstruct(model, source)[0]['original'],
        lambda source: reconstruct(model, source)[0]['perplexity'],
        lambda source: point_attention_maps(model, source, [(1, 2)])[1],
    ):
        assert np.array_equal(read(tmp_path / 'image.png'), read(pixels))


def test_folders_of_arrays_are_read_if_the_models_data_are_arrays(classifier, tmp_path):
    np.save(tmp_path / 'image.npy', IMAGE)
    options = {**classifier.options, 'test_dataloader.dataset.extensions': ['.npy']}
    results = extract_features(classifier.model, tmp_path, str(classifier.weights), options=options, device='cpu')
    assert [result['image'] for result in results] == [str(tmp_path / 'image.npy')]
    with pytest.raises(UserError, match='left out: 1 .npy'):
        features(classifier.load(), tmp_path)


@pytest.mark.parametrize('bands', [4, 13])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_bands_without_weights_change_no_prediction(bands, dtype, classifier, segmentor):
    """Models for RGB, and for RGB in this order with more bands, whose weights are zero."""
    scale, more = (1, 256)[dtype is np.uint16], bands - 3
    for tiny, predict, size in [
        (classifier, lambda model, image: classify(model, image)[0]['pred_scores'], 36),
        (segmentor, lambda model, image: segment(model, image)[0]['labels'], 48),
    ]:
        model, image = tiny.load(), draw(size, size)
        norm = model.data_preprocessor
        values = {
            name: [*getattr(norm, name).flatten().mul(scale).tolist(), *[scale] * more] for name in ('mean', 'std')
        }
        options = {f'model.data_preprocessor.{name}': value for name, value in values.items()}
        options |= {**tiny.options, 'model.backbone.in_channels': bands, 'model.backbone.init_cfg': None}
        wide = load_model(tiny.model, options=options, device='cpu')
        weights, name = model.state_dict(), 'backbone.patch_embed.proj.weight'
        wide.load_state_dict({**weights, name: torch.nn.functional.pad(weights[name], (0, 0, 0, 0, 0, more))})
        others = np.random.default_rng(0).integers(0, 256, (size, size, more))
        pixels = np.concatenate([image[..., ::-1], others], axis=2).astype(dtype) * dtype(scale)
        np.testing.assert_allclose(predict(wide, pixels), predict(model, image), atol=1e-6)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_inputs_follow_the_dtype_of_the_model(dtype, classifier, segmentor, pretrained):
    tolerance = 4 * torch.finfo(dtype).eps
    for tiny, values in [
        (classifier, lambda model: scores(classify(model, IMAGE)) * 1000),
        (classifier, lambda model: features(model)),
        (pretrained, lambda model: features(model, pooling='patches', blocks=[0, -1])),
        (pretrained, lambda model: np.log(reconstruct(model, IMAGE)[0]['perplexity'])),
        (pretrained, lambda model: point_attention_maps(model, IMAGE, [(1, 2)])[1].float().numpy()),
        (
            segmentor,
            lambda model: (segment(model, IMAGE)[0]['labels'] == segment(segmentor.load(), IMAGE)[0]['labels']).mean(),
        ),
    ]:
        expected, actual = values(tiny.load()), values(tiny.load().to(dtype))
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('wrap', [torch.nn.DataParallel, partial(torch.compile, backend='eager')])
def test_wrapped_models_compute_the_same(wrap, classifier, segmentor, pretrained, tmp_path):
    for tiny, values in [
        (classifier, lambda model: scores(classify(model, IMAGE))),
        (segmentor, lambda model: segment(model, IMAGE)[0]['labels']),
        (pretrained, lambda model: reconstruct(model, IMAGE)[0]['perplexity']),
        (pretrained, lambda model: point_attention_maps(model, IMAGE, [(1, 2)])[1]),
        (pretrained, features),
    ]:
        assert np.array_equal(values(wrap(tiny.load())), values(tiny.load()))
    inside = pretrained.load()
    inside.backbone = wrap(inside.backbone)
    assert np.array_equal(features(inside), features(pretrained.load()))
    assert export(wrap(classifier.load()), tmp_path / 'a.safetensors').part == 'classifier'
