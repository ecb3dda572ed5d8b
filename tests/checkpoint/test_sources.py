"""Where weights come from: every scheme of MMEngine, downloads, checksums."""

import contextlib
import hashlib
import shutil

import mmengine
import pytest
import torch
from mmengine.runner import CheckpointLoader
from support.payloads import ANYWHERE, write

from beit_mm.checkpoint.checksums import split_checksum
from beit_mm.checks import check_checkpoint

ZEROS = '0' * 64


def save(path, value=1.0):
    path.parent.mkdir(exist_ok=True)
    torch.save(dict(state_dict={'backbone.weight': torch.tensor(value)}), path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def value(address):
    return CheckpointLoader.load_checkpoint(address)['state_dict']['backbone.weight'].item()


def cached(folder):
    return sorted(path.name for path in (folder / 'cache/hub/checkpoints').iterdir())


@pytest.mark.parametrize(
    'address', ['https://host/model.pth', 'torchvision://resnet18', 'open-mmlab://vgg16_caffe', 'mmcls://vgg11']
)
def test_other_schemes_find_the_file_and_read_it_here(tmp_path, monkeypatch, address):
    code = f'open({str(tmp_path / "ran")!r}, "w").close()'
    honest, evil = tmp_path / 'honest.pth', write(tmp_path, ANYWHERE['exec'](tmp_path, code), 'zip')
    digest = save(honest)
    for source in (honest, evil):
        monkeypatch.setenv('TORCH_HOME', str(tmp_path / source.stem))
        monkeypatch.setattr(torch.hub, 'download_url_to_file', lambda url, path, *_, **__: shutil.copy(source, path))
        if source is evil:
            with pytest.raises(ValueError, match='got global exec'):
                CheckpointLoader.load_checkpoint(address)
            assert not (tmp_path / 'ran').exists()
            with pytest.raises(ValueError, match=f'must have the SHA-256 {digest}'):
                CheckpointLoader.load_checkpoint(f'{address}#sha256={digest}')
        else:
            for mark in ('', f'#sha256={digest}'):
                weights = CheckpointLoader.load_checkpoint(address + mark)['state_dict']
                assert list(weights) == ['weight' if address.startswith('mmcls') else 'backbone.weight']


@pytest.mark.parametrize('address', ['s3://bucket/model.pth', 'petrel:s3://bucket/model.pth', 'petrel://model.pth'])
def test_object_storage_fetches_and_reads_it_here(tmp_path, monkeypatch, address):
    fetched = {'evil': write(tmp_path, ANYWHERE['exec'](tmp_path, ''), 'zip'), 'honest': tmp_path / 'honest.pth'}
    digest = save(fetched['honest'])
    for name, path in fetched.items():
        monkeypatch.setattr(
            mmengine.fileio,
            'get_local_path',
            lambda filepath, backend_args: {address: contextlib.nullcontext(str(path))}[filepath],
        )
        if name == 'evil':
            with pytest.raises(ValueError, match='got global exec'):
                CheckpointLoader.load_checkpoint(address)
        else:
            assert value(f'{address}#sha256={digest}') == 1
            with pytest.raises(ValueError, match=f'must have the SHA-256 {ZEROS}, got {digest}'):
                CheckpointLoader.load_checkpoint(f'{address}#sha256={ZEROS}')


@pytest.mark.parametrize('address', ['pavi://model.pth', 'HTTP://host/model.pth'])
def test_a_scheme_that_cannot_be_read_safely_is_refused(address):
    with pytest.raises(ValueError, match=f'got {address}'):
        CheckpointLoader.load_checkpoint(address)


@pytest.mark.parametrize('scheme', ['torchvision', 'modelzoo', 'open-mmlab', 'mmcls'])
def test_unknown_models_are_named(scheme):
    with pytest.raises(ValueError, match='must be one of the .* got no_such_model'):
        CheckpointLoader.load_checkpoint(f'{scheme}://no_such_model')


def test_a_download_is_kept(tmp_path, server):
    save(tmp_path / 'a' / 'model.pth')
    assert [value(f'{server.url}/a/model.pth') for _ in range(2)] == [1, 1]
    assert len(server.requested) == 1 and cached(tmp_path) == ['model.pth']


@pytest.mark.parametrize('query', ['', '?token=7'])
def test_files_of_one_name_are_kept_apart_by_their_checksums(tmp_path, server, query):
    digests = {folder: save(tmp_path / folder / 'model.pth', number) for number, folder in enumerate('ab')}
    for _ in range(2):
        assert [value(f'{server.url}/{folder}/model.pth{query}#sha256={digests[folder]}') for folder in 'ab'] == [0, 1]
    assert server.requested == [f'/{folder}/model.pth{query}' for folder in 'ab']
    assert cached(tmp_path) == sorted(f'model-{digest[:16]}.pth' for digest in digests.values())


def test_a_download_with_another_checksum_is_not_kept(tmp_path, server):
    digest = save(tmp_path / 'a' / 'model.pth')
    whole = (tmp_path / 'a' / 'model.pth').read_bytes()
    (tmp_path / 'a' / 'model.pth').write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    for _ in range(2):
        with pytest.raises(ValueError, match=f'must have the SHA-256 {digest}, got (?!{digest})'):
            value(f'{server.url}/a/model.pth#sha256={digest}')
        assert cached(tmp_path) == []
    (tmp_path / 'a' / 'model.pth').write_bytes(whole)
    assert value(f'{server.url}/a/model.pth#sha256={digest}') == 1
    # what changes in the cache later is noticed, too
    (tmp_path / 'cache/hub/checkpoints' / cached(tmp_path)[0]).write_bytes(whole[:100])
    with pytest.raises(ValueError, match=f'must have the SHA-256 {digest}'):
        value(f'{server.url}/a/model.pth#sha256={digest}')
    assert value(f'{server.url}/a/model.pth#sha256={digest}') == 1


def test_a_download_that_was_cut_short_is_not_kept(tmp_path, server):
    """torch.hub takes the end of the connection for the end of the file."""
    save(tmp_path / 'a' / 'model.pth')
    whole = (tmp_path / 'a' / 'model.pth').read_bytes()
    (tmp_path / 'a' / 'model.pth').write_bytes(whole[:500])
    server.promise = 500
    with pytest.raises(ValueError, match='model.pth must be a complete checkpoint.*got 500 bytes'):
        value(f'{server.url}/a/model.pth')
    assert cached(tmp_path) == []
    (tmp_path / 'a' / 'model.pth').write_bytes(whole)
    server.promise = 0
    assert value(f'{server.url}/a/model.pth') == 1


@pytest.mark.parametrize(
    'place, message',
    [
        ('none.pth', 'must be a file that can be downloaded, got HTTP Error 404'),
        ('', 'must end in the name of a file'),
        ('/', 'must end in the name of a file'),
        ('/a/..', 'must end in the name of a file'),
    ],
)
def test_what_cannot_be_downloaded_is_named(tmp_path, server, place, message):
    with pytest.raises((OSError, ValueError), match=message) as raised:
        CheckpointLoader.load_checkpoint(f'{server.url}/{place}')
    assert server.url in str(raised.value)
    assert not (tmp_path / 'cache/hub/checkpoints').exists() or cached(tmp_path) == []


def test_a_server_that_does_not_answer_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setenv('no_proxy', '*')
    address = 'http://127.0.0.1:1/model.pth'
    with pytest.raises(OSError, match=f'{address} must be a file that can be downloaded, got .*refused'):
        CheckpointLoader.load_checkpoint(address)


def test_a_local_file_with_its_checksum(tmp_path):
    digest = save(tmp_path / 'model.pth')
    for prefix in ('', 'file://'):
        assert value(f'{prefix}{tmp_path}/model.pth#sha256={digest}') == 1
        with pytest.raises(ValueError, match=f'{tmp_path}/model.pth must have the SHA-256 {ZEROS}, got {digest}$'):
            value(f'{prefix}{tmp_path}/model.pth#sha256={ZEROS}')


@pytest.mark.parametrize('checksum', ['', 'abc', ZEROS[1:], ZEROS + '0', 'g' + ZEROS[1:]])
@pytest.mark.parametrize(
    'address', ['model.pth#', 'file:///model.pth#', 'http://host/model.pth#', 's3://bucket/model#']
)
def test_a_checksum_must_be_one(address, checksum):
    with pytest.raises(ValueError, match='must give 64 hexadecimal digits, got '):
        CheckpointLoader.load_checkpoint(f'{address}sha256={checksum}')
    with pytest.raises(ValueError, match='must give 64 hexadecimal digits, got '):
        check_checkpoint('load_from', f'{address}sha256={checksum}')


def test_a_checksum_is_split_from_its_address():
    assert split_checksum(f'a.pth?x=1#sha256={"A" * 64}') == ('a.pth?x=1', 'a' * 64)
    for plain in ('weights/a.pth', 'http://host/a.pth?x=1#part'):
        assert split_checksum(plain) == (plain, None)


def test_checkpoints_are_looked_for_beforehand(tmp_path):
    digest = save(tmp_path / 'model.pth')
    save(tmp_path / 'folder' / 'pytorch_model.bin')
    path = f'{tmp_path}/model.pth'
    for found in (path, f'{path}#sha256={digest}', f'{tmp_path}/folder', f'https://host/x#sha256={digest}'):
        check_checkpoint('load_from', found)
    for missing in ('none.pth', f'none.pth#sha256={digest}', str(tmp_path)):
        with pytest.raises(FileNotFoundError, match=f'load_from names a checkpoint that does not exist: {missing}'):
            check_checkpoint('load_from', missing)
