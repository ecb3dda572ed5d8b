"""Where weights come from: every scheme of MMEngine, downloads, checksums."""

import contextlib
import hashlib
import math
import re
import shutil

import mmengine
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.runner import CheckpointLoader
from safetensors.torch import save_file
from support.payloads import ANYWHERE, leave_trace, write

from beit_mm.checkpoint import downloads
from beit_mm.checks import check_checkpoint

ZEROS = '0' * 64


def save(path, value=1.0):
    path.parent.mkdir(exist_ok=True)
    torch.save(dict(state_dict={'backbone.weight': torch.tensor(value)}), path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load(address):
    return CheckpointLoader.load_checkpoint(address)['state_dict']


def value(address):
    return load(address)['backbone.weight'].item()


def cached(folder):
    return sorted(path.name for path in folder.glob('cache/hub/checkpoints/*'))


@pytest.mark.parametrize(
    'address',
    'https://host/model.pth torchvision://resnet18 open-mmlab://vgg16_caffe mmcls://vgg11 s3://bucket/model.pth '
    'petrel:s3://bucket/model.pth petrel://model.pth'.split(),
)
def test_every_scheme_finds_the_file_and_reads_it_here(tmp_path, monkeypatch, address):
    honest, evil = tmp_path / 'honest.pth', write(tmp_path, ANYWHERE['exec'](tmp_path, leave_trace(tmp_path)), 'zip')
    digest = save(honest)
    monkeypatch.setattr(downloads, '_DIGEST', re.compile('(?!)'))  # MMEngine's names end in digits of other files

    def fetch(source):
        monkeypatch.setenv('TORCH_HOME', str(tmp_path / source.stem))
        monkeypatch.setattr(torch.hub, 'download_url_to_file', lambda url, path, *_, **__: shutil.copy(source, path))
        local = {address: contextlib.nullcontext(str(source))}
        monkeypatch.setattr(mmengine.fileio, 'get_local_path', lambda filepath, backend_args: local[filepath])

    fetch(honest)
    for mark in ('', f'#sha256={digest}'):
        assert list(load(address + mark)) == ['weight' if address.startswith('mmcls') else 'backbone.weight']
    fetch(evil)
    with pytest.raises(ValueError, match='got global exec'):
        load(address)
    with pytest.raises(ValueError, match=f'must have the SHA-256 {digest}'):
        load(f'{address}#sha256={digest}')
    assert not (tmp_path / 'ran').exists()


def test_addresses_that_lead_nowhere_are_named(tmp_path, server):
    unknown = [f'{scheme}://no_such_model' for scheme in ('torchvision', 'modelzoo', 'open-mmlab', 'mmcls')]
    for address, message in [
        *((scheme, f'a scheme that can be read safely, got {scheme}') for scheme in ('pavi://a.pth', 'HTTP://h/a.pth')),
        *((address, 'must be one of the .* got no_such_model') for address in unknown),
        (f'{server.url}/none.pth', f'{server.url}/none.pth must be a file that can be downloaded, got HTTP Error 404'),
        (f'{server.url}/', f'must end in the name of a file, got {server.url}/'),
        (f'{server.url}/a/..', f'must end in the name of a file, got {server.url}/a/..'),
        ('http://127.0.0.1:1/a.pth', 'http://127.0.0.1:1/a.pth must be a file that can be downloaded, got .*refused'),
    ]:
        with pytest.raises((OSError, ValueError), match=message):
            load(address)
    assert cached(tmp_path) == []


@pytest.mark.parametrize('query', ['', '?token=7'])
def test_downloads_are_kept_and_kept_apart_by_their_checksums(tmp_path, server, query):
    digests = {folder: save(tmp_path / folder / 'model.pth', number) for number, folder in enumerate('ab')}
    assert [value(f'{server.url}/b/model.pth') for _ in range(2)] == [1, 1]
    for _ in range(2):
        assert [value(f'{server.url}/{folder}/model.pth{query}#sha256={digests[folder]}') for folder in 'ab'] == [0, 1]
    assert server.requested == ['/b/model.pth', *(f'/{folder}/model.pth{query}' for folder in 'ab')]
    assert cached(tmp_path) == sorted(['model.pth', *(f'model-{digest[:16]}.pth' for digest in digests.values())])


def test_a_damaged_download_is_not_kept(tmp_path, server):
    """With another checksum than announced, or cut short: torch.hub takes the end of the connection for the file's."""
    path, address = tmp_path / 'a' / 'model.pth', f'{server.url}/a/model.pth'
    digest = save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    for _ in range(2):
        with pytest.raises(ValueError, match=f'must have the SHA-256 {digest}, got (?!{digest})'):
            value(f'{address}#sha256={digest}')
        assert cached(tmp_path) == []
    path.write_bytes(whole[:500])
    server.promise = 500
    with pytest.raises(ValueError, match='model.pth must be a complete checkpoint.*got 500 bytes'):
        value(address)
    assert cached(tmp_path) == []
    path.write_bytes(whole)
    server.promise = 0
    assert value(address) == 1 and value(f'{address}#sha256={digest}') == 1
    # A later change in the cache is noticed, too.
    (tmp_path / 'cache/hub/checkpoints' / f'model-{digest[:16]}.pth').write_bytes(whole[:100])
    with pytest.raises(ValueError, match=f'must have the SHA-256 {digest}'):
        value(f'{address}#sha256={digest}')
    assert value(f'{address}#sha256={digest}') == 1


MISTAKES = {
    **{f'#sha256={digits}': 'must give 64 hexadecimal' for digits in ('', 'abc', f'{ZEROS}0', f'g{ZEROS[1:]}')},
    **{f'?{query}': 'as #sha256=HEX at' for query in (f'sha256={ZEROS}', f't=7&sha256={ZEROS}', 'sha256=#sha256=')},
}


def test_checksums_of_local_files_and_checksums_that_are_written_wrongly(tmp_path):
    digest = save(tmp_path / 'model.pth')
    for prefix in ('', 'file://'):
        assert value(f'{prefix}{tmp_path}/model.pth#sha256={digest.upper()}') == 1
        with pytest.raises(ValueError, match=f'{tmp_path}/model.pth must have the SHA-256 {ZEROS}, got {digest}$'):
            value(f'{prefix}{tmp_path}/model.pth#sha256={ZEROS}')
    for address in ('model.pth', 'file:///model.pth', 'http://host/model.pth', 's3://bucket/model'):
        for mistake, message in MISTAKES.items():
            for read in (load, lambda text: check_checkpoint('load_from', text)):
                with pytest.raises(ValueError, match=message):
                    read(address + mistake)


def test_checkpoints_are_looked_for_beforehand(tmp_path):
    digest = save(tmp_path / 'model.pth')
    save(tmp_path / 'folder' / 'pytorch_model.bin')
    path = f'{tmp_path}/model.pth'
    for there in (path, f'{path}#sha256={digest}', f'{tmp_path}/folder', f'https://host/x?y=1#sha256={digest}'):
        check_checkpoint('load_from', there)
    for missing in ('none.pth', f'none.pth#sha256={digest}', str(tmp_path)):
        with pytest.raises(FileNotFoundError, match=f'load_from names a .*(does not exist|without weights): {missing}'):
            check_checkpoint('load_from', missing)


@pytest.mark.parametrize('form', ['pth', 'safetensors'])
@pytest.mark.parametrize(
    'tensor, words',
    [
        (torch.tensor([1.0, math.nan]), 'not finite'),
        (torch.tensor([1.0, -math.inf], dtype=torch.float16), 'not finite'),
        (torch.tensor([1.0, 2.0]).to(torch.float8_e5m2), 'float8 without a scale'),
        (torch.tensor([3e38, 3e38]), None),
        (torch.tensor([1, 2]), None),
    ],
)
def test_numbers_that_no_model_can_use_are_named_in_one_line(tmp_path, form, tensor, words, capsys):
    path, weights = tmp_path / f'weights.{form}', {'a': torch.ones(1), 'head.\x1b': tensor}
    save_file(weights, path) if form == 'safetensors' else torch.save(dict(state_dict=weights), path)
    MMLogger.get_instance(f'{form} {words} {tensor.dtype}')
    CheckpointLoader.load_checkpoint(str(path))
    said = f'{path}: 1 of 2 tensors are {words}, the first is head.\\x1b'
    output = capsys.readouterr().out
    assert said in output if words else 'tensors are' not in output
