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


def verify_sha256(path: Path, expected: str | None = None) -> None:
    """Compare a file with the checksum that is expected and with the one in `NAME.sha256` beside it, if it is there.

    Args:
        path: the file.
        expected: 64 hexadecimal digits in lower case; None if nothing is known.

    Raises:
        ChecksumMismatch: If the file has another checksum; gives both.
        ValueError: If the file beside it does not start with a checksum, as sha256sum would write it.
    """
    allowed = [{expected}] if expected else []
    beside = checksum_path(path)
    if beside.is_file():
        allowed.append(_read_digests(beside))
    if not allowed:
        return
    found = sha256_of(path)
    for digests in allowed:
        if found not in digests:
            raise ChecksumMismatch(f'{path} must have the SHA-256 {" or ".join(sorted(digests))}, got {found}')


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, 64 hexadecimal digits in lower case."""
    sha256 = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(_CHUNK):
            sha256.update(chunk)
    return sha256.hexdigest()


def checksum_path(path: Path) -> Path:
    """Where the SHA-256 of a file stands, `NAME.sha256` beside it, as sha256sum writes it."""
    return path.with_name(f'{path.name}.sha256')


def _read_digests(beside: Path) -> set[str]:
    """Checksums of a file as sha256sum writes them: one line, or two while the file is about to be replaced."""
    with beside.open('rb') as file:
        lines = file.read(1000).decode('ascii', 'replace').splitlines() or ['']
    return {_as_digest((line.split() or [''])[0].lstrip('\\'), str(beside)) for line in lines}


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
