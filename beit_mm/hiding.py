"""Texts without secrets, for logs, reports and printed configs. The time is proportional to the length of a text."""

import logging
import re
from contextlib import suppress

HIDDEN = '***'
# Keys that end in such a word have secret values, as in `PGPASSWORD`, `AWS_SECRET_ACCESS_KEY`, `apiKey` and `token_2`.
_WORDS = (
    '(?:token|passw(?:or)?d|passphrase|pwd|secret|credential|webhook|bearer|'
    '(?:api|access|secret|private|account|auth|encryption|storage|ssh|signing|license|subscription)[_-]?key)s?'
)
_SHORT_WORDS = '(?:auth|authorization|signature|sig|pass|cookie|jwt|key)s?'  # at the start of a word: not `compass`
_START = '(?:(?<![A-Za-z])|(?<=[a-z])(?=[A-Z]))'
_KEY = rf'(?:(?i:{_WORDS})|{_START}(?i:{_SHORT_WORDS}))(?i:_?(?:id|value|hash|\d+))?(?![\w/-])'
_OPTION = rf'(?<![\w.-])--[\w.-]*?{_KEY}'
_BETWEEN = (
    r"""\\*["']?\]?\s*(?::\s*(?:str|Any)(?:\s*\|\s*None)?\s*=|%3[dD]|=>|[=:]=?|(?<=["']),(?=\s*["']))"""
    r'[ \t]*(?:[>|][+-]?\n\s*)?'
)
_SECRETS = re.compile(rf'(?P<key>{_KEY}){_BETWEEN}|{_OPTION}\s+')
_FLAG = re.compile(rf'--?[\w.-]*?{_KEY}$')
_ASSIGNED = re.compile(rf'[\w.-]*?(?P<key>{_KEY})=')
_STRING = re.compile(
    r"""(\\+["']).*?\1|[bruf]{0,2}('{3}.*?'{3}|"{3}.*?"{3}|(?:'(?:[^\\']|\\.)*'\s*|"(?:[^\\"]|\\.)*"\s*)+|["'][^\n]*)""",
    re.DOTALL,
)
_WORD = re.compile(
    r"""(?:(?i:bearer|basic|token|digest)\s+|[^\s;]{1,200};\s+)*"""
    r"""[^\s,'"]*(?:(?:,(?!["']?[\w.]*["']?[=:])|['"])\w[^\s,'"]*)*"""
)
_ADDRESS = re.compile(r"""\b[A-Za-z][\w+.-]{0,30}://[^\s"'<>]*(?:['"][^\s"'<>@,]*@[^\s"'<>]*)?""")
_USER = re.compile(r'://(?:[^/@]{0,300}@|[^/:@]{0,300}:(?!\d*/)[^@]{0,300}@)')
_PAIR = re.compile(r"""(?<![\w.%+-])[\w.%+-]{1,64}:[^\s@/'",]{1,100}@(?=\w)""")  # user:password@host
_BEARER = re.compile(r"""(?i)(\bbearer\s+)(?!tokens?\b)[^\s'",]+""")
_KNOWN = re.compile(  # tokens of services, and keys
    r'\b(?:hf_|gh[opsur]_|github_pat_|glpat-|sk-|xox[abeoprs]-|A[KS]IA|AIza|ya29\.|npm_|pypi-|(?<![\w-])eyJ[\w-]+\.eyJ)[\w.-]{12,}'
    r'|(?<=PRIVATE KEY-----)[^-]+'
)
_ORDINARY = re.compile(r'(?i)(?:num|cls|class|mask|masked|pad|bos|eos|sep|unk|image|visual|patch|extra|dist)[_ ]?$')
_NOT_SECRET = re.compile('True|False|None|true|false|null')
_CODE = re.compile(r"""(?:self\.|[A-Za-z_][\w.]*[(\[])[^'"\n]{0,200}(?:\n|$)|(?:torch\.)?Tensor\b""")
_NUMBERS = re.compile(r'[([][\s\d.,()[\]e+-]*[)\]]|[\d.e+-]{1,12}')
_RANDOM = re.compile(r"""['"]?(?=[A-Za-z+/=_-]*\d)(?=[\d+/=_-]*[A-Za-z])[\w+/=-]{16,}['"]?""")


def hide_secrets(text: str) -> str:
    """Text with `***` for users, passwords and queries in addresses, for tokens of well-known forms, and for the values
    of keys such as token, password, secret and api_key. Numbers of tokens, and `key` with an ordinary value, stay.
    """
    text = _PAIR.sub(f'{HIDDEN}@', _ADDRESS.sub(_hide_in_address, text))
    text = _KNOWN.sub(HIDDEN, _BEARER.sub(rf'\1{HIDDEN}', text))
    pieces, end = [], 0
    for match in _SECRETS.finditer(text):
        if match.start() < end:
            continue
        start = match.end()
        value = _value_at(text, start)
        if _is_secret(text, match, value):
            mark = re.match(r'(?:[bruf]{0,2}(["\'])|(\\+["\']))?', value[:20])
            quote = mark[1] or mark[2] or '' if mark else ''
            pieces += [text[end:start], quote, HIDDEN, quote]
            end = start + len(value)
    return ''.join([*pieces, text[end:]])


def hide_in_command(words: list[str]) -> list[str]:
    """`hide_secrets` of every word of a command, and of the word after an option such as `--token`."""
    return [_hide_in_word(word, before) for word, before in zip(words, ['', *words])]


def _hide_in_word(word: str, before: str) -> str:
    if _FLAG.match(before):
        return HIDDEN
    match = _ASSIGNED.match(word)
    return (
        word[: match.end()] + HIDDEN if match and _is_secret(word, match, word[match.end() :]) else hide_secrets(word)
    )


def _hide_in_address(match: re.Match) -> str:
    address, mark, rest = _USER.sub(f'://{HIDDEN}@', match[0]).partition('?')
    _, part_mark, part = rest.partition('#')
    return f'{address}?{HIDDEN}{part_mark}{part}' if mark else address


def _is_secret(text: str, match: re.Match, value: str) -> bool:
    key = match['key'] or ''
    if not value or _NOT_SECRET.fullmatch(value) or value.strip('"\'') == HIDDEN:
        return False
    is_list = text[match.end() - 1 : match.end()] in ', ' and ',' in match[0]  # of which the key is an item
    if key.lower() in ('key', 'keys'):  # of a dict, a file, a result
        return _RANDOM.fullmatch(value) is not None
    if not re.match('(?i)tokens?|pass(?![wp])', key):
        return True
    if is_list and not _RANDOM.fullmatch(value):
        return False
    before = text[max(0, match.start('key') - 12) : match.start('key')]
    return not (len(value) < 2 or _NUMBERS.fullmatch(value) or _CODE.match(value) or _ORDINARY.search(before))


def _value_at(text: str, start: int) -> str:
    """A text in quotes, brackets with all that is in them, or a word; all of the rest if brackets stay open."""
    if string := _STRING.match(text, start):
        return string[0].rstrip()
    if not text.startswith(('(', '[', '{', 'dict('), start):
        word = _WORD.match(text, start)[0]  # type: ignore[index]
        return word if word.endswith(')') and '(' in word else word.rstrip(')]}')
    depth, quote, index = 0, '', start
    while index < len(text):
        char = text[index]
        if quote:
            index += char == '\\'
            quote = '' if char == quote else quote
        elif char in '"\'':
            quote = char
        else:
            depth += (char in '([{') - (char in ')]}')
            if char in ')]}' and not depth:
                break
        index += 1
    return text[start : index + 1]


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
