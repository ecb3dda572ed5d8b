"""Damaged files, files of other programs and files that claim sizes: one sentence each, never half of the weights."""

import hashlib
import pickle
import random
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.payloads import body, program

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


def flipped(content, first, last, count=50):
    """Copies of a file that differ from it in one bit between two positions."""
    for position in random.Random(0).sample(range(8 * first, 8 * last), count):
        copy = bytearray(content)
        copy[position // 8] ^= 1 << position % 8
        yield bytes(copy)


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
def test_truncated_files_are_refused_and_empty_dicts_are_read(tmp_path, suffix):
    path = save(tmp_path / f'cut{suffix}', weight=torch.zeros(5000))
    whole = path.read_bytes()
    for left in [1, 8, 100, *(int(len(whole) * share) for share in (0.1, 0.5, 0.9, 0.99)), len(whole) - 1]:
        path.write_bytes(whole[:left])
        with pytest.raises(ValueError, match=f'cut{suffix} must be a complete checkpoint'):
            read_checkpoint(path)
    assert read_checkpoint(save(tmp_path / f'none{suffix}')) in (dict(state_dict={}), {})


def test_other_content_is_refused(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / 'list.pth')
    for name, content, message in (
        ('list.pth', None, 'a list instead of a dict'),
        ('list.pdparams', [1], 'a list instead of a dict'),
        ('strings.pdparams', dict(weight=np.array(['a'])), 'must be a complete checkpoint'),
    ):
        if content:
            (tmp_path / name).write_bytes(pickle.dumps(content, protocol=4))
        with pytest.raises(ValueError, match=message):
            read_checkpoint(tmp_path / name)


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
def test_a_flipped_bit_anywhere_is_noticed_with_a_checksum(tmp_path, suffix):
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


@pytest.mark.parametrize(
    'content',
    [
        program(b'}r\xff\xff\xff\xff'),  # a memo of four thousand million entries, which the unpickler in C allocates
        program(b'\x95\0\0\0\0\0\1\0\0}'),  # a frame, bytes and a text of a terabyte
        program(b'}\x8e\0\0\0\0\0\1\0\0'),
        program(b'}\x8d\0\0\0\0\0\1\0\0'),
        program(b'}', body('name'), b')' + b'\x85' * 100_000 + b's'),  # nested deeper than Python can walk
        program(b'}', body('name'), b']' * 100_000 + b'a' * 99_999 + b's'),
        program(b'}', body('name'), b']q\0h\0as'),  # a list that holds itself
        program(b'})', b'q\0h\0\x86' * 40, b'K\1s'),  # a key, then a value, that takes 2^40 steps to walk
        program(b'}', body('name'), b')', b'q\0h\0\x86' * 40, b's'),
    ],
)
def test_a_small_file_takes_little_memory_and_time(tmp_path, content):
    (tmp_path / 'model.pdparams').write_bytes(content)
    tracemalloc.start()
    started = time.perf_counter()
    try:
        assert read_checkpoint(tmp_path / 'model.pdparams').keys() <= {'name'}
    except ValueError as error:
        assert str(error).startswith(f'{tmp_path}/model.pdparams must be a complete checkpoint')
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()
    assert time.perf_counter() - started < 20
