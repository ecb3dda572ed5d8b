"""Pickles that try to run code when they are read, and the files that carry them."""

import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import mmengine
import numpy as np
import torch
from mmengine.logging import HistoryBuffer


class Call:
    """Pickles as a call of ``func``; may itself stand for a function."""

    def __init__(self, func, *args):
        self.func, self.args = func, args

    def __reduce__(self):
        return self.func, self.args

    def __call__(self):
        raise AssertionError('only pickled')


def body(value):
    """The opcodes that leave ``value`` on the stack, without the header and the stop."""
    return pickle.dumps(value, protocol=2)[2:-1]


def program(*opcodes):
    return b'\x80\x02' + b''.join(opcodes) + b'.'


def built(cls, *states):
    """An object of ``cls`` that takes one state after another, which no pickler would write."""
    return program(body(Call(cls)), *(body(state) + b'b' for state in states))


def write(folder: Path, content: bytes, form: str) -> Path:
    """Store a pickle as torch.save would ('zip'), bare ('raw'), as Paddle would, or in a Hugging Face folder."""
    if form == 'folder':
        return write(folder, content, 'zip').rename(folder / 'pytorch_model.bin').parent
    path = folder / ('evil.pdparams' if form == 'pdparams' else 'evil.pth')
    if form == 'zip':
        with zipfile.ZipFile(path, 'w', zipfile.ZIP_STORED) as archive:
            archive.writestr('archive/data.pkl', content)
            archive.writestr('archive/version', '3\n')
            archive.writestr('archive/byteorder', sys.byteorder)
    else:
        path.write_bytes(content)
    return path


def array(dtype: bytes, shape: bytes, data: bytes) -> bytes:
    """Opcodes of an array that no pickler would write, from those of its parts."""
    start = body(Call(np._core.multiarray._reconstruct, np.ndarray, (0,), b'b'))
    return b''.join([start, b'(', body(1), shape, dtype, body(False), data, b't', b'b'])


def forged_array(folder, code):
    """An object array whose dtype drops its object flag, so that NumPy takes bytes of the file for pointers."""
    dtype = program(body(Call(np.dtype, 'O8', False, True)), body((3, '|', None, None, None, -1, -1, 0)), b'b')[2:-1]
    return program(array(dtype, body((1,)), body(b'AAAAAAAA')))


def numpy_load(folder, code):
    np.save(folder / 'objects.npy', np.array([Call(exec, code)], dtype=object), allow_pickle=True)
    return program(body(Call(np.load, str(folder / 'objects.npy'), None, True)))


def torch_load(folder, code):
    torch.save(Call(exec, code), folder / 'inner.pth')
    return program(body(Call(torch.load, str(folder / 'inner.pth'), 'cpu', None)))


def history_buffer(folder, code):
    """Plant exec where __setstate__ calls update; getattr's own module leads to it."""
    builtin = Call(getattr, getattr, '__self__')
    methods = Call(HistoryBuffer)
    planted = program(body(methods), body(dict(setdefault=slice, update=Call(getattr, builtin, 'exec'))), b'b')[2:-1]
    first = b'}' + body('_statistics_methods') + planted + b's'
    return program(body(Call(HistoryBuffer)), first, b'b', body(dict(statistics_methods=code)), b'b')


def touch(folder):
    return f'touch {folder}/ran'


