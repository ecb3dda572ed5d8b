"""Checksums: of a whole file where one is known, and of every part of a file that torch.save wrote."""

import hashlib
import re
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

_CHUNK = 1 << 20  # bytes


class ChecksumMismatch(ValueError):
    """A file is not the one that was meant, or is damaged."""


def _as_digest(text: str, where: str) -> str:
    if not re.fullmatch(r'[0-9a-fA-F]{64}', text):
        raise ValueError(f'{where} must give 64 hexadecimal digits, got {text[:80]!r}')
    return text.lower()


def split_checksum(address: str) -> tuple[str, str | None]:
    """Take the checksum off a path or an address.

    Args:
        address: may end in `#sha256=HEX`; with http(s), `sha256=HEX` may stand in the query instead.

    Returns:
        The address without it, and its 64 digits in lower case, None if there are none.

    Raises:
        ValueError: If it does not consist of 64 hexadecimal digits.
    """
    plain, mark, digest = address.partition('#sha256=')
    if not mark and address.startswith(('http://', 'https://')):
        parts = urlsplit(address)
        words = parts.query.split('&')
        mark = next((word for word in words if word.startswith('sha256=')), '')
        if mark:
            digest = mark.partition('=')[2]
            plain = parts._replace(query='&'.join(word for word in words if word != mark)).geturl()
    return (plain, _as_digest(digest, 'sha256= at the end of a checkpoint')) if mark else (address, None)


def verify_sha256(path: Path, expected: str) -> None:
    """Compare a file with its checksum, 64 hexadecimal digits in lower case.

    Raises:
        ChecksumMismatch: If the file has another one; gives both.
    """
    digest = sha256_of(path)
    if digest != expected:
        raise ChecksumMismatch(f'{path} must have the SHA-256 {expected}, got {digest}')


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, 64 hexadecimal digits in lower case."""
    sha256 = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(_CHUNK):
            sha256.update(chunk)
    return sha256.hexdigest()


def verify_parts(path: Path) -> None:
    """Compare every part of a file that torch.save wrote with its CRC-32, which torch.load does not.

    Files without checksums (`torch.serialization.set_crc32_options(False)`, torch.save's old format) pass.

    Raises:
        zipfile.BadZipFile: If a part is damaged; names it.
    """
    with path.open('rb') as file:
        if file.read(4) != b'PK\3\4':
            return
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
            if any(part.CRC for part in parts):  # without checksums, torch writes 0 for all
                for part in parts:
                    with archive.open(part) as stream:
                        while stream.read(_CHUNK):
                            pass
