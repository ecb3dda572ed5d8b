"""Label maps of images: those of MMSegmentation's inference_model, at the size of the image."""

import numpy as np
import pytest
from mmengine.registry import DefaultScope
from mmseg.apis import inference_model
from support.tiny import draw

from beit_mm.apis import segment


@pytest.fixture(scope='module')
def model(segmentor):
    return segmentor.load()


def test_as_by_the_hosts_inference(segmentor, model, photos):
    files = [photos / 'a' / '1.jpg', photos / 'a' / '2.png', photos / 'b' / '1.jpg']
    found = segment(model, files)
    host = segmentor.load()
    for file, result in zip(files, found):
        with DefaultScope.overwrite_default_scope('mmseg'):
            expected = inference_model(host, str(file)).pred_sem_seg.data[0].numpy()
        assert np.array_equal(result['labels'], expected) and len(np.unique(expected)) > 1


@pytest.mark.parametrize('size', [(17, 23), (32, 32), (33, 200), (301, 7)])
def test_labels_have_the_size_of_the_image(size, model):
    (result,) = segment(model, draw(*size))
    assert result['labels'].shape == size and result['labels'].dtype == np.uint8
    assert result['labels'].max() < 7 and result['classes'][:2] == ['wall', 'building']


def test_images_of_one_size_run_together(model, photos):
    given = [photos / 'a' / '1.jpg', photos / 'b' / '1.jpg', photos / 'a' / '2.png']
    for one, other in zip(segment(model, given, batch_size=3), segment(model, given)):
        assert (one['labels'] == other['labels']).mean() > 0.999


def test_more_than_256_classes_take_16_bits(model, monkeypatch):
    monkeypatch.setattr(model, 'num_classes', 300)
    assert segment(model, draw(40, 50))[0]['labels'].dtype == np.uint16


def test_a_broken_image_is_left_out(model, photos):
    found = segment(model, photos / 'b')
    assert len(found) == 1 and list(found.skipped) == [str(photos / 'b' / 'broken.jpg')]


def test_a_model_that_does_not_segment(classifier):
    with pytest.raises(ValueError, match='segment needs a model that segments, got ImageClassifier'):
        segment(classifier.load(), draw(40, 50))
