"""Classes, label maps and features: what the hosts' interfaces and the trunk's own layers give."""

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain import FeatureExtractor, ImageClassificationInferencer
from mmseg.apis import inference_model
from PIL import Image
from support.tiny import draw

from beit_mm.apis import classify, classify_each, extract_features, FeatureInferencer, load_model, segment
from beit_mm.apis.inferencers import evaluation_pipeline
from beit_mm.datasets.images import input_format, normalize
from beit_mm.models.backbones.relative_position import locate

IMAGE = draw(60, 80)  # BGR, as arrays are


def scores(results) -> np.ndarray:
    return np.stack([result['pred_scores'] for result in results])


def features(model, images=IMAGE, **options) -> np.ndarray:
    return np.stack([result['features'] for result in extract_features(model, images, **options)])


@pytest.fixture(scope='module')
def model(classifier):
    return classifier.load()


# Classes


def test_classes_are_those_of_the_hosts_inferencer(model, photos):
    files = [photos / 'a' / '1.jpg', photos / 'a' / '2.png', photos / 'b' / '1.jpg']
    results = classify(model, files)
    model._config, model._dataset_meta = model.cfg, model.dataset_meta
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        expected = ImageClassificationInferencer(model)([str(file) for file in files], batch_size=3)
    for ours, theirs in zip(results, expected):
        assert np.array_equal(ours['pred_scores'], theirs['pred_scores'])
        assert {key: ours[key] for key in theirs if key != 'pred_scores'} == pytest.approx(
            {key: theirs[key] for key in theirs if key != 'pred_scores'}
        )
    assert [result['image'] for result in results] == list(map(str, files))


def test_a_config_with_weights_equals_the_loaded_model(classifier, model, photos):
    results = classify(classifier.model, photos / 'a', classifier.weights, device='cpu', options=classifier.options)
    assert np.array_equal(scores(results), scores(classify(model, photos / 'a')))
    one_by_one = [result for _, result in classify_each(model, photos / 'a', top_k=2)]
    assert np.array_equal(scores(one_by_one), scores(results)) and len(one_by_one[0]['top_labels']) == 2


def test_the_best_classes_come_first(model):
    (result,) = classify(model, draw(40, 50), top_k=3)
    order = np.argsort(-result['pred_scores'])[:3]
    assert result['top_labels'] == order.tolist() and result['top_labels'][0] == result['pred_label']
    assert result['top_scores'] == result['pred_scores'][order].tolist()
    assert result['top_classes'] == [model.dataset_meta['classes'][label] for label in order]
    assert result['pred_scores'].sum() == pytest.approx(1) and len(set(result['pred_scores'])) > 900
    assert len(classify(model, draw(40, 50), top_k=5000)[0]['top_labels']) == 1000


def test_scores_do_not_depend_on_the_batch(model, photos):
    images = [photos / 'a' / '1.jpg', draw(32, 99), photos / 'b' / '1.jpg', draw(64, 36)]
    several, alone = (scores(classify(model, images, batch_size=batch_size)) for batch_size in (3, 1))
    np.testing.assert_allclose(several, alone, rtol=1e-4, atol=1e-7)


def test_a_model_in_training_is_put_in_evaluation_mode_and_classes_may_have_no_names(classifier):
    model = classifier.load().train()
    model.dataset_meta = {}
    (result,) = classify(model, draw(40, 50), top_k=2)
    assert result['pred_class'] is None and result['top_classes'] == [None, None]
    assert not model.training and all(parameter.grad is None for parameter in model.parameters())


def test_the_first_of_joined_data_sets_says_how_images_are_tested(classifier):
    model = classifier.load()
    dataset = model.cfg.test_dataloader.dataset
    expected = evaluation_pipeline(model)(IMAGE, 'a')['inputs']
    model.cfg.test_dataloader.dataset = dict(
        type='ConcatDataset', datasets=[dict(type='RepeatDataset', times=2, dataset=dataset), dict(type='ImageNet')]
    )
    assert torch.equal(evaluation_pipeline(model)(IMAGE, 'a')['inputs'], expected)
    model.cfg.test_dataloader.dataset = dict(type='ImageNet')
    with pytest.raises(ValueError, match='that tests on a dataset with a pipeline, got ImageClassifier without'):
        evaluation_pipeline(model)


# Label maps


@pytest.fixture(scope='module')
def segmenting(segmentor):
    return segmentor.load()


def test_labels_are_those_of_the_hosts_inference(segmentor, segmenting, photos):
    files = [photos / 'a' / '1.jpg', photos / 'a' / '2.png', photos / 'b' / '1.jpg']
    host = segmentor.load()
    for file, result in zip(files, segment(segmenting, files)):
        with DefaultScope.overwrite_default_scope('mmseg'):
            expected = inference_model(host, str(file)).pred_sem_seg.data[0].numpy()
        assert np.array_equal(result['labels'], expected) and len(np.unique(expected)) > 1


