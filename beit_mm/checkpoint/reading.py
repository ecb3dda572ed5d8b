"""Reads a checkpoint file without executing anything in it, whoever asks MMEngine for it.

A pickle may name only what stands in ``_ALLOWED``. Stand-ins take the states of MMEngine's and NumPy's classes, which
would call what a file plants in them or take its bytes for pointers; ``_settle`` replaces them by what was built.
"""
import argparse
import re
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine import dist, fileio
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from mmengine.runner import CheckpointLoader, checkpoint as host
from safetensors.torch import load_file


class _Dtype:
    def __init__(self, text, *_):
        if not re.fullmatch(r'[biufcSU]\d{1,6}', text):  # no objects, no records
            raise ValueError(f'NumPy arrays must hold numbers or strings, got type {text!r}')
        self.numpy = np.dtype(text)

    def __setstate__(self, state):
        self.numpy = self.numpy.newbyteorder(state[1])  # the rest of the state (fields, flags) is not honoured

    def build(self, shape, data, order='C'):
        return np.ndarray(shape, self.numpy, data, order=order).copy(order='K')  # too few bytes raise


class _Array:
    def __setstate__(self, state):
        _, shape, dtype, is_fortran, data = state
        self.real = dtype.build(shape, data, 'F' if is_fortran else 'C')


class _History:
    def __setstate__(self, state):
        logs, counts = state['_log_history'].real, state['_count_history'].real
        self.real = HistoryBuffer(logs, counts, int(state['max_length']))  # its methods are not taken from the file


class _Module:
    def __setstate__(self, state):
        self.state = state


_Encoder, _Decoder = (type('_Half', (_Module, ), {'prefix': prefix}) for prefix in ('encoder.', 'decoder.'))
_OneCycle = type('_OneCycle', (), {})
_FUNCTIONS = {  # that honest states carry: a buffer's statistics (_History drops them), a schedule's curve (arithmetic)
    _History: (HistoryBuffer, 'min', 'max', 'current', 'mean'),
    _OneCycle: (OneCycleParamScheduler, '_annealing_cos', '_annealing_linear')}  # yapf: disable


def _getattr(owner, name):
    real, *names = _FUNCTIONS.get(owner, (None, ))
    if name not in names:
        raise ValueError(f'a pickle may take no attribute {name!r} of {owner}')
    return getattr(real, name)


_ALLOWED = {
    'builtins.getattr': _getattr, 'builtins.bytes': lambda: b'',  # how protocol 2 writes an empty array
    'argparse.Namespace': argparse.Namespace,  # the arguments in BEiT's, MAE's and timm's checkpoints
    'mmengine.config.config.ConfigDict': dict,  # in a data set's metainfo
    'mmengine.logging.history_buffer.HistoryBuffer': _History,
    'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler': _OneCycle,
    'numpy.dtype': _Dtype, 'numpy.ndarray': _Array,
    **dict.fromkeys(('numpy.core.multiarray._reconstruct', 'numpy._core.multiarray._reconstruct'), lambda *_: _Array()),
    **dict.fromkeys(('numpy.core.multiarray.scalar', 'numpy._core.multiarray.scalar'),
                    lambda dtype, data: dtype.build((), data)[()]),
    'dall_e.encoder.Encoder': _Encoder, 'dall_e.decoder.Decoder': _Decoder,
    **dict.fromkeys(('dall_e.encoder.EncoderBlock', 'dall_e.decoder.DecoderBlock', 'dall_e.utils.Conv2d',
                     'torch.nn.modules.container.Sequential', 'torch.nn.modules.activation.ReLU',
                     'torch.nn.modules.linear.Identity', 'torch.nn.modules.pooling.MaxPool2d',
                     'torch.nn.modules.upsampling.Upsample'), _Module),
}  # yapf: disable


@contextmanager
def _only_allowed():
    # torch's allow-list is global and other libraries add to it, even `getattr`: ours alone holds while we read
    others = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([(stand_in, name) for name, stand_in in _ALLOWED.items()])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(others)


def _settle(value, settled):
    """Put real objects in the place of stand-ins, inside dicts, lists and tuples; ``settled`` holds results by id."""
    if id(value) in settled:
        return settled[id(value)]
    settled[id(value)] = value
    if isinstance(value, (dict, list)):  # in place; any attribute but a state dict's _metadata could hide a method
        for name in set(getattr(value, '__dict__', ())) - {'_metadata'}:
            del value.__dict__[name]
        for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
            value[key] = _settle(item, settled)
    elif type(value) is tuple:
        settled[id(value)] = tuple(_settle(item, settled) for item in value)
    elif isinstance(value, (_Array, _History)):
        settled[id(value)] = value.real
    elif isinstance(value, _Module):
        raise ValueError('a pickled module in the place of weights')
    return settled[id(value)]


