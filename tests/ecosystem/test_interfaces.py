"""The hosts' programming interfaces, used by a project that has only our wheel."""

import pytest
from support.recipes import load, RECIPES

SEGMENTING = [name for name in RECIPES if 'segment' in name]


@pytest.mark.long
def test_every_way_to_a_classifier_gives_the_same_scores(mmpretrain_report):
    """get_model and ImageClassificationInferencer, by path, Config and model."""
    actual = mmpretrain_report['by_config']
    assert set(actual) == {'path', 'config', 'model', 'weights_alone'}
    for way, result in actual.items():
        assert len(set(result['scores'])) == 10
        assert result['scores'] == pytest.approx(actual['path']['scores'], abs=1e-6), way
        assert result['name'] == f'digit_{result["scores"].index(max(result["scores"]))}'


@pytest.mark.long
def test_a_model_of_the_index_by_its_name(mmpretrain_report):
    """get_model, ImageClassificationInferencer, inference_model."""
    actual = mmpretrain_report['by_name']
    assert actual['listed']
    assert len(actual['scores']['inferencer']) == 1000
    assert actual['scores']['inferencer'] == pytest.approx(actual['scores']['inference_model'], abs=1e-6)


@pytest.mark.long
@pytest.mark.parametrize('name', ['resnet', 'vit'])
def test_trunk_in_a_config_of_mmpretrain(name, mmpretrain_report):
    """A training step, with MMPretrain's own layer decay of 0.5: class token, first and last of four blocks."""
    actual = mmpretrain_report['in_host_config'][name]
    assert 0 < actual['loss'] < 20 and actual['moved']
    assert actual['rates'] == [0.5**5, 0.5**4, 0.5]


@pytest.mark.long
def test_every_way_to_a_segmentor_gives_the_same_logits(mmseg_report):
    """init_model with inference_model; MMSegInferencer by path, Config and a flattened pure-Python config."""
    actual = mmseg_report['by_config']
    assert actual['classes'][:2] == ['background', 'digit 0']
    assert actual['spread'] > 0.01
    assert set(actual['distances']) == {'path', 'config', 'pure_python'}
    assert max(actual['distances'].values()) < 1e-5


@pytest.mark.long
def test_weights_without_a_record_of_their_classes(mmseg_report):
    """Converted ones and safetensors, by both interfaces."""
    assert len(mmseg_report['weights_alone']) == 6
    for way, distance in mmseg_report['weights_alone'].items():
        assert distance < 1e-5, way


@pytest.mark.long
def test_classes_of_weights_without_a_record(mmseg_report):
    """MMSegmentation's init_model guesses ADE20K from 150 classes; its inferencer must be told the classes."""
    assert mmseg_report['classes_of_ade20k'] == dict(init_model='wall', inferencer='wall', drawn=[96, 96, 3])


@pytest.mark.long
@pytest.mark.parametrize('name', ['fcn', 'upernet'])
def test_trunk_in_a_config_of_mmseg(name, mmseg_report):
    actual = mmseg_report['in_host_config'][name]
    assert actual['gradient'] > 0
    assert actual['shape'] == [1, 96, 96]


@pytest.mark.parametrize('name', SEGMENTING)
def test_inference_model_finds_the_pipeline(name):
    """mmseg.apis.inference_model reads `test_pipeline` of the config."""
    cfg = load(name)
    assert cfg.default_scope == 'mmseg'
    assert cfg.get('test_pipeline') == cfg.test_dataloader.dataset.pipeline
    assert cfg.test_pipeline[0].type == 'LoadImageFromFile'
