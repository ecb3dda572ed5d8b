"""Models by name, path and Config, with weights of any layout; what does not fit is one sentence."""

import pickle

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from support.tiny import CLASSIFIER, CONFIGS, SEGMENTOR, TOKENIZER, TRUNK

from beit_mm.apis import load_model
from beit_mm.apis.models import load_for_inference
from beit_mm.checkpoint.converting import convert


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    return load_model('beit-base-p16_22k-to-1k_224', options={**CLASSIFIER, 'model.backbone.init_cfg': None}).cpu()


@pytest.fixture
def weights(classifier, tmp_path):
    torch.save(dict(state_dict=classifier.state_dict()), tmp_path / 'weights.pth')
    return tmp_path / 'weights.pth'


def equal(left, right) -> bool:
    left, right = left.state_dict(), right.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize('kind', ['name', 'path', 'config'])
def test_a_model_by_name_path_and_config(kind, classifier, weights):
    path = f'{CONFIGS}/classify/beit_base_224_22k_to_1k.py'
    model = dict(name='beit-base-p16_22k-to-1k_224', path=path, config=Config.fromfile(path))[kind]
    loaded = load_model(model, weights, 'cpu', options=CLASSIFIER)
    assert equal(loaded, classifier) and not loaded.training
    assert loaded.cfg.model.backbone.embed_dim == 32 and len(loaded.dataset_meta['classes']) == 1000


@pytest.mark.parametrize('layout', ['release', 'timm', 'mmpretrain', 'transformers'])
def test_converted_weights(layout, classifier, weights, tmp_path):
    target = tmp_path / ('folder' if layout == 'transformers' else 'converted.pth')
    list(convert(str(weights), str(target), layout))
    assert equal(load_model('beit-base-p16_22k-to-1k_224', target, 'cpu', options=CLASSIFIER), classifier)


def test_the_callers_config_stays_as_it_is(weights):
    cfg = Config.fromfile(f'{CONFIGS}/classify/beit_base_224_22k_to_1k.py')
    before = cfg.to_dict()
    load_model(cfg, weights, options=CLASSIFIER)
    assert cfg.to_dict() == before


def test_a_segmentor_without_synchronised_batch_norm(tmp_path):
    options = {**SEGMENTOR, 'model.backbone.init_cfg': None}
    model = load_model(f'{CONFIGS}/beit_segment.py', options=options, device='cpu')
    assert not any(isinstance(module, torch.nn.SyncBatchNorm) for module in model.modules())
    assert len(model.dataset_meta['classes']) == 7


def test_weights_without_a_head_serve_the_trunk_alone(classifier, tmp_path):
    trunk = {name: tensor for name, tensor in classifier.state_dict().items() if not name.startswith('head.')}
    torch.save(trunk, tmp_path / 'trunk.pth')
    with pytest.raises(
        ValueError,
        match=r'trunk\.pth: the checkpoint does not fit the model: head '
        r'\(head\.fc\.weight is missing\)',
    ):
        load_model('beit-base-p16_22k-to-1k_224', tmp_path / 'trunk.pth', options=CLASSIFIER)
    loaded = load_model(
        'beit-base-p16_22k-to-1k_224', tmp_path / 'trunk.pth', 'cpu', options=CLASSIFIER, trunk_only=True
    )
    assert equal(loaded.backbone, classifier.backbone)


def test_a_tokenizer_beside_pretrained_weights(tmp_path):
    """As the release has them: the trunk and its head in one file, the two halves of the tokenizer in two others."""
    options = {**TRUNK, **TOKENIZER}
    cfg = Config.fromfile(f'{CONFIGS}/beit_pretrain.py')
    cfg.merge_from_dict({**options, 'model.target.tokenizer.init_cfg': None})
    whole = MODELS.build(cfg.model)
    state = whole.state_dict()
    torch.save({name: tensor for name, tensor in state.items() if 'tokenizer' not in name}, tmp_path / 'trunk.pth')
    halves = []
    for half in ('encoder', 'decoder'):
        halves.append(tmp_path / f'{half}.pth')
        torch.save(
            dict(
                state_dict={
                    name: tensor
                    for name, tensor in whole.target.tokenizer.state_dict().items()
                    if name.startswith(half)
                }
            ),
            halves[-1],
        )
    loaded = load_model(f'{CONFIGS}/beit_pretrain.py', tmp_path / 'trunk.pth', 'cpu', tokenizer=halves, options=options)
    assert equal(loaded, whole)


