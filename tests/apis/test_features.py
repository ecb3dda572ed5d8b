"""Features of the trunk in every kind of model, compared with what its own forward gives."""

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain import FeatureExtractor
from PIL import Image
from support.tiny import draw
from torch.nn import functional as F

from beit_mm.apis import extract_features, load_model
from beit_mm.datasets.images import input_format, normalise
from beit_mm.models.backbones.relative_position import locate

IMAGE = draw(60, 80)


def features(model, images=IMAGE, **options) -> np.ndarray:
    return np.stack([result['features'] for result in extract_features(model, images, **options)])


def as_imagenet_is_evaluated(image: np.ndarray) -> np.ndarray:
    """For a trunk of 32 x 32 pixels, 60 x 80: the short edge to 256 / 224 of its side, then the centre."""
    return np.asarray(Image.fromarray(image).resize((49, 37), Image.BICUBIC))[2:34, 8:40]


def tokens(model, image: np.ndarray, block: int, norm) -> torch.Tensor:
    """All tokens after a block, by running the layers one by one on an image of the trunk's size."""
    trunk = model.backbone
    with torch.no_grad():
        x, grid = trunk.patch_embed(normalise(image, input_format(model)))
        x = torch.cat([trunk.cls_token, x], dim=1)
        positions = locate(trunk.grid, grid, x.dtype, x.device)
        shared = None if trunk.rel_pos_bias is None else trunk.rel_pos_bias(positions)
        for one in trunk.blocks[: block + 1]:
            x = one(x, positions, shared)
        return norm(x)[0]


def test_the_mean_is_what_the_head_of_a_classifier_gets(classifier, photos):
    model, file = classifier.load(), photos / 'a' / '1.jpg'
    model._config = model.cfg
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        expected = FeatureExtractor(model)(str(file), stage='backbone')[0][-1]
    assert np.array_equal(features(model, file)[0], expected.numpy())


@pytest.mark.parametrize('block', [0, 1])
@pytest.mark.parametrize('kind', ['mean', 'cls_token', 'patches'])
def test_of_a_pretrained_model(kind, block, pretrained):
    model = pretrained.load()
    norm = model.backbone.norm if block == 1 else torch.nn.Identity()
    x = tokens(model, as_imagenet_is_evaluated(IMAGE), block, norm)
    expected = dict(mean=x[1:].mean(dim=0), cls_token=x[0], patches=x[1:].view(2, 2, 32))[kind]
    found = features(model, kind=kind, blocks=block)[0]
    assert found.dtype == np.float32 and np.ptp(found) > 0.1
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-5)


def test_a_trunk_that_is_not_square(pretrained):
    options = {**pretrained.options, 'model.backbone.img_size': (32, 64)}
    model = load_model(pretrained.model, pretrained.weights, 'cpu', options=options)
    assert features(model, kind='patches').shape == (1, 2, 4, 32)


def test_several_blocks_are_stacked_in_the_order_given(pretrained):
    model = pretrained.load()
    found = features(model, blocks=[-1, 0])
    assert found.shape == (1, 2, 32)
    assert np.array_equal(found[:, 0], features(model)) and np.array_equal(found[:, 1], features(model, blocks=0))


def test_of_a_segmentor_without_a_last_norm(segmentor):
    model = segmentor.load()
    expected = tokens(model, as_imagenet_is_evaluated(IMAGE), 1, torch.nn.Identity())[1:].mean(dim=0)
    np.testing.assert_allclose(features(model)[0], expected.numpy(), atol=2e-5)


def test_weights_of_the_trunk_alone(classifier, tmp_path, capfd):
    state = torch.load(classifier.weights)['state_dict']
    torch.save({name: tensor for name, tensor in state.items() if not name.startswith('head')}, tmp_path / 'trunk.pth')
    found = extract_features(classifier.model, IMAGE, tmp_path / 'trunk.pth', device='cpu', options=classifier.options)
    assert np.array_equal(found[0]['features'], features(classifier.load())[0])
    assert 'head' not in capfd.readouterr().out


def test_batches_and_bad_images(classifier, photos):
    model = classifier.load()
    found = extract_features(model, photos, batch_size=2)
    assert len(found) == 3 and list(found.skipped) == [str(photos / 'b' / 'broken.jpg')]
    again = extract_features(model, photos, batch_size=1)
    for one, other in zip(found, again):
        np.testing.assert_allclose(one['features'], other['features'], atol=1e-5)


def test_no_hook_is_left_behind(classifier):
    model = classifier.load()
    features(model)
    with pytest.raises(ValueError, match='must be multiples of the patch size'):
        model.backbone(F.pad(torch.zeros(1, 3, 32, 32), (0, 1)))
    assert not any(block._forward_hooks for block in model.backbone.blocks)


def test_mistakes_are_one_sentence(classifier):
    model = classifier.load()
    with pytest.raises(ValueError, match="kind must be one of mean, cls_token, patches, got 'max'"):
        features(model, kind='max')
    for blocks in (2, [0, -3], [], [0.5]):
        with pytest.raises(ValueError, match=r'blocks must be 0 to 1 \(or -2 to -1\) for depth 2, got'):
            features(model, blocks=blocks)
    with pytest.raises(ValueError, match='extract_features needs a model whose trunk is BEiT, got Linear'):
        features(torch.nn.Linear(1, 1))
