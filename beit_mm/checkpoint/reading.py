"""Reads a checkpoint file or folder without executing anything in it.

A pickle may name only what stands in stand_ins.py, and in paddle.py for Paddle's.
"""

import json
import os
import re
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file

from .checksums import split_checksum, verify_parts, verify_sha256
from .paddle import read_paddle
from .stand_ins import ALLOWED, HALVES, module_weights, settle

# Of a Hugging Face model folder, in the order in which their library looks for them.
_FOLDER_FILES = (
    'model.safetensors',
    'model.safetensors.index.json',
    'pytorch_model.bin',
    'pytorch_model.bin.index.json',
)


@contextmanager
def _only_allowed():
    # torch's allow-list is global and other libraries add to it, even `getattr`: ours alone holds while we read
    others = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([(stand_in, name) for name, stand_in in ALLOWED.items()])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(others)


def _unpickle(path, map_location):
    verify_parts(path)
    with _only_allowed():
        content = torch.load(path, map_location=map_location, weights_only=True)
    if isinstance(content, HALVES):
        sizes = {name: value for name, value in content.state.items() if type(value) is int}
        content = dict(state_dict=module_weights(content, content.prefix), meta=sizes)
    return settle(content)


def _drop_config_texts(content):
    # Runner.resume executes the text `config`, inferencers without a config the texts `cfg`; resuming needs neither
    hub = content.get('message_hub')
    for record in content.get('meta'), hub.get('runtime_info') if isinstance(hub, dict) else None:
        for key in ('config', 'cfg') if isinstance(record, dict) else ():
            record.pop(key, None)


def _is_safetensors(path):
    with path.open('rb') as file:
        head = file.read(9)  # the length of a JSON object, then the object
    return path.suffix == '.safetensors' or (head[8:] == b'{' and int.from_bytes(head[:8], 'little') < 1 << 32)


def _read_file(path, map_location='cpu', sha256=None):
    if not path.is_file():
        raise FileNotFoundError(f'a checkpoint file was expected, got {path}, which is not a file')
    if sha256:
        verify_sha256(path, sha256)
    device = map_location if isinstance(map_location, (str, torch.device)) else 'cpu'
    try:
        if _is_safetensors(path):
            return load_file(path, str(device))
        content = (
            read_paddle(path, device)
            if path.suffix == '.pdparams'
            else _unpickle(path, 'cpu' if map_location is None else map_location)
        )
        if not isinstance(content, dict):
            raise ValueError(f'a {type(content).__name__} in the place of a dict')
        _drop_config_texts(content)
        return content
    except Exception as error:  # a damaged file raises almost anything: KeyError, struct.error, even OSError
        refused = re.search(r'GLOBAL (\S+) (?:was not|whose)', str(error))
        reason = re.split(r'\n|\. ', str(error).rpartition('WeightsUnpickler error: ')[2].strip())[0]
        reason = f'{type(error).__name__}: {reason}' if reason else type(error).__name__
        found = f'global {refused[1]}' if refused else f'{path.stat().st_size} bytes ({reason})'
        raise ValueError(f'{path} must be a complete checkpoint of weights or of a run, got {found}') from error


def _read_json(path):
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} must be JSON, got {type(error).__name__}: {error}') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} must hold a JSON object, got a {type(content).__name__}')
    return content


def _read_shards(index, map_location):
    shards = _read_json(index).get('weight_map')
    if not isinstance(shards, dict):
        raise ValueError(f'{index} must map names of weights to files under "weight_map", got no such object')
    for shard in shards.values():
        if not isinstance(shard, str) or not re.fullmatch(r'\w[\w.-]*', shard):  # nothing outside the folder
            raise ValueError(f'{index} must name files of its own folder, got {shard!r}')
    weights = {}
    for shard in sorted(set(shards.values())):
        content = _read_file(index.parent / shard, map_location)
        for name in (name for name, file in shards.items() if file == shard):
            if name not in content:
                raise ValueError(f'{index.parent / shard} must hold {name!r} as {index.name} says, got no such weight')
            weights[name] = content[name]
    return weights


def find_weights(path: Path) -> Path | None:
    """The file itself, or the one of a Hugging Face model folder that leads to its weights; None if there is none."""
    candidates = [path / name for name in _FOLDER_FILES] if path.is_dir() else [path]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _read_folder(folder, map_location):
    path = find_weights(folder)
    if path is None:
        raise FileNotFoundError(f'a checkpoint folder must hold {" or ".join(_FOLDER_FILES)}, got {folder} without any')
    weights = _read_shards(path, map_location) if path.suffix == '.json' else _read_file(path, map_location)
    config = folder / 'config.json'
    return dict(state_dict=weights, meta=dict(hf_config=_read_json(config))) if config.is_file() else weights


def read_checkpoint(path: str, map_location='cpu', sha256: str | None = None) -> dict:
    """Read weights: safetensors, Paddle's `.pdparams`, OpenAI's pickled tokenizer halves, what torch.save wrote, or a
    Hugging Face model folder.

    Args:
        path: file or folder; a file's may end in `#sha256=HEX`.
        map_location: torch.load's; None means the CPU, and so do dicts and functions with safetensors and Paddle.
        sha256: checksum that the file must have, 64 hexadecimal digits in lower case.

    Returns:
        What the file holds, less the config texts that MMEngine would execute. OpenAI's (github.com/openai/DALL-E)
        become ``{'state_dict': {'encoder.blocks.input.w': ...}, 'meta': {'n_hid': 256, ...}}``; folders with a
        config.json ``{'state_dict': ..., 'meta': {'hf_config': ...}}``.

    Raises:
        FileNotFoundError: If there is no such file, or the folder holds no weights.
        ValueError: If the file is damaged, of another kind, or names a global that is not allowed.
    """
    address, named = split_checksum(os.fspath(path))
    path, sha256 = Path(address).expanduser(), sha256 or named
    if not path.is_dir():
        return _read_file(path, map_location, sha256)
    if sha256 is not None:
        raise ValueError(f'a checksum must go with a file, got the folder {path}')
    return _read_folder(path, map_location)
