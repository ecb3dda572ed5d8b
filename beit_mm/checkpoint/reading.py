"""Reads a checkpoint file or folder without executing anything in it: one reader for every format."""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from beit_mm.errors import UserError
from beit_mm.text import show, show_start

from .pickled_values import DALLE_MODULES, finish, Limits, Named
from .torch_files import map_file, MAX_PARTS, unpickle_legacy, unpickle_zip, verify_parts
from .unpickling import NotAllowed, Unpickler

MapLocation = str | torch.device | dict | Callable | None
# Of a Hugging Face model folder, in the order in which their library looks for them.
_FOLDER_FILES = (
    'model.safetensors',
    'model.safetensors.index.json',
    'pytorch_model.bin',
    'pytorch_model.bin.index.json',
)
MAX_NAMED = 5  # files of a folder in a sentence
_SUFFIXES = ('.pth', '.pt', '.bin', '.ckpt', '.pkl', '.safetensors', '.pdparams', '.json')


class ChecksumMismatch(UserError):
    """A file is damaged, or is another one than was meant."""


def read_checkpoint(path: str | os.PathLike, map_location: MapLocation = 'cpu', sha256: str | None = None) -> dict:
    """Read weights: safetensors, Paddle's `.pdparams`, OpenAI's pickled tokenizer, any file of torch.save, or a Hugging
    Face model folder.

    Args:
        path: file or folder; the path of a file may end in `#sha256=HEX`.
        map_location: torch.load's; None means the CPU, and so do dicts and functions with safetensors and Paddle.
        sha256: checksum that the file must have: its 64 hexadecimal digits in lower case, or the first ones.

    Returns:
        What the file holds, without the config texts that MMEngine would execute. OpenAI's (github.com/openai/DALL-E)
        become ``{'state_dict': {'encoder.blocks.input.w': ...}, 'meta': {'n_hid': 256, ...}}``; folders with a
        config.json ``{'state_dict': ..., 'meta': {'hf_config': ...}}``.

    Raises:
        FileNotFoundError: If there is no such file, or the folder holds no weights.
        UserError: If the file is damaged, in an unknown format, or names a global that is not allowed.
    """
    address, own_sha256 = split_checksum(os.fspath(path))
    if not address:
        raise UserError('a checkpoint must be named, got an empty text')
    path, sha256 = Path(address).expanduser(), sha256 or own_sha256
    is_index = path.name in _FOLDER_FILES and path.suffix == '.json'
    if not path.is_dir() and not is_index:
        return _read_file(path, map_location, sha256)
    if sha256 is not None:
        raise UserError(f'a checksum must go with a file of weights, got {path}, which names several')
    file, folder = (path, path.parent) if is_index else (find_weights(path), path)
    if file is None:
        names = ' or '.join(_FOLDER_FILES)
        raise FileNotFoundError(f'a checkpoint folder must hold {names}, got {path} without any{hint_at_weights(path)}')
    weights = _read_shards(file, map_location) if file.suffix == '.json' else _read_file(file, map_location)
    return add_config(weights, folder)


def add_config(weights: dict, folder: Path) -> dict:
    """Add the config.json of a Hugging Face model folder to its weights, and the classes' names, as meta data."""
    if not (folder / 'config.json').is_file():
        return weights
    config = _read_json(folder / 'config.json')
    classes = _names_of_classes(config)
    return dict(state_dict=weights, meta=dict(hf_config=config, **(classes and dict(dataset_meta=classes))))


