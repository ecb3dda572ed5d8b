"""Files as paddle.save writes them (python/paddle/framework/io.py), written with pickle and NumPy."""

import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

from beit_mm.checkpoint import read_checkpoint


class Parameter:
    """As a tensor is written since Paddle 2.1."""

    def __init__(self, name, array):
        self.name, self.array = name, array

    def __reduce__(self):
        return tuple, ((self.name, self.array),)


def read_paddle(folder, content, protocol=4, device='cpu'):
    path = folder / 'model.pdparams'
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol))
    return read_checkpoint(path, device)


@pytest.mark.parametrize('protocol', [2, 3, 4])
def test_weights_and_runs_of_paddle(tmp_path, protocol):
    arrays = {dtype: np.arange(6).astype(dtype).reshape(2, 3) for dtype in 'f4 f8 f2 i8 i4 u1 i1 ? c8'.split()}
    arrays.update(fortran=np.asfortranarray(arrays['f4']), empty=np.zeros((0, 4), 'f4'), scalar=np.array(3.0, 'f4'))
    table = {'StructuredToParameterName@@': {name: f'linear_0.w_{name}' for name in arrays}}
    weights = read_paddle(tmp_path, {**arrays, **table}, protocol)
    assert list(weights) == list(arrays)
    for name, array in arrays.items():
        assert weights[name].dtype == torch.from_numpy(array).dtype
        np.testing.assert_array_equal(weights[name].numpy(), array)
    weights['f4'].add_(1)  # its memory is nobody else's
    saved = OrderedDict(weight=Parameter('linear_0.w_0', np.ones((2, 3), 'f4')))
    assert read_paddle(tmp_path, saved, protocol)['weight'].tolist() == [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]

    plain = dict(epoch=3, lr=0.1, name='beit', step=np.float32(2), steps=2**40, best=-1, ema=None)
    state = {'weight': np.ones(2, 'f4'), 'StructuredToParameterName@@': {'weight': 'w_0'}}
    run = read_paddle(tmp_path, dict(plain, state_dict=state, moments=[np.zeros(1), (1, 2)]), protocol)
    assert list(run['state_dict']) == ['weight'] and run['state_dict']['weight'].tolist() == [1, 1]
    assert torch.equal(run['moments'][0], torch.zeros(1).double()) and run['moments'][1] == (1, 2)
    assert {key: run[key] for key in plain} == plain


def test_types_devices_and_versions_of_paddle(tmp_path):
    values = torch.tensor([[1.0, -2.5], [3e38, 0.0]], dtype=torch.bfloat16)  # which Paddle saves as uint16
    weight = read_paddle(tmp_path, dict(weight=values.view(torch.int16).numpy().view(np.uint16)))['weight']
    assert weight.dtype == torch.bfloat16 and torch.equal(weight, values)
    for device in ('meta', torch.device('meta')):
        assert read_paddle(tmp_path, dict(weight=np.ones(2)), device=device)['weight'].is_meta
    content = pickle.dumps(dict(weight=np.ones(2)), protocol=2)
    assert b'numpy._core.multiarray' in content
    content = content.replace(b'numpy._core.multiarray', b'numpy.core.multiarray')  # of NumPy 1
    assert read_paddle(tmp_path, content)['weight'].tolist() == [1, 1]
