"""Files as paddle.save writes them (python/paddle/framework/io.py), written with pickle and NumPy."""

import pickle
import time
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest
import torch
from support.payloads import body, program

from beit_mm.checkpoint import read_checkpoint


class Parameter:
    """As a tensor is written since Paddle 2.1."""

    def __init__(self, name, array):
        self.name, self.array = name, array

    def __reduce__(self):
        return tuple, ((self.name, self.array),)


def read(folder, content, protocol=4, device='cpu'):
    path = folder / 'model.pdparams'
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol))
    return read_checkpoint(path, device)


@pytest.mark.parametrize('protocol', [2, 3, 4])
def test_a_state_dict(tmp_path, protocol):
    arrays = {
        str(index): np.arange(6).astype(dtype).reshape(2, 3)
        for index, dtype in enumerate(('f4', 'f8', 'f2', 'i8', 'i4', 'u1', 'i1', '?', 'c8'))
    }
    arrays.update(fortran=np.asfortranarray(arrays['0']), empty=np.zeros((0, 4), 'f4'), scalar=np.array(3.0, 'f4'))
    table = {'StructuredToParameterName@@': {name: f'linear_0.w_{name}' for name in arrays}}
    weights = read(tmp_path, {**arrays, **table}, protocol)
    assert list(weights) == list(arrays)
    for name, array in arrays.items():
        assert weights[name].dtype == torch.from_numpy(array).dtype
        np.testing.assert_array_equal(weights[name].numpy(), array)
    weights['0'].add_(1)  # its memory is nobody else's
    saved = OrderedDict(weight=Parameter('linear_0.w_0', np.ones((2, 3), 'f4')))
    assert read(tmp_path, saved, protocol)['weight'].tolist() == [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]


@pytest.mark.parametrize('protocol', [2, 4])
def test_a_checkpoint_of_a_run(tmp_path, protocol):
    plain = dict(epoch=3, lr=0.1, name='beit', step=np.float32(2), steps=2**40, best=-1, ema=None)
    state = {'weight': np.ones(2, 'f4'), 'StructuredToParameterName@@': {'weight': 'w_0'}}
    checkpoint = read(tmp_path, dict(plain, state_dict=state, moments=[np.zeros(1), (1, 2)]), protocol)
    assert list(checkpoint['state_dict']) == ['weight'] and checkpoint['state_dict']['weight'].tolist() == [1, 1]
    assert torch.equal(checkpoint['moments'][0], torch.zeros(1).double()) and checkpoint['moments'][1] == (1, 2)
    assert {key: checkpoint[key] for key in plain} == plain


def test_bfloat16_is_saved_as_uint16(tmp_path):
    values = torch.tensor([[1.0, -2.5], [3e38, 0.0]], dtype=torch.bfloat16)
    weights = read(tmp_path, dict(weight=values.view(torch.int16).numpy().view(np.uint16)))
    assert weights['weight'].dtype == torch.bfloat16 and torch.equal(weights['weight'], values)


def test_the_numpy_of_another_version(tmp_path):
    content = pickle.dumps(dict(weight=np.ones(2)), protocol=2)
    assert b'numpy._core.multiarray' in content
    content = content.replace(b'numpy._core.multiarray', b'numpy.core.multiarray')
    assert read(tmp_path, content)['weight'].tolist() == [1, 1]


@pytest.mark.parametrize('device', ['meta', torch.device('meta')])
def test_tensors_go_where_they_are_wanted(tmp_path, device):
    assert read(tmp_path, dict(weight=np.ones(2)), device=device)['weight'].is_meta


def test_numpy_strings_are_no_weights(tmp_path):
    with pytest.raises(ValueError, match='must be a complete checkpoint'):
        read(tmp_path, dict(weight=np.array(['a'])))


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
    tracemalloc.start()
    started = time.perf_counter()
    try:
        assert read(tmp_path, content).keys() <= {'name'}
    except ValueError as error:
        assert str(error).startswith(f'{tmp_path}/model.pdparams must be a complete checkpoint')
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()
    assert time.perf_counter() - started < 20
