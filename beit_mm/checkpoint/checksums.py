"""Checksums: of a whole file, if the user gives one, and of every part of a file that torch.save wrote."""

import hashlib
import re
import zipfile
from pathlib import Path

from beit_mm.errors import UserError


class ChecksumMismatch(UserError):
    """A file is damaged, or is another one than was meant."""


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
            for part in parts:
                if part.compress_type != zipfile.ZIP_STORED:
                    raise zipfile.BadZipFile(f'{part.filename} is compressed')
            if any(part.CRC for part in parts) and (damaged := archive.testzip()):  # without checksums, all are 0
                raise zipfile.BadZipFile(f'Bad CRC-32 for file {damaged!r}')
    return True
