"""Forms of hostile weights files, each written by a function of a folder, and mutations of honest ones."""

import copyreg
import json
import os
import random
import sys
import zipfile
from argparse import Namespace
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path, PurePath

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from beit_mm.checkpoint.pickled_values import ALLOWED, CALLED, CONSTANTS, FINISHED, Limits, Named, Storage
from beit_mm.checkpoint.unpickling import Unpickler
from support.costly_weights import COSTLY
from support.payloads import ANYWHERE, body, leave_trace, OTHER_OPCODES, program, touch, write

Form = Callable[[Path], Path]

# Functions and classes that change a process or a disk, or make more of themselves.
_GLOBALS = """
    subprocess.Popen os.popen os.remove os.kill os._exit os.fork os.chdir os.putenv os.execv shutil.rmtree pty.spawn
    builtins.open builtins.compile builtins.setattr builtins.delattr builtins.globals builtins.vars builtins.type
    builtins.object builtins.__import__ builtins.exit builtins.input builtins.bytearray builtins.range builtins.list
    builtins.dict builtins.frozenset builtins.slice builtins.map sys.exit sys.setrecursionlimit sys.settrace
    importlib.import_module runpy.run_path code.InteractiveInterpreter webbrowser.open socket.create_connection
    urllib.request.urlopen ctypes.CDLL threading.Thread pickle.loads marshal.loads types.FunctionType types.CodeType
    functools.partial functools.reduce operator.attrgetter operator.methodcaller itertools.starmap itertools.repeat
    copyreg._reconstructor copyreg.__newobj__ copyreg.add_extension collections.defaultdict collections.deque
    torch.hub.load torch.jit.load torch.ops.load_library torch.utils.cpp_extension.load torch.set_default_dtype
    torch.serialization.add_safe_globals torch.zeros torch.manual_seed torch._utils._rebuild_wrapper_subclass
    torch._utils._rebuild_sparse_tensor torch._utils._rebuild_qtensor torch._utils._rebuild_nested_tensor
    torch._utils._rebuild_meta_tensor_no_storage torch._utils._rebuild_device_tensor_from_numpy
    torch._tensor._rebuild_from_type_v2 torch.nn.modules.module.Module torch.fx.graph_module.reduce_graph_module
    numpy.memmap numpy.zeros numpy.ctypeslib.load_library numpy.f2py.compile numpy._core.multiarray.fromfile
    mmengine.config.config.Config mmengine.fileio.io.load mmengine.registry.build_functions.build_from_cfg
    beit_mm.checkpoint.pickled_values.CALLED beit_mm.checkpoint.pickled_values.Named beit_mm.files.atomic_write
    pathlib.Path argparse.ArgumentParser argparse._sys.exit logging.config.dictConfig timeit.timeit pdb.run
    signal.signal resource.setrlimit warnings.simplefilter random.seed time.sleep gc.disable tempfile.mktemp
    torch.Tensor torch.Tensor.copy_ collections.OrderedDict.update torch.Size.__class__ numpy.dtype.__class__
""".split()


def _called(name: str) -> Callable[[Path], bytes]:
    module, _, function = name.rpartition('.')
    start = f'c{module}\n{function}\n'.encode()
    return lambda folder: program(b'}', body('weight'), start, body((touch(folder),)), b'Rs')


def _acted_upon(name: str, action: str) -> Callable[[Path], bytes]:
    """A name that may stand in a file, treated as if it were an object."""
    module, _, function = name.rpartition('.')
    start = f'c{module}\n{function}\n'.encode()
    odd = body(dict(__class__=1, __setstate__=2, copy_=3, dispatch={}, _statistics_methods={}))
    return lambda folder: program(
        b'}',
        body('weight'),
        start,
        dict(
            state=odd + b'b',
            made_and_state=b')\x81' + odd + b'b',
            called_without=b')R',
            called_with_itself=start + b'\x85R',
            called_with_much=body((2**31, -1, None, 'x' * 99, {}, [], 1.5)) + b'R',
            item=body(1) + body(2) + b's',
            appended=body(1) + b'a',
            twice=b')R)R',
        )[action],
        b's',
    )


_ACTIONS = 'state made_and_state called_without called_with_itself called_with_much item appended twice'.split()