def split_checksum(address: str) -> tuple[str, str | None]:
    """Split a path or address that may end in `#sha256=HEX`.

    Returns:
        The address without the checksum, and its 64 digits in lower case, or None.

    Raises:
        UserError: If it does not consist of 64 hexadecimal digits, or is in the query of an address.
    """
    plain, mark, digest = address.partition('#sha256=')
    if re.search(r'[?&]sha256=', plain):
        raise UserError(f'a checksum must be written as #sha256=HEX at the end of a checkpoint, got {address}')
    if not mark:
        return address, None
    if not re.fullmatch(r'[0-9a-fA-F]{64}', digest):
        raise UserError(f'#sha256= at the end of a checkpoint must give 64 hexadecimal digits, got {digest[:80]!r}')
    return plain, digest.lower()


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, 64 hexadecimal digits in lower case."""
    sha256 = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(1 << 20):
            sha256.update(chunk)
    return sha256.hexdigest()


def find_weights(path: Path) -> Path | None:
    """The file itself, or the one of a Hugging Face model folder that leads to its weights; None if there is none."""
    candidates = [path / name for name in _FOLDER_FILES] if path.is_dir() else [path]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def read_names(path: Path) -> set[str]:
    """Names of the tensors in a file of safetensors or of torch.save's zip format, without reading the tensors. Other
    formats and damaged files raise an exception of any type.
    """
    if path.suffix == '.safetensors':
        with safe_open(path, 'pt') as file:
            return set(file.keys())
    limits = Limits(path.stat().st_size)
    content = finish(unpickle_zip(path, 'meta', limits), limits)
    groups = [group for group in (content, *content.values()) if isinstance(group, dict)]  # such as `state_dict`
    return {str(name) for group in groups for name, value in group.items() if isinstance(value, Tensor)}


def _read_file(path: Path, map_location: MapLocation, sha256: str | None = None) -> dict:
    if not path.is_file():
        hint = hint_at_weights(path)
        raise FileNotFoundError(f'a checkpoint file was expected, got {path}, which is not a file{hint}')
    if sha256 and not (digest := sha256_of(path)).startswith(sha256):
        raise ChecksumMismatch(f'{path} must have the SHA-256 {sha256}, got {digest}')
    device = map_location if isinstance(map_location, (str, torch.device)) else 'cpu'
    try:
        if _is_safetensors(path):
            return _read_safetensors(path, str(device))
        content = _read_paddle(path, device) if path.suffix == '.pdparams' else _read_torch(path, map_location or 'cpu')
        if not isinstance(content, dict):
            raise ValueError(f'a {type(content).__name__} instead of a dict')
    except Exception as error:  # a damaged file raises almost anything: KeyError, struct.error, even OSError
        reason = show_start(re.split(r'\n|\. ', str(error).strip())[0])
        if not isinstance(error, NotAllowed):
            name = type(error).__name__
            reason = f'{path.stat().st_size} bytes ({f"{name}: {reason}" if reason else name})'
        raise UserError(f'{path} must be a complete checkpoint of weights or of a run, got {reason}') from error
    # Runner.resume executes the text `config`, inferencers without a config the texts `cfg`; resuming needs neither.
    hub = content.get('message_hub')
    for record in (content.get('meta'), hub.get('runtime_info') if isinstance(hub, dict) else None):
        if isinstance(record, dict):
            record.pop('config', None)
            record.pop('cfg', None)
    _check_meta(path, content.get('meta'))
    return content


def _check_meta(path: Path, meta: Any) -> None:
    """Refuse what runners and inferencers of the hosts would stumble over; other keys are nobody's."""

    def check(name: str, value: Any, expected: str, *types: type) -> None:
        if value is not None and not isinstance(value, types):
            raise UserError(
                f'{path}: {name} must be {expected}, got {show_start(value)} of type {type(value).__name__}'
            )

    if isinstance(meta, Tensor):  # a weight of this name
        return
    check('meta', meta, 'a dict', dict)
    meta = meta or {}
    for name in ('epoch', 'iter'):
        check(f'meta.{name}', meta.get(name), 'a number', int)
    data = meta.get('dataset_meta')
    check('meta.dataset_meta', data, 'a dict', dict)
    for name, classes in (('CLASSES', meta.get('CLASSES')), ('dataset_meta.classes', (data or {}).get('classes'))):
        check(f'meta.{name}', classes, 'a list of names', list, tuple)
        for number, text in enumerate(classes or ()):
            check(f'meta.{name}[{number}]', text, 'a name', str)
    for name, colours in (('PALETTE', meta.get('PALETTE')), ('dataset_meta.palette', (data or {}).get('palette'))):
        check(f'meta.{name}', colours, 'a list of colours', list, tuple, np.ndarray, str)  # a text is the name of one
        for number, colour in enumerate(colours if isinstance(colours, (list, tuple)) else ()):
            check(f'meta.{name}[{number}]', colour, 'three numbers', list, tuple, np.ndarray)


def _is_safetensors(path: Path) -> bool:
    with path.open('rb') as file:
        head = file.read(9)  # the length of a JSON object, then the object
    return path.suffix == '.safetensors' or (head[8:] == b'{' and int.from_bytes(head[:8], 'little') < 1 << 32)


