"""Classes of images: those of MMPretrain's inferencer, whatever holds the images and however they are batched."""

import cv2
import numpy as np
import pytest
from mmengine.registry import DefaultScope
from mmpretrain import ImageClassificationInferencer
from PIL import Image
from support.tiny import draw

from beit_mm.apis import classify, classify_each


@pytest.fixture(scope='module')
def model(classifier):
    return classifier.load()


def scores(results) -> np.ndarray:
    return np.stack([result['pred_scores'] for result in results])


def test_as_by_the_hosts_inferencer(model, photos):
    files = [photos / 'a' / '1.jpg', photos / 'a' / '2.png', photos / 'b' / '1.jpg']
    found = classify(model, files)
    model._config, model._dataset_meta = model.cfg, model.dataset_meta
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        expected = ImageClassificationInferencer(model)([str(file) for file in files], batch_size=3)
    for ours, theirs in zip(found, expected):
        assert np.array_equal(ours['pred_scores'], theirs['pred_scores'])
        assert {key: ours[key] for key in theirs if key != 'pred_scores'} == pytest.approx(
            {key: theirs[key] for key in theirs if key != 'pred_scores'}
        )
    assert [result['image'] for result in found] == list(map(str, files))


def test_from_a_config_and_weights(classifier, model, photos):
    found = classify(classifier.model, photos / 'a', classifier.weights, device='cpu', options=classifier.options)
    assert np.array_equal(scores(found), scores(classify(model, photos / 'a')))


def test_the_best_classes_come_first(model):
    (result,) = classify(model, draw(40, 50), top_k=3)
    order = np.argsort(-result['pred_scores'])[:3]
    assert result['top_labels'] == order.tolist() and result['top_labels'][0] == result['pred_label']
    assert result['top_scores'] == result['pred_scores'][order].tolist()
    assert result['top_classes'] == [model.dataset_meta['classes'][label] for label in order]
    assert result['pred_scores'].sum() == pytest.approx(1) and len(set(result['pred_scores'])) > 900
    assert len(classify(model, draw(40, 50), top_k=5000)[0]['top_labels']) == 1000


@pytest.mark.parametrize('batch_size', [1, 3])
def test_batches_do_not_matter(batch_size, model, photos):
    given = [photos / 'a' / '1.jpg', draw(32, 99), photos / 'b' / '1.jpg', draw(64, 36)]
    np.testing.assert_allclose(
        scores(classify(model, given, batch_size=batch_size)),
        scores(classify(model, given, batch_size=4)),
        rtol=1e-4,
        atol=1e-7,
    )


def test_files_arrays_and_pictures_are_the_same(model, tmp_path):
    image = draw(40, 50)
    Image.fromarray(image).save(tmp_path / 'image.png')
    found = scores(classify(model, [tmp_path / 'image.png', image[..., ::-1], Image.fromarray(image), tmp_path]))
    assert np.array_equal(found, found[:1].repeat(4, axis=0))


def test_grey_and_16_bit_images(model, tmp_path):
    grey = draw(40, 50)[..., 0]
    cv2.imwrite(str(tmp_path / 'grey.png'), grey)
    cv2.imwrite(str(tmp_path / 'deep.png'), grey.astype(np.uint16) * 256 + 7)
    cv2.imwrite(str(tmp_path / 'deep_colour.png'), np.repeat(grey[..., None], 3, 2).astype(np.uint16) * 256 + 7)
    found = scores(classify(model, [grey, Image.fromarray(grey), *sorted(tmp_path.iterdir())]))
    assert np.array_equal(found, found[:1].repeat(5, axis=0))


def test_a_folder_with_a_broken_image(model, photos):
    found = classify(model, photos)
    assert [result['image'] for result in found] == [str(photos / name) for name in ('a/1.jpg', 'a/2.png', 'b/1.jpg')]
    assert list(found.skipped) == [str(photos / 'b' / 'broken.jpg')]


def test_a_model_in_training_is_put_in_evaluation_mode(classifier):
    model = classifier.load().train()
    classify(model, draw(40, 50))
    assert not model.training and all(parameter.grad is None for parameter in model.parameters())


def test_classes_without_names(classifier):
    model = classifier.load()
    model.dataset_meta = {}
    (result,) = classify(model, draw(40, 50), top_k=2)
    assert result['pred_class'] is None and result['top_classes'] == [None, None]


def test_mistakes_are_one_sentence(model, segmentor):
    with pytest.raises(ValueError, match='classify needs a model that classifies, got EncoderDecoder'):
        classify(segmentor.load(), draw(40, 50))
    with pytest.raises(ValueError, match='top_k must be at least 1, got 0'):
        classify_each(model, draw(40, 50), top_k=0)