ANYWHERE = {  # with the opcodes of torch.save
    'os.system': lambda folder, code: program(body(Call(os.system, touch(folder)))),
    'os.system renamed': lambda folder, code: program(b'cos\nsystem\n', body((touch(folder),)), b'R'),
    'subprocess': lambda folder, code: program(body(Call(subprocess.call, touch(folder).split()))),
    'exec': lambda folder, code: program(body(Call(exec, code))),
    'eval': lambda folder, code: program(body(Call(eval, f'exec({code!r})'))),
    'import': lambda folder, code: program(body(Call(Call(getattr, Call(__import__, 'os'), 'system'), touch(folder)))),
    'getattr chain': lambda folder, code: program(
        body(Call(Call(getattr, Call(getattr, getattr, '__self__'), 'exec'), code))
    ),
    'HistoryBuffer globals': lambda folder, code: program(
        body(Call(getattr, Call(getattr, HistoryBuffer, '__init__'), '__globals__'))
    ),
    'HistoryBuffer.__setstate__': history_buffer,
    'HistoryBuffer without arrays': lambda folder, code: built(HistoryBuffer, dict(_log_history=code)),
    'Config.fromstring': lambda folder, code: program(
        body(Call(Call(getattr, mmengine.Config, 'fromstring'), code, '.py'))
    ),
    'numpy.load': numpy_load,
    'numpy runstring': lambda folder, code: program(
        b'cnumpy.testing._private.utils\nrunstring\n', body((code, {})), b'R'
    ),
    'numpy object array': lambda folder, code: program(body(np.array([{}], dtype=object))),
    'numpy forged pointers': forged_array,
    'numpy array without bytes': lambda folder, code: program(array(body(np.dtype('f8')), body((2**40,)), b'N')),
    'numpy size 0, which crashes': lambda folder, code: program(
        array(body(Call(np.dtype, 'S0', False, True)), body((-1,)), body(b'A'))
    ),
    'tensor with attributes': lambda folder, code: program(
        body(Call(torch._tensor._rebuild_from_type_v2, torch.Size, torch.Size, ([1],), dict(copy_=1)))
    ),
    'attributes by names': lambda folder, code: program(b'cargparse\nNamespace\n)\x81', body(dict(__class__=1)), b'b'),
    'state of an allowed class': lambda folder, code: program(b'ctorch\nSize\n', body((None, dict(count=code))), b'b'),
    'torch.load': torch_load,
    'torch bytes': lambda folder, code: program(
        body(Call(torch.storage._load_from_bytes, program(body(Call(exec, code)))))
    ),
    'dall_e, unknown name': lambda folder, code: program(b'cdall_e.encoder\nsystem\n', body((code,)), b'R'),
    'dall_e, called': lambda folder, code: program(b'cdall_e.encoder\nEncoder\n', body((code,)), b'R'),
    'dall_e, dotted': lambda folder, code: program(b'cdall_e.utils\nos.system\n', body((touch(folder),)), b'R'),
    'dall_e, no module': lambda folder, code: program(
        b'cdall_e.encoder\nEncoder\n)\x81', body({'__reduce__': code, '_modules': 3}), b'b'
    ),
    'module among weights': lambda folder, code: program(
        b'}', body('state_dict'), b'ctorch.nn.modules.container\nSequential\n)\x81}bs'
    ),
}
OTHER_OPCODES = {  # that torch.save does not write
    'stack global': lambda folder, code: pickle.dumps(dict(weight=Call(os.system, touch(folder))), protocol=4),
    'instance': lambda folder, code: program(b'(', body(touch(folder)), b'ios\nsystem\n'),
    'object': lambda folder, code: program(b'(cos\nsystem\n', body(touch(folder)), b'o'),
    'new object': lambda folder, code: program(  # frozenset(map(exec, [code]))
        b'cbuiltins\nfrozenset\ncbuiltins\nmap\ncbuiltins\nexec\n', body([code]), b'\x86\x81\x85\x81'
    ),
    'new object with names': lambda folder, code: program(
        b'csubprocess\nPopen\n)', body(dict(args=touch(folder).split())), b'\x92'
    ),
    'dotted name': lambda folder, code: b'\x80\4\x8c\5numpy\x8c\x09os.system\x93' + body((touch(folder),)) + b'R.',
    'persistent id': lambda folder, code: program(b'Pos.system\n'),
    'state of a function': lambda folder, code: program(
        b'c_codecs\nencode\n', body((None, {'__code__': code, '__defaults__': (code,)})), b'b'
    ),
    'state of a class': lambda folder, code: program(b'cnumpy\ndtype\n', body(dict(build=code)), b'b'),
    'a function as a value': lambda folder, code: program(b'}', body('weight'), b'c_codecs\nencode\ns'),
    'codec': lambda folder, code: program(b'c_codecs\nencode\n', body((code, 'rot13')), b'R'),
    'tensor by eval': lambda folder, code: program(body(Call(eval, 'data', dict(data=np.ones(1))))),
    'nested key': lambda folder, code: program(b'})', b'\x85' * 200_000, b'K\1s'),  # overflows the stack of C
}


def leave_trace(folder: Path) -> str:
    """Python text that leaves a file `ran` when executed."""
    return f'open({str(folder / "ran")!r}, "w").close()'
