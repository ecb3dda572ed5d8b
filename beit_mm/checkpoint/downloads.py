"""Downloads weights from an address, or of a model on the Hugging Face Hub by its name."""

import re
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import torch
from mmengine import dist

from beit_mm.errors import UserError
from beit_mm.text import show_start

HUB = 'hf-hub:'  # as in timm
HUB_FILES = ('model.safetensors', 'pytorch_model.bin')
BY_HAND = 'or download the file by hand and give its path'
_DIGEST = re.compile(r'-(?!20\d{6}$)([0-9a-f]{8,64})$')  # at the end of a name, as torch.hub has it; no date


def download_url(url: str, sha256: str | None) -> tuple[Path, str | None, bool]:
    """Download a file to torch.hub's cache, if it is not there; rank 0 downloads first, as in MMEngine.

    A checksum becomes part of the name, so that files of one name from two servers are kept apart.

    Args:
        url: `http://` or `https://`.
        sha256: checksum that the file must have, 64 hexadecimal digits.

    Returns:
        The file, the checksum to compare it with (if none is given, the first digits of it that end the file's name, if
        there are any), and whether it is new.

    Raises:
        OSError: If it cannot be downloaded.
        UserError: If the address does not end in the name of a file.
    """
    name = Path(urlsplit(url).path)
    if name.name in ('', '..'):
        raise UserError(f'the address of a checkpoint must end in the name of a file, got {url}')
    path = Path(torch.hub.get_dir(), 'checkpoints', f'{name.stem}-{sha256[:16]}{name.suffix}' if sha256 else name.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = False
    for everyone in (False, True):
        if (everyone or dist.is_main_process()) and not path.exists():
            try:
                torch.hub.download_url_to_file(url, str(path))  # under another name, then moved
            except (OSError, HTTPException) as error:
                raise OSError(
                    f'{url} must be a file that can be downloaded, got {error}; try again, {BY_HAND}'
                ) from error
            is_new = True
        dist.barrier()
    digest = _DIGEST.search(name.stem)
    return path, sha256 or (digest and digest[1]), is_new


def download_from_hub(name: str) -> tuple[Path, str | None]:
    """Download a model's weights and `config.json` to huggingface_hub's cache, if they are not there or have changed.

    Args:
        name: OWNER/NAME, or OWNER/NAME@REVISION. Without a network, and with HF_HUB_OFFLINE, the cache is enough.

    Returns:
        The file of weights in a folder for this version of the model, and its SHA-256 as the hub says, if it does.

    Raises:
        OSError: If it cannot be downloaded.
        UserError: If the hub does not have it, or does not give it to this user.
    """
    from huggingface_hub import errors, hf_hub_download  # here: importing beit_mm does not need it

    model, _, revision = name.partition('@')
    first, second = HUB_FILES
    try:
        try:
            path = Path(hf_hub_download(model, first, revision=revision or None))
        except errors.EntryNotFoundError as error:
            is_down = isinstance(error, errors.LocalEntryNotFoundError)  # then one wait for the hub is enough
            try:
                path = Path(hf_hub_download(model, second, revision=revision or None, local_files_only=is_down))
            except errors.EntryNotFoundError:
                raise error from error.__cause__
        with suppress(errors.EntryNotFoundError):
            hf_hub_download(model, 'config.json', revision=path.parent.name)
    except Exception as error:  # also of httpx and of hf_xet, which have no common base
        raise _explain(f'{HUB}{name}', error) from error
    digest = path.resolve().name  # large files lie there under their SHA-256
    return path, digest if re.fullmatch('[0-9a-f]{64}', digest) else None


def _explain(model: str, error: BaseException) -> OSError | UserError:
    from huggingface_hub import constants, errors

    if isinstance(error, errors.LocalEntryNotFoundError):
        error = error.__cause__ or error
    for kind, what in (
        (errors.HFValidationError, f'must be {HUB}OWNER/NAME or {HUB}OWNER/NAME@REVISION'),
        (errors.GatedRepoError, f'is gated: accept its terms on its page and run `hf auth login`, {BY_HAND}'),
        (
            errors.RepositoryNotFoundError,
            'is no public model: correct the name, or run `hf auth login` if it is private',
        ),
        (errors.RevisionNotFoundError, 'has no such revision: name a branch, tag or commit after the @'),
        (errors.EntryNotFoundError, f'has no {" and no ".join(HUB_FILES)}: {BY_HAND[3:]}'),
    ):
        if isinstance(error, kind) and not isinstance(error, errors.LocalEntryNotFoundError):
            return UserError(f'{model} {what}')
    reason = show_start(str(error).strip().split('\n')[0].rstrip('.') or type(error).__name__)
    where = f'to {constants.HF_HUB_CACHE}'
    return OSError(f'{model} must be a model that can be downloaded {where}, got {reason}; try again, {BY_HAND}')