def _state_dict(module, prefix):
    named = {**module.state['_parameters'], **module.state['_buffers']}.items()
    weights = {prefix + name: torch.Tensor.detach(tensor) for name, tensor in named if tensor is not None}
    for name, child in module.state['_modules'].items():
        weights.update(_state_dict(child, f'{prefix}{name}.'))
    return weights


def _unpickle(path, map_location):
    with _only_allowed():
        content = torch.load(path, map_location=map_location, weights_only=True)
    if isinstance(content, (_Encoder, _Decoder)):
        sizes = {name: value for name, value in content.state.items() if type(value) is int}
        content = dict(state_dict=_state_dict(content, content.prefix), meta=sizes)
    content = _settle(content, {})
    if not isinstance(content, dict):
        raise ValueError(f'a {type(content).__name__} in the place of a dict')
    # Runner.resume executes the text `config`, inferencers without a config the texts `cfg`; resuming needs neither
    for record in content.get('meta'), content.get('message_hub', {}).get('runtime_info'):
        for key in ('config', 'cfg') if isinstance(record, dict) else ():
            record.pop(key, None)
    return content


def read_checkpoint(path, map_location='cpu') -> dict:
    """Read a weights file: safetensors (by its suffix), OpenAI's pickled tokenizer halves, or what torch.save wrote.

    ``map_location`` is torch.load's; None means the CPU, and so do dicts and functions with a safetensors file.

    Returns:
        What the file holds, less the config texts that MMEngine would execute. OpenAI's (github.com/openai/DALL-E)
        become ``{'state_dict': {'encoder.blocks.input.w': ...}, 'meta': {'n_hid': 256, ...}}``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, of another kind, or names a global that is not allowed.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f'a checkpoint file was expected, got {path}, which is not a file')
    try:
        if path.suffix == '.safetensors':
            return load_file(path, str(map_location) if isinstance(map_location, (str, torch.device)) else 'cpu')
        return _unpickle(path, 'cpu' if map_location is None else map_location)
    except Exception as error:  # a damaged file raises almost anything: KeyError, struct.error, even OSError
        refused = re.search(r'GLOBAL (\S+) (?:was not|whose)', str(error))
        reason = re.split(r'\n|\. ', str(error).rpartition('WeightsUnpickler error: ')[2].strip())[0]
        found = f'global {refused[1]}' if refused else f'{path.stat().st_size} bytes ({type(error).__name__}: {reason})'
        raise ValueError(f'{path} must be a complete checkpoint of weights or of a run, got {found}') from error


def _download(url):
    """MMEngine's order (rank 0 first) and torch.hub's cache, without reading the file."""
    path = Path(torch.hub.get_dir(), 'checkpoints', Path(urlparse(url).path).name)
    path.parent.mkdir(parents=True, exist_ok=True)
    for everyone in (False, True):
        if (everyone or dist.is_main_process()) and not path.exists():
            torch.hub.download_url_to_file(url, str(path))
        dist.barrier()
    return path


def load_from_anywhere(filename, map_location=None):
    """MMEngine's loaders for all of its schemes in one: finds the file and leaves reading it to ``read_checkpoint``."""
    scheme, _, name = filename.partition('://')
    if not name or scheme == 'file':
        return read_checkpoint(name or filename, map_location)
    if scheme in ('http', 'https'):
        return read_checkpoint(_download(filename), map_location)
    if scheme.endswith(('s3', 'petrel')):
        with fileio.get_local_path(filename, backend_args=dict(backend='petrel')) as path:
            return read_checkpoint(path, map_location)
    if scheme in ('torchvision', 'modelzoo'):
        return load_from_anywhere(host.get_torchvision_models()[name], map_location)
    if scheme in ('open-mmlab', 'openmmlab'):
        url = host.get_external_models()[host.get_deprecated_model_names().get(name, name)]
        return load_from_anywhere(url if '://' in url else f'{host._get_mmengine_home()}/{url}', map_location)
    if scheme == 'mmcls':
        return host._process_mmcls_checkpoint(load_from_anywhere(host.get_mmcls_models()[name], map_location))
    raise ValueError(f'a checkpoint must be a local path or a scheme that can be read safely, got {filename}')


for _prefix, _loader in list(CheckpointLoader._schemes.items()):
    if _loader.__module__ == host.__name__:  # a scheme that another package registered is that package's
        CheckpointLoader.register_scheme(_prefix, load_from_anywhere, force=True)