def hint_at_weights(address: object) -> str:
    """What to do with the folder of a run, or with the name of a model on the Hugging Face Hub; empty if it is none."""
    if os.path.isdir(str(address)):
        held = sorted(path.name for path in Path(str(address)).glob('*.pth'))
        return f'; name a file in it: {", ".join(map(show, held[:MAX_NAMED]))}' if held else ''
    if not re.fullmatch(r'[\w-]+/[\w.-]+', str(address)) or str(address).endswith(_SUFFIXES):
        return ''
    return f'; for a model of the Hugging Face Hub, write hf-hub:{address}'


def _names_of_classes(config: dict) -> dict:
    """`classes` of transformers' configuration; empty if they have no names."""
    names = config.get('id2label')
    names = names if isinstance(names, dict) else {}
    classes = [names.get(str(index)) for index in range(len(names))]
    is_named = all(isinstance(name, str) and name != f'LABEL_{index}' for index, name in enumerate(classes))
    return dict(classes=classes) if classes and is_named else {}


def _read_safetensors(path: Path, device: str) -> dict[str, Tensor]:
    limits = Limits(path.stat().st_size)
    with safe_open(path, 'pt', device) as file:
        names = file.offset_keys()
        if len(names) > MAX_PARTS:
            raise ValueError(f'{len(names):,} tensors, more than {MAX_PARTS:,}')
        for name in names:
            limits.add(math.prod(max(side, 1) for side in file.get_slice(name).get_shape()))
        return {name: file.get_tensor(name) for name in names}


def _read_torch(path: Path, map_location: MapLocation) -> Any:
    limits = Limits(path.stat().st_size)
    unpickle = unpickle_zip if verify_parts(path) else unpickle_legacy
    content = unpickle(path, map_location, limits)
    if isinstance(content, Named) and content.name in DALLE_MODULES:
        sizes = {name: value for name, value in content.state.items() if type(name) is str and type(value) is int}
        return dict(state_dict=_module_weights(content, DALLE_MODULES[content.name], limits), meta=sizes)
    return finish(content, limits)


def _module_weights(module: Named, prefix: str, limits: Limits) -> dict[str, Tensor]:
    """Name to tensor of a pickled module, its children included."""
    tensors = {**module.state['_parameters'], **module.state['_buffers']}
    limits.add(1000 + (100 + len(prefix)) * (1 + len(tensors)))  # a file may name a module any number of times
    weights = {prefix + name: tensor.detach() for name, tensor in tensors.items() if tensor is not None}
    for name, child in module.state['_modules'].items():
        weights.update(_module_weights(child, f'{prefix}{name}.', limits))
    return weights


def _read_paddle(path: Path, device: str | torch.device) -> Any:
    """What paddle.save wrote (see its python/paddle/framework/io.py): a pickle of names and NumPy arrays.

    Linear weights stay (in, out), as Paddle has them.
    """
    limits = Limits(path.stat().st_size)
    with map_file(path) as content:
        if content[:2] not in (b'\x80\2', b'\x80\3', b'\x80\4'):
            raise ValueError('no pickle of protocol 2, 3 or 4')
        return finish(Unpickler(content, limits).load(), limits, device)


def _read_shards(index: Path, map_location: MapLocation) -> dict:
    shards = _read_json(index).get('weight_map')
    if not isinstance(shards, dict):
        raise UserError(f'{index} must map names of weights to files under "weight_map", got no such object')
    for shard in shards.values():
        if not isinstance(shard, str) or not re.fullmatch(r'\w[\w.-]*', shard):  # nothing outside the folder
            raise UserError(f'{index} must name files of its own folder, got {shard!r}')
    contents = {shard: _read_file(index.parent / shard, map_location) for shard in sorted(set(shards.values()))}
    for name, shard in shards.items():
        if name not in contents[shard]:
            raise UserError(f'{index.parent / shard} must hold {name!r} as {index.name} says, got no such weight')
    return {name: contents[shard][name] for name, shard in shards.items()}


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path} must be JSON, got {type(error).__name__}: {error}') from error
    if not isinstance(content, dict):
        raise UserError(f'{path} must hold a JSON object, got a {type(content).__name__}')
    return content
