"""Classes, label maps and features: what the hosts' interfaces and the model's own layers give."""

from functools import partial

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain import FeatureExtractor, ImageClassificationInferencer
from mmseg.apis import inference_model
from PIL import Image
from support.tiny import draw

from beit_mm.apis import (
    classify,
    classify_each,
    extract_features,
    FeatureInferencer,
    inferencers,
    load_model,
    reconstruct,
    segment,
    SegmentationInferencer,
)
from beit_mm.apis.inferencers import evaluation_pipeline
from beit_mm.datasets.bad_images import BadImage
from beit_mm.datasets.images import input_format, normalize
from beit_mm.models.backbones.relative_position import locate

IMAGE = draw(60, 80)  # BGR, as arrays are


def scores(results) -> np.ndarray:
    return np.stack([result['pred_scores'] for result in results])


def features(model, images=IMAGE, **options) -> np.ndarray:
    return np.stack([result['features'] for result in extract_features(model, images, **options)])


@pytest.fixture(scope='module')
def classifying(classifier):
    return classifier.load()


@pytest.fixture(scope='module')
def segmenting(segmentor):
    return segmentor.load()


# Classes


def test_classes_are_those_of_the_hosts_inferencer(classifying, files):
    results = classify(classifying, files)
    classifying._config, classifying._dataset_meta = classifying.cfg, classifying.dataset_meta
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        expected = ImageClassificationInferencer(classifying)([str(file) for file in files], batch_size=3)
    for ours, theirs in zip(results, expected, strict=True):
        assert np.array_equal(ours['pred_scores'], theirs.pop('pred_scores'))
        assert {key: ours[key] for key in theirs} == pytest.approx(theirs)
    assert [result['image'] for result in results] == list(map(str, files))


def test_a_config_with_weights_equals_the_loaded_model(classifier, classifying, photos):
    results = classify(classifier.model, photos / 'a', classifier.weights, device='cpu', options=classifier.options)
    assert np.array_equal(scores(results), scores(classify(classifying, photos / 'a')))
    one_by_one = [result for _, result in classify_each(classifying, photos / 'a', top_k=2)]
    assert np.array_equal(scores(one_by_one), scores(results)) and len(one_by_one[0]['top_labels']) == 2


def test_the_best_classes_come_first(classifying):
    (result,) = classify(classifying, draw(40, 50), top_k=3)
    order = np.argsort(-result['pred_scores'])[:3]
    assert result['top_labels'] == order.tolist() and result['top_labels'][0] == result['pred_label']
    assert result['top_scores'] == result['pred_scores'][order].tolist()
    assert result['top_classes'] == [classifying.dataset_meta['classes'][label] for label in order]
    assert result['pred_scores'].sum() == pytest.approx(1) and len(set(result['pred_scores'])) > 900
    assert len(classify(classifying, draw(40, 50), top_k=5000)[0]['top_labels']) == 1000


def test_scores_do_not_depend_on_the_batch(classifying, files):
    images = [files[0], draw(32, 99), files[2], draw(64, 36)]
    several, alone = (scores(classify(classifying, images, batch_size=batch_size)) for batch_size in (3, 1))
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


def test_labels_are_those_of_the_hosts_inference(segmentor, segmenting, files):
    host = segmentor.load()
    for file, result in zip(files, segment(segmenting, files), strict=True):
        with DefaultScope.overwrite_default_scope('mmseg'):
            expected = inference_model(host, str(file)).pred_sem_seg.data[0].numpy()
        assert np.array_equal(result['labels'], expected) and len(np.unique(expected)) > 1


def test_labels_have_the_size_of_the_image_and_16_bits_for_more_than_256_classes(segmenting, monkeypatch):
    for size in ((17, 23), (33, 200), (301, 7)):
        (result,) = segment(segmenting, draw(*size))
        assert result['labels'].shape == size and result['labels'].dtype == np.uint8
        assert result['labels'].max() < 7 and result['classes'][:2] == ['wall', 'building']
    monkeypatch.setattr(segmenting, 'num_classes', 300)
    assert segment(segmenting, draw(40, 50))[0]['labels'].dtype == np.uint16


@pytest.mark.parametrize('align_corners', [False, True])
def test_large_images_are_enlarged_in_parts_and_have_probabilities(align_corners, segmentor, photos, monkeypatch):
    model, image = segmentor.load(), draw(310, 207)
    model.align_corners = align_corners
    inferencer = SegmentationInferencer(model, probabilities=True)
    (whole,) = inferencer(image)
    assert whole['probabilities'].shape == (7, 310, 207) and whole['probabilities'].dtype == np.float32
    np.testing.assert_allclose(whole['probabilities'].sum(axis=0), 1, atol=1e-5)
    assert np.array_equal(whole['probabilities'].argmax(axis=0), whole['labels'])
    monkeypatch.setattr(inferencers, 'MAX_LOGITS', 7 * 207 * 9 + 5)
    (parts,) = inferencer(image)
    np.testing.assert_allclose(parts['probabilities'], whole['probabilities'], atol=1e-4)
    assert (parts['labels'] == whole['labels']).mean() > 0.999 and parts['labels'].dtype == np.uint8
    monkeypatch.setattr(SegmentationInferencer, 'max_pixels', 4000)  # of files, not the limit of other commands
    with pytest.raises(BadImage, match='at most 4000 pixels, got 80 x 60'):
        SegmentationInferencer(model)(photos / 'a' / '1.jpg')


def test_an_image_too_narrow_for_a_step_is_named(segmenting):
    with pytest.raises(BadImage, match='a step of the pipeline refuses its 10000 x 2 pixels'):
        segment(segmenting, draw(2, 10_000))


