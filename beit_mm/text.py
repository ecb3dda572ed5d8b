"""Text from files and arguments, made safe to show."""

import logging
import re
import unicodedata
from contextlib import suppress

HIDDEN = '***'
# A key is secret if its last word is one of these, also in `AWS_SECRET_ACCESS_KEY`, `apiKey` and `access_key_id`.
_WORDS = (
    '(?:token|passw(?:or)?d|passphrase|pwd|secret|credential|cookie|(?:api|access|secret)_?key)s?|key|auth|authorization|'
    'signature'
)
_LAST_WORD = rf'(?:(?<![A-Za-z])|(?<=[a-z])(?=[A-Z])|(?<=api)|(?<=access))(?i:{_WORDS})(?i:_?id)?(?![\w/-])'
_QUOTED = r"""[bru]{0,2}("|')(?:\\.|(?!\3).)*\3"""
_VALUE = rf"""(?:{_QUOTED}|\([^()]*\)|\[[^][]*\]|(?i:bearer|basic|token)\s+[^\s'"]+|[^\s,'"()\[\]{{}}]+)"""
_SECRETS = re.compile(rf"""({_LAST_WORD}\\?["']?\s*[=:]\s*)(?!True\b|False\b|None\b|dict\(|\{{)({_VALUE})""")
_SCHEME = r'\b[A-Za-z][\w+.-]{0,30}://'  # bounded, as long words are searched
_USERS = re.compile(rf"""({_SCHEME})[^\s/'"]*@""")
_QUERIES = re.compile(rf"""({_SCHEME}[^\s'"?#]*)\?[^\s'"#]*""")
_BEARERS = re.compile(r"""(?i)(\bbearer\s+)[^\s'",]+""")
_FLAG = re.compile(rf'--?[\w-]*{_LAST_WORD}$')


def show(text: object) -> str:
    """Text for a terminal or a table: in one line, with control characters and what is no Unicode as escapes."""
    return ''.join(
        char if char.isprintable() or unicodedata.category(char) == 'Zs' else char.encode('unicode_escape').decode()
        for char in str(text)
    )


def show_start(text: object, length: int = 200) -> str:
    """Like `show`, cut to a number of characters."""
    start = str(text)[: length + 1]
    return show(start[:length]) + '...' * (len(start) > length)


def show_cell(value: object) -> str:
    """Like `show`, for a cell of a table that a spreadsheet may open: with a `'` before what would be a formula."""
    text = show(value)
    return f"'{text}" if text.startswith(('=', '+', '-', '@')) else text


def hide_in_addresses(text: str) -> str:
    """Text with `***` for users, passwords and queries in addresses, and for bearer tokens."""
    text = _QUERIES.sub(rf'\1?{HIDDEN}', _USERS.sub(rf'\1{HIDDEN}@', text))
    return _BEARERS.sub(rf'\1{HIDDEN}', text)


def hide_secrets(text: str) -> str:
    """Like `hide_in_addresses`, also for the values of keys such as token, password, secret and key."""
    return _SECRETS.sub(_hide_value, hide_in_addresses(text))


def _hide_value(match: re.Match) -> str:
    key, value, quote = match[1], match[2], match[3] or ''
    is_count = 'token' in key.lower() and value.isdecimal()  # such as num_tokens
    return match[0] if is_count else f'{key}{quote}{HIDDEN}{quote}'


def hide_in_command(words: list[str]) -> list[str]:
    """`hide_secrets` of every word of a command, and of the word after an option such as `--token`."""
    return [
        HIDDEN if index and _FLAG.match(words[index - 1]) else hide_secrets(word) for index, word in enumerate(words)
    ]


def hide_secrets_in_logs() -> None:
    """From now on the log records of this process are without secrets."""
    make = logging.getLogRecordFactory()
    if getattr(make, 'hides_secrets', False):
        return

    def make_without_secrets(*args, **kwargs):
        record = make(*args, **kwargs)
        with suppress(TypeError, ValueError):  # of arguments that do not fit the message; logging reports them
            record.msg, record.args = hide_secrets(record.getMessage()), ()
        return record

    make_without_secrets.hides_secrets = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make_without_secrets)
