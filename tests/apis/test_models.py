"""Models by name, path and Config, with weights of any layout; what does not fit is one sentence."""

import pickle

import pytest
import torch
from mmengine.config import Config
from support.tiny import CLASSIFIER, CONFIGS, SEGMENTOR

from beit_mm.apis import load_model
from beit_mm.apis.models import load_for_inference
from beit_mm.checkpoint.converting import convert

NAME, PATH = 'beit-base-p16_22k-to-1k_224', f'{CONFIGS}/classify/beit_base_224_22k_to_1k.py'
RANDOM = {**CLASSIFIER, 'model.backbone.init_cfg': None}


def load(weights=None, options=CLASSIFIER, **loading):
    return load_model(NAME, weights, 'cpu', options=options, **loading)


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    return load(options=RANDOM)


@pytest.fixture
def weights(classifier, tmp_path):
    torch.save(dict(state_dict=classifier.state_dict()), tmp_path / 'weights.pth')
    return tmp_path / 'weights.pth'


@pytest.fixture
def trunk(classifier, tmp_path):
    state = {name: tensor for name, tensor in classifier.state_dict().items() if not name.startswith('head.')}
    torch.save(state, tmp_path / 'trunk.pth')
    return tmp_path / 'trunk.pth'


def equal(left, right) -> bool:
    left, right = left.state_dict(), right.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize('model', [NAME, PATH, Config.fromfile(PATH)], ids=['name', 'path', 'config'])
def test_a_model_by_name_path_and_config_which_stays_as_it_is(model, classifier, weights):
    before = model.to_dict() if isinstance(model, Config) else None
    loaded = load_model(model, weights, 'cpu', options=CLASSIFIER)
    assert equal(loaded, classifier) and not loaded.training
    assert loaded.cfg.model.backbone.embed_dim == 32 and len(loaded.dataset_meta['classes']) == 1000
    assert before is None or model.to_dict() == before


def test_a_model_without_weights_logs_no_line_for_each_parameter(capsys):
    load(options=RANDOM)
    assert 'norm1.weight' not in ''.join(capsys.readouterr())


@pytest.mark.parametrize('layout', ['release', 'timm', 'mmpretrain', 'transformers'])
def test_converted_weights(layout, classifier, weights, tmp_path):
    target = tmp_path / ('folder' if layout == 'transformers' else 'converted.pth')
    list(convert(str(weights), str(target), layout))
    assert equal(load(target), classifier)


def test_weights_without_a_head_serve_the_trunk_alone(classifier, trunk):
    missing = r'trunk\.pth: the checkpoint does not fit the model: head \(head\.fc\.weight is missing\)'
    with pytest.raises(ValueError, match=missing):
        load(trunk)
    assert equal(load(trunk, trunk_only=True).backbone, classifier.backbone)


def test_weights_that_the_config_names_for_the_whole_model_must_hold_its_head(classifier, weights, trunk):
    start = dict(type='Pretrained', checkpoint=str(weights))
    options = {**RANDOM, 'model.init_cfg': start}
    assert equal(load_for_inference(NAME, device='cpu', options=options), classifier)
    start['checkpoint'] = str(trunk)
    with pytest.raises(ValueError, match=r'trunk\.pth: .* head \(head\.fc\.weight is missing\)'):
        load_for_inference(NAME, device='cpu', options=options)


def test_inference_needs_weights_once(classifier, weights):
    with pytest.raises(ValueError, match='weights must name a checkpoint for ImageClassifier, got none'):
        load_for_inference(NAME, device='cpu', options=RANDOM)
    with pytest.raises(ValueError, match='device and weights must be None for a loaded ImageClassifier'):
        load_for_inference(classifier, weights, device='cpu')
    assert load_for_inference(classifier.train()) is classifier and not classifier.training


def test_mistakes_are_one_sentence(weights, tmp_path):
    (tmp_path / 'text.pth').write_bytes(pickle.dumps('no weights'))
    device = 'a device must be cpu, or cuda or cuda:N of [0-9]+ GPUs, got '
    for error, message, arguments in [
        (FileNotFoundError, 'got beit-giant; `beit-mm models` lists', dict(model='beit-giant')),
        (FileNotFoundError, f'; did you mean {NAME}', dict(model=NAME[:-1])),
        (FileNotFoundError, 'nowhere.pth', dict(weights=tmp_path / 'nowhere.pth')),
        (ValueError, r'weights\.pth: .* does not fit this BEiT trunk', dict(options={'model.backbone.depth': 3})),
        (ValueError, 'options must name keys of the config, got mdel.x', dict(options={'mdel.x': 3})),
        (ValueError, 'that predicts visual tokens, got ImageClassifier', dict(tokenizer=weights)),
        (ValueError, 'text.pth must be a complete checkpoint', dict(weights=tmp_path / 'text.pth')),
        (ValueError, f'{device}gpu', dict(device='gpu')),
        (ValueError, f'{device}cuda:{torch.cuda.device_count()}', dict(device=f'cuda:{torch.cuda.device_count()}')),
    ]:
        options = {**CLASSIFIER, **arguments.pop('options', {})}
        with pytest.raises(error, match=message):
            load_model(**{**dict(model=NAME, weights=weights), **arguments}, options=options)


def test_classes_of_other_data_than_the_head_s_are_no_names(tmp_path):
    options = {**RANDOM, 'model.head.num_classes': 10}
    model = load(options=options)
    assert 'classes' not in model.dataset_meta
    names = [f'class_{label}' for label in range(10)]
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=names))), tmp_path / 'own.pth')
    assert load(tmp_path / 'own.pth', options).dataset_meta['classes'] == names
    for keys, expected in ((SEGMENTOR, {'classes'}), ([key for key in SEGMENTOR if 'metainfo' not in key], set())):
        options = {**{key: SEGMENTOR[key] for key in keys}, 'model.backbone.init_cfg': None}
        segmentor = load_model(f'{CONFIGS}/beit_segment.py', options=options, device='cpu')
        assert {'classes', 'palette'} & segmentor.dataset_meta.keys() == expected
        assert not any(isinstance(module, torch.nn.SyncBatchNorm) for module in segmentor.modules())