@pytest.mark.long
def test_an_image_over_100_million_pixels_is_segmented(segmentor, tmp_path):
    Image.fromarray(draw(200, 201)).resize((10_050, 10_000), Image.NEAREST).save(tmp_path / 'large.png')
    (result,) = SegmentationInferencer(segmentor.load())(tmp_path / 'large.png')
    assert result['labels'].shape == (10_000, 10_050)


def test_images_of_one_size_are_segmented_together(segmenting, files):
    images = [files[0], files[2], files[1]]
    for together, alone in zip(segment(segmenting, images, batch_size=3), segment(segmenting, images), strict=True):
        assert (together['labels'] == alone['labels']).mean() > 0.999


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


def test_the_mean_is_what_the_head_of_a_classifier_gets(classifying, files):
    classifying._config = classifying.cfg
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        expected = FeatureExtractor(classifying)(str(files[0]), stage='backbone')[0][-1]
    assert np.array_equal(features(classifying, files[0])[0], expected.numpy())


@pytest.mark.parametrize('block', [0, 1])
def test_features_are_those_of_the_layers_one_by_one(block, reconstructing, segmenting):
    x = tokens(reconstructing, block, reconstructing.backbone.norm if block == 1 else torch.nn.Identity())
    expected = dict(mean=x[1:].mean(dim=0), cls_token=x[0], patches=x[1:].view(2, 2, 32))
    for kind in expected:
        found = features(reconstructing, pooling=kind, blocks=block)[0]
        assert found.dtype == np.float32 and np.ptp(found) > 0.1
        np.testing.assert_allclose(found, expected[kind].numpy(), atol=2e-5)
    of_segmentor = tokens(segmenting, block, torch.nn.Identity())[1:].mean(dim=0)  # which has no last norm
    np.testing.assert_allclose(features(segmenting, blocks=block)[0], of_segmentor.numpy(), atol=2e-5)


def test_a_trunk_need_not_be_square_and_several_blocks_are_stacked_in_the_order_given(pretrained):
    options = {**pretrained.options, 'model.backbone.img_size': (32, 64)}
    model = load_model(pretrained.model, pretrained.weights, 'cpu', options=options)
    assert features(model, pooling='patches').shape == (1, 2, 4, 32)
    found = features(model, blocks=[-1, 0])
    assert found.shape == (1, 2, 32)
    assert np.array_equal(found[:, 0], features(model)) and np.array_equal(found[:, 1], features(model, blocks=0))


def test_weights_of_the_trunk_alone_are_enough(classifier, tmp_path, capfd):
    state = torch.load(classifier.weights)['state_dict']
    torch.save({name: tensor for name, tensor in state.items() if not name.startswith('head')}, tmp_path / 'trunk.pth')
    inferencer = FeatureInferencer(classifier.model, tmp_path / 'trunk.pth', device='cpu', options=classifier.options)
    assert np.array_equal(inferencer(IMAGE)[0]['features'], features(classifier.load())[0])
    assert 'head' not in capfd.readouterr().out


def test_averaged_weights_of_a_file_are_used_by_option(classifier, classifying, tmp_path):
    averaged = torch.load(classifier.weights)['state_dict']
    last = {name: 0.5 * tensor if tensor.is_floating_point() else tensor for name, tensor in averaged.items()}
    expected = features(classifying)
    options = dict(device='cpu', options=classifier.options)
    for content in (dict(model=last, model_ema=averaged), dict(state_dict=averaged, ema_state_dict=last)):
        torch.save(content, tmp_path / 'weights.pth')
        load = partial(load_model, classifier.model, tmp_path / 'weights.pth', **options)
        assert np.array_equal(features(load(ema=True)), expected)
        assert np.array_equal(features(load()), expected) == ('state_dict' in content)  # MMEngine's EMAHook swaps them
    with pytest.raises(ValueError, match='weights.pth must hold averaged weights .*model_ema.*, got state_dict'):
        load_model(classifier.model, classifier.weights, ema=True, **options)
    with pytest.raises(ValueError, match='ema needs weights'):
        load_model(classifier.model, ema=True, **options)


# Mistakes


@pytest.mark.parametrize(
    'task, model, options, message',
    [
        (classify, 'segmenting', {}, 'classify needs a model that classifies, got EncoderDecoder'),
        (segment, 'classifying', {}, 'segment needs a model that segments, got ImageClassifier'),
        (extract_features, None, {}, 'extract_features needs a model whose trunk is BEiT, got Linear'),
        (classify, 'classifying', dict(top_k=0), 'top_k must be at least 1, got 0'),
        (
            extract_features,
            'classifying',
            dict(pooling='max'),
            "pooling must be one of mean, cls_token, patches, got 'max'",
        ),
        *(
            (extract_features, 'classifying', dict(blocks=blocks), r'blocks must be 0 to 1 \(or -2 to -1\) for depth 2')
            for blocks in (2, [0, -3], [], [0.5])
        ),
        (reconstruct, 'reconstructing', dict(size=(60, 64)), r'multiples of the patch size 16, got 60 x 64'),
        (reconstruct, 'reconstructing', dict(mask='all'), "mask must be one of blockwise, random, got 'all'"),
        (reconstruct, 'reconstructing', dict(num_masked=5), 'must be 1 to 4, the patches of a grid of 2 x 2, got 5'),
        (reconstruct, 'reconstructing', dict(num_masked=0), 'num_masked must be 1 to 4, .* got 0'),
    ],
)
def test_models_and_options_that_do_not_fit_are_refused(task, model, options, message, request):
    model = request.getfixturevalue(model) if model else torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match=message):
        task(model, draw(80, 80), **options)