def test_mistakes_are_one_sentence(weights, tmp_path):
    with pytest.raises(FileNotFoundError, match='must be a config file or one of beit-.*, got beit-giant'):
        load_model('beit-giant')
    with pytest.raises(FileNotFoundError, match='nowhere.pth'):
        load_model('beit-base-p16_22k-to-1k_224', tmp_path / 'nowhere.pth', options=CLASSIFIER)
    with pytest.raises(ValueError, match=r'weights\.pth: the checkpoint does not fit this BEiT trunk'):
        load_model('beit-base-p16_22k-to-1k_224', weights, options={**CLASSIFIER, 'model.backbone.depth': 3})
    with pytest.raises(ValueError, match='options must name keys of the config, got mdel.backbone'):
        load_model('beit-base-p16_22k-to-1k_224', weights, options={'mdel.backbone': 3})
    with pytest.raises(ValueError, match='that predicts visual tokens, got ImageClassifier'):
        load_model('beit-base-p16_22k-to-1k_224', weights, options=CLASSIFIER, tokenizer=weights)
    (tmp_path / 'text.pth').write_bytes(pickle.dumps('no weights'))
    with pytest.raises(ValueError, match='text.pth must be a complete checkpoint'):
        load_model('beit-base-p16_22k-to-1k_224', tmp_path / 'text.pth', options=CLASSIFIER)


def test_classes_of_other_data_than_the_head_s_are_no_names(tmp_path):
    options = {**CLASSIFIER, 'model.backbone.init_cfg': None, 'model.head.num_classes': 10}
    model = load_model('beit-base-p16_22k-to-1k_224', options=options, device='cpu')
    assert 'classes' not in model.dataset_meta
    names = [f'class_{label}' for label in range(10)]
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=names))), tmp_path / 'own.pth')
    assert (
        load_model('beit-base-p16_22k-to-1k_224', tmp_path / 'own.pth', 'cpu', options=options).dataset_meta['classes']
        == names
    )
    no_names = {key: value for key, value in SEGMENTOR.items() if 'metainfo' not in key}
    options = {**no_names, 'model.backbone.init_cfg': None}
    segmentor = load_model(f'{CONFIGS}/beit_segment.py', options=options, device='cpu')
    assert not {'classes', 'palette'} & segmentor.dataset_meta.keys()


@pytest.mark.parametrize('device', ['gpu', f'cuda:{torch.cuda.device_count()}'])
def test_a_device_that_is_not_there(device):
    with pytest.raises(ValueError, match=f'a device must be cpu, or cuda or cuda:N of [0-9]+ GPUs, got {device}'):
        load_model('beit-base-p16_22k-to-1k_224', 'nowhere.pth', device)


def test_inference_needs_weights_once(classifier, weights):
    options = {**CLASSIFIER, 'model.backbone.init_cfg': None}
    with pytest.raises(ValueError, match='weights must name a checkpoint for ImageClassifier, got none'):
        load_for_inference('beit-base-p16_22k-to-1k_224', device='cpu', options=options)
    with pytest.raises(ValueError, match='device and weights must be None for a loaded ImageClassifier'):
        load_for_inference(classifier, weights, device='cpu')
    assert load_for_inference(classifier.train()) is classifier and not classifier.training


def test_weights_that_the_config_names_for_the_whole_model_must_hold_its_head(classifier, weights, tmp_path):
    start = dict(type='Pretrained', checkpoint=str(weights))
    options = {**CLASSIFIER, 'model.backbone.init_cfg': None, 'model.init_cfg': start}
    assert equal(load_for_inference('beit-base-p16_22k-to-1k_224', device='cpu', options=options), classifier)
    trunk = {name: tensor for name, tensor in classifier.state_dict().items() if not name.startswith('head.')}
    torch.save(trunk, tmp_path / 'trunk.pth')
    start['checkpoint'] = str(tmp_path / 'trunk.pth')
    with pytest.raises(ValueError, match=r'trunk\.pth: .* head \(head\.fc\.weight is missing\)'):
        load_for_inference('beit-base-p16_22k-to-1k_224', device='cpu', options=options)