_TENSORS: dict[str, dict] = dict(  # what is other than of one number, which the file holds
    outside=dict(size=(1000,)),
    far=dict(offset=2**40),
    before=dict(offset=-1),
    negative=dict(size=(-1,)),
    backwards=dict(size=(2,), stride=(-1,), count=2),
    expanded=dict(size=(2**20, 2**20), stride=(0, 0)),
    empty_but_huge=dict(size=(2**50, 0), stride=(1, 1)),
    overflow=dict(size=(2**62, 2**62), stride=(0, 0)),
    many_sides=dict(size=(1,) * 5000, stride=(1,) * 5000),
    fewer_strides=dict(size=(1, 1)),
    fractional=dict(size=(1.0,)),
    truth=dict(size=(True,)),
    text=dict(size='1'),
    none=dict(size=None),
    more_numbers=dict(count=10**9),
    fewer_numbers=dict(count=0),
    negative_count=dict(count=-1),
    another_part=dict(key='1'),
    a_path=dict(key='../data.pkl'),
    of_the_pickle=dict(key='../../archive/data.pkl'),
    on_meta=dict(device='meta'),
    nowhere=dict(device='nowhere:7'),
    no_device=dict(device=None),
    quantized=dict(storage='QInt8Storage'),
    a_function=dict(storage='load'),
    view=dict(view=('v', 0, 10**9)),
    view_before=dict(view=('v', -5, 3)),
    view_of_nothing=dict(view=7),
)


def _tensor_file(folder: Path, changes: dict) -> Path:
    values = dict(size=(1,), stride=(1,), offset=0, count=1, key='0', device='cpu', storage='FloatStorage', view=None)
    values.update(changes)
    storage = [body('storage'), f'ctorch\n{values["storage"]}\n'.encode()]
    storage += [body(values[name]) for name in ('key', 'device', 'count')]
    storage += [body(values['view'])] if values['view'] is not None else []
    content = [b'}', body('weight'), b'ctorch._utils\n_rebuild_tensor_v2\n(', b'(', *storage, b'tQ']
    content += [body(values[name]) for name in ('offset', 'size', 'stride')]
    content += [b'\x89ccollections\nOrderedDict\n)RtRs']
    path = write(folder, program(*content), 'zip')
    with zipfile.ZipFile(path, 'a') as archive:
        archive.writestr('archive/data/0', bytes(4))
    return path


def _zip(folder: Path, change: Callable[[zipfile.ZipFile], None], compression: int = zipfile.ZIP_STORED) -> Path:
    path = folder / 'evil.pth'
    with zipfile.ZipFile(path, 'w', compression) as archive:
        archive.writestr('archive/data.pkl', program(b'}'))
        archive.writestr('archive/data/0', bytes(1000))
        change(archive)
    return path


def _share(archive: zipfile.ZipFile) -> None:
    for number in range(1000):
        entry = zipfile.ZipInfo(f'archive/data/{number + 1}')
        last = archive.infolist()[1]
        entry.header_offset, entry.CRC, entry.file_size, entry.compress_size = last.header_offset, last.CRC, 1000, 1000
        archive.filelist.append(entry)


def _split(archive: zipfile.ZipFile) -> None:
    for number in range(1, 31_000):
        archive.writestr(f'archive/data/{number}', b'')


def _resize(archive: zipfile.ZipFile, size: int) -> None:
    entry = archive.infolist()[1]
    entry.file_size = entry.compress_size = size


def _set(name: str, value: object) -> Callable[[zipfile.ZipFile], None]:
    return lambda archive: setattr(archive.infolist()[1], name, value)


_ZIPS: dict[str, Form] = {
    'compressed': lambda folder: _zip(folder, lambda archive: None, zipfile.ZIP_DEFLATED),
    'compressed by bzip2': lambda folder: _zip(folder, lambda archive: None, zipfile.ZIP_BZIP2),
    'shared parts': lambda folder: _zip(folder, _share),
    'two parts of one name': lambda folder: _zip(folder, lambda archive: archive.writestr('archive/data.pkl', b'N.')),
    'a part that is too long': lambda folder: _zip(folder, lambda archive: _resize(archive, 2**31)),
    'another checksum': lambda folder: _zip(folder, _set('CRC', 1)),
    'an unknown method': lambda folder: _zip(folder, _set('compress_type', 99)),
    'encrypted': lambda folder: _zip(folder, _set('flag_bits', 1)),
    'a start beyond the end': lambda folder: _zip(folder, _set('header_offset', 2**31)),
    'another name': lambda folder: _zip(folder, _set('filename', 'archive/data.pkl')),
    'another order': lambda folder: _zip(folder, lambda archive: archive.writestr('archive/byteorder', b'middle')),
    'no pickle': lambda folder: _zip(folder, lambda archive: archive.filelist.pop(0)),
    'no parts': lambda folder: _zip(folder, lambda archive: archive.filelist.clear()),
    'many parts': lambda folder: _zip(
        folder, lambda a: [a.writestr(f'archive/data/{n}', b'') for n in range(1, 31_000)]
    ),
}


