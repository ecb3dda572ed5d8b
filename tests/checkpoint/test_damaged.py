"""Damaged files and files of other kinds: one sentence each, never half of the weights."""

import hashlib
import pickle
import random
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from beit_mm.checkpoint import read_checkpoint

EVERY_FORMAT = pytest.mark.parametrize('suffix', ['.pth', '.bin', '.safetensors', '.pdparams'])


def save(path, **weights):
    """Weights in the format of the suffix; `.bin` stands for torch.save's old format."""
    if path.suffix == '.safetensors':
        save_file(weights, path)
    elif path.suffix == '.pdparams':
        path.write_bytes(pickle.dumps({name: weight.numpy() for name, weight in weights.items()}, protocol=4))
    else:
        torch.save(dict(state_dict=weights), path, _use_new_zipfile_serialization=path.suffix == '.pth')
    return path


@pytest.mark.parametrize(
    'content', [b'', b'# text\n' * 999, b'{"a": 1}', b'PK\3\4', bytes(4096), b'\x80\2].', b'\x89PNG\r\n\x1a\n']
)
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors', '.pdparams'])
def test_other_files_are_refused_in_one_sentence(tmp_path, content, suffix):
    path = tmp_path / f'weights{suffix}'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f'weights{suffix} must be .*got {len(content)} bytes') as raised:
        read_checkpoint(path)
    assert '\n' not in str(raised.value)


@EVERY_FORMAT
def test_truncated_files_are_refused(tmp_path, suffix):
    path = save(tmp_path / f'cut{suffix}', weight=torch.zeros(5000))
    whole = path.read_bytes()
    for left in [1, 8, 100, *(int(len(whole) * share) for share in (0.1, 0.5, 0.9, 0.99)), len(whole) - 1]:
        path.write_bytes(whole[:left])
        with pytest.raises(ValueError, match=f'cut{suffix} must be a complete checkpoint'):
            read_checkpoint(path)


@pytest.mark.parametrize('suffix', ['.pth', '.pdparams'])
def test_a_list_is_refused(tmp_path, suffix):
    path = tmp_path / f'list{suffix}'
    torch.save([torch.zeros(1)], path) if suffix == '.pth' else path.write_bytes(pickle.dumps([1], protocol=4))
    with pytest.raises(ValueError, match='a list instead of a dict'):
        read_checkpoint(path)


@EVERY_FORMAT
def test_no_weights_are_weights_too(tmp_path, suffix):
    assert read_checkpoint(save(tmp_path / f'none{suffix}')) in (dict(state_dict={}), {})


def flipped(content, first, last, count=50):
    """Copies of a file that differ from it in one bit between two positions."""
    for position in random.Random(0).sample(range(8 * first, 8 * last), count):
        copy = bytearray(content)
        copy[position // 8] ^= 1 << position % 8
        yield bytes(copy)


def test_a_flipped_bit_in_a_tensor_of_torch_save_is_noticed(tmp_path):
    weight = torch.rand(3000)
    path = save(tmp_path / 'weights.pth', weight=weight, other=torch.ones(7))
    content = path.read_bytes()
    start = content.index(weight.numpy().tobytes())
    for copy in flipped(content, start, start + 4 * len(weight)):
        path.write_bytes(copy)
        with pytest.raises(ValueError, match="must be a complete checkpoint.*Bad CRC-32 for file 'weights/data/0'"):
            read_checkpoint(path)
    path.write_bytes(content)
    assert torch.equal(read_checkpoint(path)['state_dict']['weight'], weight)


@EVERY_FORMAT
def test_a_flipped_bit_anywhere_is_noticed_if_a_checksum_is_given(tmp_path, suffix):
    path = save(tmp_path / f'weights{suffix}', weight=torch.rand(3000))
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    for copy in flipped(content, 0, len(content)):
        path.write_bytes(copy)
        with pytest.raises(ValueError, match=f'^{path} must have the SHA-256 {digest}, got (?!{digest})'):
            read_checkpoint(f'{path}#sha256={digest}')
    path.write_bytes(content)
    assert read_checkpoint(f'{path}#sha256={digest}')


def test_files_saved_without_checksums_are_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        path = save(tmp_path / 'weights.pth', weight=torch.arange(9.0))
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is not None
    assert read_checkpoint(path)['state_dict']['weight'].tolist() == list(range(9))


def test_a_part_that_claims_to_be_huge_is_refused(tmp_path):
    path = save(tmp_path / 'weights.pth', weight=torch.zeros(1))
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        entry = content.index(b'PK\1\2', archive.start_dir)
        while not content[entry + 46 :].startswith(b'weights/data/0'):
            entry = content.index(b'PK\1\2', entry + 1)
    path.write_bytes(content[: entry + 24] + b'\xf0\xff\xff\xff' + content[entry + 28 :])  # its size
    with pytest.raises(ValueError, match='must be a complete checkpoint'):
        read_checkpoint(path)
