"""Checksums: of a whole file, if the user gives one, and of every part of a file that torch.save wrote."""

import hashlib
import re
import zipfile
from pathlib import Path

from beit_mm.errors import UserError

_CHUNK = 1 << 20  # bytes


class ChecksumMismatch(UserError):
    """A file is damaged, or is another one than was meant."""


def split_checksum(address: str) -> tuple[str, str | None]:
    """Split a path or address that may end in `#sha256=HEX`.

    Returns:
        The address without the checksum, and its 64 digits in lower case, or None.

    Raises:
        UserError: If it does not consist of 64 hexadecimal digits.
    """
    plain, mark, digest = address.partition('#sha256=')
    if not mark:
        return address, None
    if not re.fullmatch(r'[0-9a-fA-F]{64}', digest):
        raise UserError(f'#sha256= at the end of a checkpoint must give 64 hexadecimal digits, got {digest[:80]!r}')
    return plain, digest.lower()


def verify_sha256(path: Path, expected: str) -> None:
    """Compare a file with its checksum, 64 hexadecimal digits in lower case.

    Raises:
        ChecksumMismatch: If the file has another one; names both.
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


def verify_parts(path: Path) -> bool:
    """Compare every part of a file that torch.save wrote with its CRC-32, which torch.load does not.

    Files without checksums pass: torch.save's old format, and `torch.serialization.set_crc32_options(False)`.

    Returns:
        Whether the file is in torch.save's zip format.

    Raises:
        zipfile.BadZipFile: If a part is damaged, or is compressed, which torch.save never does.
    """
    with path.open('rb') as file:
        if file.read(4) != b'PK\3\4':
            return False
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
            compressed = [part.filename for part in parts if part.compress_type != zipfile.ZIP_STORED]
            if compressed:
                raise zipfile.BadZipFile(f'{compressed[0]} is compressed')
            if any(part.CRC for part in parts):  # without checksums, torch writes 0 for all
                for part in parts:
                    with archive.open(part) as stream:
                        while stream.read(_CHUNK):
                            pass
    return True