def _safetensors(folder: Path, header: object, size: int | None = None, data: bytes = bytes(4)) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / 'evil.safetensors'
    path.write_bytes((len(text) if size is None else size).to_bytes(8, 'little') + text + data)
    return path


_ONE = dict(dtype='F32', shape=[1], data_offsets=[0, 4])
_HEADERS: dict[str, tuple] = {
    'no header': (b'',),
    'a list': ([],),
    'a longer header': ({}, 2**40),
    'a header without end': (b'{"a":' * 100_000,),
    'outside': (dict(a=dict(_ONE, data_offsets=[0, 400])),),
    'backwards': (dict(a=dict(_ONE, data_offsets=[4, 0])),),
    'negative': (dict(a=dict(_ONE, data_offsets=[-4, 0])),),
    'overlapping': (dict(a=_ONE, b=_ONE),),
    'another size': (dict(a=dict(_ONE, shape=[2])),),
    'overflowing': (dict(a=dict(_ONE, shape=[2**32, 2**32])),),
    'empty but huge': (dict(a=dict(_ONE, shape=[2**50, 0], data_offsets=[0, 0])), None, b''),
    'an unknown type': (dict(a=dict(_ONE, dtype='F31')),),
    'no type': (dict(a=dict(shape=[1], data_offsets=[0, 4])),),
    'half a character': (b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',),
    'the same name twice': (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":3}',),
    'many tensors': ({f'{n}': dict(dtype='F32', shape=[0], data_offsets=[0, 0]) for n in range(31_000)}, None, b''),
    'many trunks': ({f'{n}.blocks.0.attn.qkv.weight': dict(_ONE, shape=[0], data_offsets=[0, 0]) for n in range(4000)},)
    + (None, b''),
    'many blocks': ({f'blocks.{n}.attn.qkv.weight': dict(_ONE, shape=[0], data_offsets=[0, 0]) for n in range(20_000)},)
    + (None, b''),
}


def _often(start: bytes, part: bytes, number: int = 9999) -> bytes:
    """A value that other values are made of, many times."""
    return program(b'}', body('a'), start, b'q\xf0(', part * number, b'ts')


_PICKLES: dict[str, bytes] = {  # that take time or memory
    'nested tuples': program(b'}', body('a'), b')', b'\x85' * 300_000, b's'),
    'nested lists': program(b'}', body('a'), b']' * 300_000, b'a' * 299_999, b's'),
    'nested key': program(b'})', b'\x85' * 300_000, b'K\1s'),
    'nested calls': program(b'}', body('a'), b'cnumpy\ndtype\nq\0', b'h\0' * 100_000, b')R', b'\x85R' * 100_000, b's'),
    'a list in itself': program(b'}', body('a'), b']q\0h\0as'),
    'a list in itself twice': program(b'}', body('a'), b']q\0(h\0h\0es'),
    'a dict in itself': program(b'}q\0', body('a'), b'h\0s'),
    'two lists in each other': program(b'}', body('a'), b']q\0]q\1h\0ah\0h\1a0s'),
    'shared for ever': program(b'}', body('a'), b')', b'q\0h\0\x86' * 60, b's'),
    'a shared key for ever': program(b'})', b'q\0h\0\x86' * 60, b'K\1s'),
    'many empty tuples': program(b'}', body('a'), b'(', b')' * 1_100_000, b'ts'),
    'many marks': program(b'(' * 1_100_000),
    'numbers of one hash': program(
        b'}(', *(b'\x8a\x0b%sN' % ((2**61 - 1) * n).to_bytes(11, 'little') for n in range(1, 9999)), b'u'
    ),
    'tuples of one hash': program(b'}(', *(body((n,)) + b'N' for n in range(2000)), b'u'),
    'a long memo': program(b'}r\xff\xff\xff\xff'),
    'a frame of a terabyte': program(b'\x95\0\0\0\0\0\1\0\0}'),
    'bytes of a terabyte': program(b'}\x8e\0\0\0\0\0\1\0\0'),
    'a text of a terabyte': program(b'}\x8d\0\0\0\0\0\1\0\0'),
    'text used often': _often(body('a' * 2**18), b'c_codecs\nencode\nh\xf0' + body('latin1') + b'\x86R'),
    'a list used often': _often(body([None] * 99_999), b'cbuiltins\ntuple\nh\xf0\x85R'),
    'settings used often': _often(body({str(n): n for n in range(9999)}), b'cargparse\nNamespace\n)\x81h\xf0b'),
    'no stop': program(b'}')[:-1],
    'an empty stack': b'\x80\2.',
    'a name of a megabyte': program(b'c', b'a' * 2**20, b'\nb\n'),
    'a name with an escape': program(b'c\x1b[2J\nb\n'),
    'half a character as a name': program(b'}X\3\0\0\0\xed\xa0\x80K\1s'),
}

_JSON: dict[str, tuple[str, bytes]] = {
    'an index of numbers': ('model.safetensors.index.json', b'{"weight_map": {"a": 3}}'),
    'an index of another folder': ('model.safetensors.index.json', b'{"weight_map": {"a": "../evil.safetensors"}}'),
    'an index of itself': ('model.safetensors.index.json', b'{"weight_map": {"a": "model.safetensors.index.json"}}'),
    'an index of much': ('model.safetensors.index.json', b'[' * 200_000),
    'an index of digits': ('pytorch_model.bin.index.json', b'{"weight_map": ' + b'9' * 100_000 + b'}'),
    'an index of lists': ('pytorch_model.bin.index.json', b'{"weight_map": [1]}'),
    'no JSON': ('pytorch_model.bin.index.json', bytes(1000)),
}


def _json(folder: Path, name: str, text: bytes) -> Path:
    (folder / name).write_bytes(text)
    return folder


def _folder(content: bytes) -> Form:
    return lambda folder: write(folder, content, 'pdparams')


EXECUTING: dict[str, Callable[[Path], bytes]] = {  # pickles that every reader must refuse
    **{f'{name}, called': _called(name) for name in _GLOBALS},
    **{
        name: lambda folder, pickled=pickled: pickled(folder, leave_trace(folder))
        for name, pickled in {**ANYWHERE, **OTHER_OPCODES}.items()
    },
}
FORMS: dict[str, Form] = {
    **{name: lambda folder, p=pickled: write(folder, p(folder), 'pdparams') for name, pickled in EXECUTING.items()},
    **{
        f'{name}, {action}': lambda folder, p=_acted_upon(name, action): write(folder, p(folder), 'zip')
        for name in sorted(ALLOWED)
        for action in _ACTIONS
    },
    **{f'tensor {name}': lambda folder, c=changes: _tensor_file(folder, c) for name, changes in _TENSORS.items()},
    **{f'zip, {name}': form for name, form in _ZIPS.items()},
    **{f'safetensors, {name}': lambda folder, h=header: _safetensors(folder, *h) for name, header in _HEADERS.items()},
    **{f'pickle, {name}': _folder(content) for name, content in _PICKLES.items()},
    **{f'JSON, {name}': lambda folder, j=file: _json(folder, *j) for name, file in _JSON.items()},
    **COSTLY,
}


def state_of_process() -> dict:
    """What a file could change."""
    classes = (torch.Tensor, torch.nn.Parameter, torch.Size, OrderedDict, Counter, Namespace, HistoryBuffer, PurePath)
    return dict(
        classes=[dict(vars(cls)) for cls in (*classes, np.ndarray, Limits, Named, Storage, Unpickler)],
        tables=[dict(CALLED), dict(CONSTANTS), dict(FINISHED), set(ALLOWED), dict(Unpickler.dispatch)],
        statistics=dict(HistoryBuffer._statistics_methods),
        safe=set(torch.serialization.get_safe_globals()),
        registries=[dict(copyreg.dispatch_table), dict(copyreg._extension_registry)],  # type: ignore[attr-defined]
        process=[os.getcwd(), dict(os.environ), list(sys.path), sys.getrecursionlimit(), torch.get_default_dtype()],
        random=[random.getstate(), torch.get_rng_state().numpy().tobytes()],
    )
