"""Finds weights wherever MMEngine would, and reads them with our reader.

On import, all of MMEngine's schemes are registered anew: runners, the hosts' tools and inferencers then read with it,
too, whatever model they load.
"""

import logging
from collections import OrderedDict

from mmengine import fileio
from mmengine.logging import print_log
from mmengine.runner import checkpoint as host
from mmengine.runner import CheckpointLoader
from torch import Tensor

from beit_mm.errors import UserError
from beit_mm.models.weights import is_scaled
from beit_mm.text import show_start

from .downloads import download_from_hub, download_url, HUB
from .mapping import rename_beit_weights
from .reading import add_config, ChecksumMismatch, MapLocation, read_checkpoint, split_checksum


def load_from_anywhere(filename: str, map_location: MapLocation = None) -> dict:
    """Read a checkpoint from any of MMEngine's schemes.

    Args:
        filename: a path, `file://`, `http(s)://`, `hf-hub:OWNER/NAME`, object storage or one of MMEngine's model names;
            may end in `#sha256=HEX`.
        map_location: as in ``read_checkpoint``.

    Returns:
        What ``read_checkpoint`` returns, with a BEiT's weights under our names (see ``mapping``); with `mmcls://` the
        backbone's weights.

    Raises:
        OSError: If there is no such file, or it cannot be downloaded.
        UserError: If the address, the file or its checksum is not as expected.
    """
    content = rename_beit_weights(read_from_anywhere(filename, map_location), filename)
    weights = content.get('state_dict', content)
    if not isinstance(weights, dict):
        raise UserError(f'{filename}: state_dict must be a dict, got a {type(weights).__name__}')
    for name in weights:
        if not isinstance(name, str):
            raise UserError(f'{filename}: weights must have texts as names, got {show_start(name)}')
    for what, is_odd in (('not finite', _is_not_finite), ('float8 without a scale', is_scaled)):
        if odd := [name for name, value in weights.items() if isinstance(value, Tensor) and is_odd(value)]:
            message = f'{filename}: {len(odd)} of {len(weights)} tensors are {what}, the first is {show_start(odd[0])}'
            print_log(message, logger='current', level=logging.WARNING)
    if isinstance(content.get('meta'), dict):
        content['meta'] = _Content(content['meta'])
    return _Content(content)


class _Content(dict):
    """What a file holds, or its meta data: says so if MMEngine's Runner.resume looks for the entries of a run in vain.

    It is saved as an OrderedDict.
    """

    def __missing__(self, key):
        if key in ('meta', 'epoch', 'iter', 'message_hub'):
            raise UserError(
                'a run resumes from a checkpoint of a training, got weights only; use load_from without resume'
            )
        raise KeyError(key)

    def __reduce__(self):
        return OrderedDict, (), None, None, iter(self.items())


def _is_not_finite(value: Tensor) -> bool:
    has_values = (value.is_floating_point() or value.is_complex()) and not value.is_meta and not is_scaled(value)
    return has_values and not bool(value.isfinite().all())


def read_from_anywhere(filename: str, map_location: MapLocation = None) -> dict:
    """Like ``load_from_anywhere``, with the names that the file has."""
    address, sha256 = split_checksum(filename)
    if address.startswith(HUB):
        return _read_from_hub(address.removeprefix(HUB), map_location, sha256)
    scheme, _, name = address.partition('://')
    mark = f'#sha256={sha256}' if sha256 else ''
    if not name or scheme == 'file':
        return read_checkpoint(name or address, map_location, sha256)
    if scheme in ('http', 'https'):
        return _read_download(address, map_location, sha256)
    if scheme.endswith(('s3', 'petrel')):
        with fileio.get_local_path(address, backend_args=dict(backend='petrel')) as path:
            return read_checkpoint(path, map_location, sha256)
    if scheme in ('torchvision', 'modelzoo'):
        return read_from_anywhere(_look_up(host.get_torchvision_models(), name) + mark, map_location)
    if scheme in ('open-mmlab', 'openmmlab'):
        url = _look_up(host.get_external_models(), host.get_deprecated_model_names().get(name, name))
        return read_from_anywhere((url if '://' in url else f'{host._get_mmengine_home()}/{url}') + mark, map_location)
    if scheme == 'mmcls':
        weights = read_from_anywhere(_look_up(host.get_mmcls_models(), name) + mark, map_location)
        return host._process_mmcls_checkpoint(weights)
    raise UserError(f'a checkpoint must be a local path or a scheme that can be read safely, got {filename}')


def _look_up(models: dict[str, str], name: str) -> str:
    if name not in models:
        raise UserError(f'a checkpoint must be one of the {len(models)} that MMEngine knows, got {name}')
    return models[name]


def _read_download(url: str, map_location: MapLocation, sha256: str | None) -> dict:
    path, sha256, is_new = download_url(url, sha256)
    try:
        return read_checkpoint(path, map_location, sha256)
    except ValueError as error:
        if not (is_new or isinstance(error, ChecksumMismatch)):
            raise
        path.unlink(missing_ok=True)  # perhaps cut short
        raise type(error)(f'{url}: {error}; the file is deleted, the next try downloads it again') from error


def _read_from_hub(name: str, map_location: MapLocation, sha256: str | None) -> dict:
    path, digest = download_from_hub(name)
    try:
        weights = read_checkpoint(path, map_location, sha256 or digest)
    except ChecksumMismatch as error:
        if sha256 and sha256 != digest:
            raise
        path.resolve().unlink(missing_ok=True)
        raise ChecksumMismatch(f'{error}; the file is deleted, the next try downloads it again') from error
    return add_config(weights, path.parent)


for _prefix, _loader in list(CheckpointLoader._schemes.items()):
    if _loader.__module__ == host.__name__:  # a scheme that another package registered is that package's
        CheckpointLoader.register_scheme(_prefix, load_from_anywhere, force=True)
