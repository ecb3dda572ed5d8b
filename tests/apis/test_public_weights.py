"""Weights by name: from a server that speaks the protocol of the Hugging Face Hub, and from the release."""

import hashlib
import http.server
import json
import os
import re
import resource
import threading

import mmpretrain
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from support.tiny import CLASSIFIER, SEGMENTOR
from support.tools import run

from beit_mm.apis import classify, load_model
from beit_mm.checkpoint.converting import convert
from beit_mm.checkpoint.sources import load_from_anywhere
from beit_mm.checks import check_checkpoint
from beit_mm.model_index import configs_by_name, weights_by_name
from beit_mm.models import BEiT

NAME, MODEL = 'beit-base-p16_22k-to-1k_224', 'timm/beit_base_patch16_224.in22k_ft_in22k_in1k'
PRE_TRAINED, SEGMENTS = 'beit-base-p16_pretrain-22k_224', 'beit-base-p16_upernet_ade20k_640'
COMMIT = 'c0' * 20
OTHER_WAY = 'try again, or download the file by hand and give its path$'


class Hub(http.server.ThreadingHTTPServer):
    """Serves `files`: large ones of models, OWNER/NAME/FILE, from another address, as the hub does; others by path.

    With `digests` other checksums are announced. After `cut` bytes the connection ends, and there are no answers more.
    """

    def __init__(self):
        self.files, self.digests, self.requested, self.cut = {}, {}, [], None
        super().__init__(('127.0.0.1', 0), Answer)
        self.url = f'http://127.0.0.1:{self.server_port}'
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.shutdown()
        self.server_close()


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        files, path = self.server.files, self.path.lstrip('/')
        self.server.requested.append(f'{self.command} {path}')
        model, is_model, rest = path.partition('/resolve/')
        if not is_model:
            return self.send(200, files[path]) if path in files else self.send(404)
        revision, _, file = rest.partition('/')
        name, commit = f'{model}/{file}', {'X-Repo-Commit': COMMIT}
        if model.startswith('gated/'):
            self.send(int(model[6:]), **{'X-Error-Code': 'GatedRepo'})
        elif not any(known.startswith(f'{model}/') for known in files):
            self.send(401, **{'X-Error-Code': 'RepoNotFound', 'X-Error-Message': 'Invalid username or password.'})
        elif revision not in ('main', COMMIT):
            self.send(404, **{'X-Error-Code': 'RevisionNotFound'})
        elif name not in files:
            self.send(404, **commit, **{'X-Error-Code': 'EntryNotFound'})
        elif file.endswith('.json'):
            self.send(200, files[name], ETag='"1234567890"', **commit)
        else:
            digest = self.server.digests.get(name) or hashlib.sha256(files[name]).hexdigest()
            large = {'X-Linked-ETag': f'"{digest}"', 'X-Linked-Size': str(len(files[name]))}
            self.send(302, Location=f'http://localhost:{self.server.server_port}/{name}', **commit, **large)

    do_HEAD = do_GET

    def send(self, status, content=b'', **headers):
        if self.server.cut == 0:
            return
        start = int((self.headers['Range'] or 'bytes=0-')[6:].split('-')[0])
        if start and status == 200:
            status, headers = 206, {'Content-Range': f'bytes {start}-{len(content) - 1}/{len(content)}'}
            content = content[start:]
        self.send_response(status)
        for name, value in {**headers, 'Content-Length': len(content)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == 'GET':
            self.wfile.write(content[: self.server.cut])
            self.server.cut = 0 if self.server.cut else None

    def log_message(self, *_):
        """Tests read `requested`."""


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A hub; what is downloaded lies in the test's folder, in `hub` and `torch`."""
    server = Hub()
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setenv('no_proxy', '*')
    monkeypatch.setattr('time.sleep', lambda seconds: None)  # between tries
    monkeypatch.setattr(constants, 'ENDPOINT', server.url)
    monkeypatch.setattr(
        constants, 'HUGGINGFACE_CO_URL_TEMPLATE', f'{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}'
    )
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
    yield server
    server.close()


@pytest.fixture
def timm(server, classifier, tmp_path):
    """The classifier on the hub, in timm's layout; the bytes of its file."""
    list(convert(str(classifier.weights), str(tmp_path / 'timm.safetensors'), 'timm'))
    server.files[f'{MODEL}/model.safetensors'] = (tmp_path / 'timm.safetensors').read_bytes()
    server.files[f'{MODEL}/config.json'] = json.dumps(dict(architecture='beit_base_patch16_224')).encode()
    return server.files[f'{MODEL}/model.safetensors']


def leftovers(tmp_path):
    """Files of weights, whole or not; the hub's own notes on versions and locks are small."""
    files = [path for folder in ('hub', 'torch') for path in (tmp_path / folder).rglob('*') if path.is_file()]
    return [path for path in files if path.stat().st_size > 1000]


def equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_one_name_in_four_interfaces(server, timm, classifier, photos):
    expected = classifier.load().state_dict()
    assert equal(load_model(NAME, pretrained=True, options=CLASSIFIER, device='cpu').state_dict(), expected)
    sizes = dict(img_size=32, embed_dim=32, depth=2, num_heads=2)
    model = mmpretrain.get_model(NAME, pretrained=True, backbone=sizes, head=dict(in_channels=32))
    assert equal(model.state_dict(), expected)
    trunk = BEiT(**sizes, init_cfg=dict(type='Pretrained', checkpoint=f'hf-hub:{MODEL}@{COMMIT}'))
    trunk.init_weights()
    assert torch.equal(trunk.blocks[1].mlp.fc2.weight, expected['backbone.blocks.1.mlp.fc2.weight'])
    images = [photos / 'a' / '1.jpg']
    by_name = classify(NAME, images, options=CLASSIFIER, device='cpu')
    assert by_name[0]['pred_score'] == classify(classifier.load(), images)[0]['pred_score']
    assert server.requested.count(f'GET {MODEL}/model.safetensors') == 1


def test_transformers_weights_for_pre_training_with_the_names_of_its_classes(server, pretrained, tmp_path):
    list(convert(str(pretrained.weights), str(tmp_path / 'folder'), 'transformers'))
    torch.save(load_file(tmp_path / 'folder' / 'model.safetensors'), tmp_path / 'pytorch_model.bin')
    model = weights_by_name()[PRE_TRAINED].removeprefix('hf-hub:')
    server.files[f'{model}/pytorch_model.bin'] = (tmp_path / 'pytorch_model.bin').read_bytes()
    server.files[f'{model}/config.json'] = json.dumps(dict(id2label={0: 'cat', 1: 'dog'})).encode()
    loaded = load_model(PRE_TRAINED, pretrained=True, options=pretrained.options, device='cpu').state_dict()
    assert equal(
        {name: loaded[name] for name in loaded if 'target.' not in name},
        {name: tensor for name, tensor in pretrained.load().state_dict().items() if 'target.' not in name},
    )
    assert load_from_anywhere(f'hf-hub:{model}')['meta']['dataset_meta'] == dict(classes=['cat', 'dog'])


def test_the_release_s_address_of_a_segmentor(server, segmentor, monkeypatch, tmp_path):
    list(convert(str(segmentor.weights), str(tmp_path / 'release.pth'), 'release'))
    host, _, path = weights_by_name()[SEGMENTS].removeprefix('https://').partition('/')
    server.files[path] = (tmp_path / 'release.pth').read_bytes()
    served = {SEGMENTS: f'{server.url}/{path}'}
    monkeypatch.setattr('beit_mm.model_index.weights_by_name', lambda: served)
    loaded = load_model(SEGMENTS, pretrained=True, options=SEGMENTOR, device='cpu')
    assert equal(loaded.state_dict(), segmentor.load().state_dict())


@pytest.mark.parametrize('way', ['gone', 'offline'])
def test_the_cache_is_enough(server, timm, tmp_path, monkeypatch, way):
    first = load_from_anywhere(f'hf-hub:{MODEL}')
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', way == 'offline')
    server.close()
    again = load_from_anywhere(f'hf-hub:{MODEL}')
    assert equal(first['state_dict'], again['state_dict']) and again['meta'] == first['meta']
    before = len(server.requested)
    reason = 'offline mode is enabled' if way == 'offline' else 'refused'
    with pytest.raises(
        OSError, match=f'hf-hub:o/n must be a model .* to {tmp_path}/hub, got .*{reason}.*; {OTHER_WAY}'
    ):
        load_from_anywhere('hf-hub:o/n')
    assert len(server.requested) == before


def test_what_the_hub_does_not_give_is_one_sentence(server, tmp_path):
    server.files['a/empty/README.md'] = b''
    hand = 'download the file by hand and give its path'
    gated = f'is gated: accept its terms on its page and run `hf auth login`, or {hand}'
    for model, sentence in {
        'a/none': 'is no public model: correct the name, or run `hf auth login` if it is private',
        'a/empty': f'has no model.safetensors and no pytorch_model.bin: {hand}',
        'a/empty@v7': 'has no such revision: name a branch, tag or commit after the @',
        'a/b/c': 'must be hf-hub:OWNER/NAME or hf-hub:OWNER/NAME@REVISION',
        '../..': 'must be hf-hub:OWNER/NAME or hf-hub:OWNER/NAME@REVISION',
        'gated/401': gated,
        'gated/403': gated,
    }.items():
        with pytest.raises(ValueError, match=f'^hf-hub:{re.escape(model)} {re.escape(sentence)}$'):
            load_from_anywhere(f'hf-hub:{model}')
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize('address', ['hub', 'release'])
@pytest.mark.parametrize('way', ['cut', 'full', 'damaged'])
def test_failed_downloads_leave_nothing_behind(server, timm, tmp_path, address, way):
    digest, limits = hashlib.sha256(timm).hexdigest(), resource.getrlimit(resource.RLIMIT_FSIZE)
    files = [f'{MODEL}/model.safetensors', f'{MODEL}/model-{digest[:8]}.safetensors']
    server.files.update(dict.fromkeys(files, timm))
    deleted = 'the file is deleted, the next try downloads it again$'
    if way == 'cut':
        server.cut = 5000
        message = f'must be a model .*; {OTHER_WAY}' if address == 'hub' else f'got .*; {deleted}'
    elif way == 'full':
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(timm) // 2, limits[1]))
        message = f'got .*File too large; {OTHER_WAY}'
    else:
        server.files.update(dict.fromkeys(files, timm[:-1] + bytes([timm[-1] ^ 1])))
        server.digests[files[0]] = digest
        message = f'must have the SHA-256 {digest[:8]}.*, got .*; {deleted}'
    address = f'hf-hub:{MODEL}' if address == 'hub' else f'{server.url}/{files[1]}'
    try:
        with pytest.raises((OSError, ValueError), match=message) as raised:
            load_from_anywhere(address)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert '\n' not in str(raised.value) and leftovers(tmp_path) == []
    server.cut = None
    server.files.update(dict.fromkeys(files, timm))
    assert len(load_from_anywhere(address)['state_dict']) > 20


def test_names_without_public_weights_say_so_and_name_those_that_have():
    without = set(configs_by_name()) - set(weights_by_name())
    of_v1 = {name for name in configs_by_name() if name.startswith('beit-')}
    assert without == {name for name in of_v1 if '1k-to-1k' in name or 'pretrain-1k' in name}
    for name in without:
        with pytest.raises(ValueError, match=f'{name} has no public weights; give a file .* {NAME}, .*{SEGMENTS}'):
            classify(name, [], device='cpu')
    with pytest.raises(ValueError, match='public weights belong to the name of a model, got .*beit_finetune.py'):
        load_model(configs_by_name()['beit-base-p16_1k-to-1k_224'], pretrained=True)


def test_checks_beforehand_leave_the_hub_alone(server):
    check_checkpoint('load_from', f'hf-hub:{MODEL}')
    assert server.requested == []


@pytest.mark.long
def test_a_command_without_weights_and_the_hub_s_variables(server, timm, photos, tmp_path):
    options = [f'{key}={value}' for key, value in CLASSIFIER.items()]

    def call(**variables):
        variables = dict(HF_HOME=str(tmp_path / 'home'), HF_ENDPOINT=server.url, **variables)
        words = [os.sys.executable, '-m', 'beit_mm', 'classify', photos / 'a', '--model', NAME]
        return run(*words, '--device', 'cpu', '--cfg-options', *options, **variables)

    assert '1.jpg\t' in call()
    server.close()
    assert '1.jpg\t' in call(HF_HUB_OFFLINE='1')