@pytest.mark.parametrize('size', [(17, 23), (33, 200), (301, 7)])
def test_labels_have_the_size_of_the_image(size, segmenting):
    (result,) = segment(segmenting, draw(*size))
    assert result['labels'].shape == size and result['labels'].dtype == np.uint8
    assert result['labels'].max() < 7 and result['classes'][:2] == ['wall', 'building']


def test_images_of_one_size_are_segmented_together(segmenting, photos):
    images = [photos / 'a' / '1.jpg', photos / 'b' / '1.jpg', photos / 'a' / '2.png']
    for together, alone in zip(segment(segmenting, images, batch_size=3), segment(segmenting, images)):
        assert (together['labels'] == alone['labels']).mean() > 0.999


def test_more_than_256_classes_take_16_bits(segmenting, monkeypatch):
    monkeypatch.setattr(segmenting, 'num_classes', 300)
    assert segment(segmenting, draw(40, 50))[0]['labels'].dtype == np.uint16


# Features


@torch.no_grad()
def tokens(model, block: int, norm) -> torch.Tensor:
    """All tokens after a block, layer by layer, of IMAGE as ImageNet is evaluated by a trunk of 32 x 32 pixels."""
    image = np.array(Image.fromarray(IMAGE).resize((49, 37), Image.BICUBIC))[2:34, 8:40]
    pixels = normalize(torch.from_numpy(image).permute(2, 0, 1)[None], input_format(model))
    trunk = model.backbone
    x, grid = trunk.patch_embed(pixels)
    x = torch.cat([trunk.cls_token, x], dim=1)
    positions = locate(trunk.grid, grid, x.dtype, x.device)
    shared = None if trunk.rel_pos_bias is None else trunk.rel_pos_bias(positions)
    for layer in trunk.blocks[: block + 1]:
        x = layer(x, positions, shared)
    return norm(x)[0]


def test_the_mean_is_what_the_head_of_a_classifier_gets(model, photos):
    file = photos / 'a' / '1.jpg'
    model._config = model.cfg
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        expected = FeatureExtractor(model)(str(file), stage='backbone')[0][-1]
    assert np.array_equal(features(model, file)[0], expected.numpy())


@pytest.mark.parametrize('block', [0, 1])
@pytest.mark.parametrize('kind', ['mean', 'cls_token', 'patches'])
def test_features_of_a_pretrained_model(kind, block, pretrained):
    model = pretrained.load()
    x = tokens(model, block, model.backbone.norm if block == 1 else torch.nn.Identity())
    expected = dict(mean=x[1:].mean(dim=0), cls_token=x[0], patches=x[1:].view(2, 2, 32))[kind]
    found = features(model, kind=kind, blocks=block)[0]
    assert found.dtype == np.float32 and np.ptp(found) > 0.1
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-5)


def test_features_of_a_segmentor_have_no_last_norm(segmenting):
    expected = tokens(segmenting, 1, torch.nn.Identity())[1:].mean(dim=0)
    np.testing.assert_allclose(features(segmenting)[0], expected.numpy(), atol=2e-5)


def test_features_of_a_trunk_that_is_not_square(pretrained):
    options = {**pretrained.options, 'model.backbone.img_size': (32, 64)}
    model = load_model(pretrained.model, pretrained.weights, 'cpu', options=options)
    assert features(model, kind='patches').shape == (1, 2, 4, 32)


def test_several_blocks_are_stacked_in_the_order_given(pretrained, photos):
    model = pretrained.load()
    found = features(model, blocks=[-1, 0])
    assert found.shape == (1, 2, 32)
    assert np.array_equal(found[:, 0], features(model)) and np.array_equal(found[:, 1], features(model, blocks=0))


def test_weights_of_the_trunk_alone_are_enough(classifier, tmp_path, capfd):
    state = torch.load(classifier.weights)['state_dict']
    torch.save({name: tensor for name, tensor in state.items() if not name.startswith('head')}, tmp_path / 'trunk.pth')
    inferencer = FeatureInferencer(classifier.model, tmp_path / 'trunk.pth', device='cpu', options=classifier.options)
    assert np.array_equal(inferencer(IMAGE)[0]['features'], features(classifier.load())[0])
    assert 'head' not in capfd.readouterr().out


# Mistakes


def test_a_model_of_another_task_is_refused(model, segmenting):
    with pytest.raises(ValueError, match='classify needs a model that classifies, got EncoderDecoder'):
        classify(segmenting, IMAGE)
    with pytest.raises(ValueError, match='segment needs a model that segments, got ImageClassifier'):
        segment(model, IMAGE)
    with pytest.raises(ValueError, match='extract_features needs a model whose trunk is BEiT, got Linear'):
        features(torch.nn.Linear(1, 1))


def test_choices_out_of_range_are_refused(model):
    with pytest.raises(ValueError, match='top_k must be at least 1, got 0'):
        classify(model, IMAGE, top_k=0)
    with pytest.raises(ValueError, match="kind must be one of mean, cls_token, patches, got 'max'"):
        features(model, kind='max')
    for blocks in (2, [0, -3], [], [0.5]):
        with pytest.raises(ValueError, match=r'blocks must be 0 to 1 \(or -2 to -1\) for depth 2, got'):
            features(model, blocks=blocks)
